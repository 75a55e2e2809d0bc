// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

func TestUsersOf(t *testing.T) {
	with := func(c *v1alpha1.M2MClient, key string, expires time.Time, ready metav1.ConditionStatus, reason string) *v1alpha1.M2MClient {
		status := v1alpha1.TokenStatus{Key: v1alpha1.AccessKey(key)}
		if !expires.IsZero() {
			status.ExpiresAt = &metav1.Time{Time: expires}
		}
		c.Status.Tokens = []v1alpha1.TokenStatus{{Key: "another", ExpiresAt: &metav1.Time{Time: noon.Add(9 * time.Hour)}}, status}
		c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: ready, Reason: reason}}
		return c
	}
	elsewhere := cart("till", "read")
	elsewhere.Spec.Access[0].APIResourceRef.Name = "stock-api"
	inv := &inventory.Inventory{}
	for _, r := range []inventory.Resource{inventory.Servers, inventory.ClusterServers, inventory.APIs, inventory.Clients, inventory.Namespaces} {
		inv.Read(r, "")
	}
	inv.Add(api(grant("shop", nil, "read"), grant("billing", nil, "write")))
	for _, ns := range []string{"payments", "shop", "till", "stock"} {
		inv.Add(server(ns))
	}
	inv.Add(with(cart("shop", "read"), "payment-api", noon.Add(time.Hour), metav1.ConditionTrue, v1alpha1.ReasonReady))
	inv.Add(with(cart("stock", "write"), "payment-api", time.Time{}, metav1.ConditionFalse, v1alpha1.ReasonNotGranted))
	inv.Add(elsewhere)

	got, err := UsersOf(t.Context(), inv, types.NamespacedName{Namespace: "payments", Name: "payment-api"})
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		client   string
		verdict  Verdict
		expires  string
		notReady string
	}
	var rows []row
	for _, u := range got.Users {
		r := row{u.Client, u.Verdict, "", u.NotReady}
		if u.ExpiresAt != nil {
			r.expires = u.ExpiresAt.Format(time.RFC3339)
		}
		rows = append(rows, r)
	}
	want := []row{
		{"shop/cart", Allowed, "2026-05-01T13:00:00Z", ""},
		{"stock/cart", Denied, "", v1alpha1.ReasonNotGranted},
	}
	if diff := cmp.Diff(want, rows, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(got.UnusedGrants) != 1 || got.UnusedGrants[0].Lines[0].Path != "spec.grants[1]" {
		t.Errorf("unused grants: %+v", got.UnusedGrants)
	}
}
