// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// Users are the clients of an API.
type Users struct {
	API   string `json:"api"` // namespace/name
	Users []User `json:"users"`
	// UnusedGrants allow something that no client asks for.
	UnusedGrants []Grant           `json:"unusedGrants,omitempty"`
	Missing      []inventory.Right `json:"missingRights,omitempty"`
}

// User is a client's access to an API, and the token that it has.
type User struct {
	Access
	// ExpiresAt is until when the client has a token for the API; nil if it has none.
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// NotReady is why the client is not ready, as a condition's reason; empty if it is.
	NotReady string `json:"notReady,omitempty"`
}

// UsersOf returns the clients that name an API, with what the rules say of each.
func UsersOf(ctx context.Context, inv *inventory.Inventory, api types.NamespacedName) (Users, error) {
	u := Users{API: api.String(), Users: []User{}}
	all, err := All(ctx, inv)
	if err != nil {
		return u, err
	}
	for _, a := range all {
		if a.API != u.API {
			continue
		}
		i := slices.IndexFunc(inv.Clients, func(c *v1alpha1.M2MClient) bool { return client.ObjectKeyFromObject(c).String() == a.Client })
		u.Users = append(u.Users, userOf(a, inv.Clients[i]))
		u.Missing = append(u.Missing, a.Missing...)
	}
	for _, g := range Unused(inv, all) {
		if g.API == u.API {
			u.UnusedGrants = append(u.UnusedGrants, g)
		}
	}
	return u, nil
}

func userOf(a Access, c *v1alpha1.M2MClient) User {
	u := User{Access: a}
	for i := range c.Status.Tokens {
		if t := &c.Status.Tokens[i]; string(t.Key) == a.Key && t.ExpiresAt != nil {
			u.ExpiresAt = t.ExpiresAt
		}
	}
	if ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); ready == nil {
		u.NotReady = v1alpha1.ReasonPending
	} else if ready.Status != metav1.ConditionTrue {
		u.NotReady = ready.Reason
	}
	return u
}
