// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/bundle"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
)

// listing notes whether a list waits for the operator's own writes.
type listing struct {
	client.Client
	lists int
	waits bool
}

func (l *listing) List(_ context.Context, _ client.ObjectList, opts ...client.ListOption) error {
	l.lists++
	l.waits = l.waits || !(&client.ListOptions{}).ApplyOptions(opts).DisableReadYourWritesConsistency
	return nil
}

// TestListsWaitForNoWrites: a list that waits for the operator's own writes waits for
// the writes of all tenants, and one tenant can cause many.
func TestListsWaitForNoWrites(t *testing.T) {
	api := types.NamespacedName{Namespace: "payments", Name: "payment-api"}
	for name, list := range map[string]func(context.Context, client.Client) error{
		"namespaces that verify": func(ctx context.Context, c client.Client) error {
			_, err := verification.NamespacesThatVerify(ctx, c, api)
			return err
		},
		"workloads that need a bundle": func(ctx context.Context, c client.Client) error {
			_, err := (&bundle.Reconciler{Config: bundle.Config{Client: c}}).Needed(ctx, verification.Request{API: api, Namespace: "shop"})
			return err
		},
		"tokens signed with a key": func(ctx context.Context, c client.Client) error {
			_, err := (&bundle.Reconciler{Config: bundle.Config{Client: c}}).Used(ctx, &v1alpha1.APIResource{}, "key")
			return err
		},
		"tokens of a server": func(ctx context.Context, c client.Client) error {
			return (&authserver.Reconciler{Config: authserver.Config{Client: c}}).EachToken(ctx, rules.ServerKey{}, func(*v1alpha1.TokenStatus) {})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := &listing{}
			if err := list(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			if l.lists == 0 || l.waits {
				t.Errorf("at least one of %d lists waits", l.lists)
			}
		})
	}
}
