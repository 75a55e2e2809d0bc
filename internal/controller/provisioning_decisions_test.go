// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// hasNoToken waits until a client's Secret holds no token of the payment API.
func (w *tenant) hasNoToken(secret string) {
	w.t.Helper()
	eventually(w.t, func() error {
		if tokenIn(w.t, w.shop, secret, "payment-api") != "" {
			return fmt.Errorf("the token is still in Secret %q", secret)
		}
		return nil
	})
}

// hasNoScopes waits until no role has scopes of an API.
func (w *tenant) hasNoScopes(api *v1alpha1.APIResource) {
	w.t.Helper()
	eventually(w.t, func() error {
		for _, r := range w.logto.Snapshot().Roles {
			if len(r.Scopes[string(api.Spec.Identifier)]) > 0 {
				return fmt.Errorf("role %q has the scopes %q", r.Name, r.Scopes)
			}
		}
		return nil
	})
}

// TestAdoptionEnds takes an API out of the list of those that may be taken over:
// what it gave is withdrawn, in the cluster and at the server, and it gives
// nothing to a client that comes later.
func TestAdoptionEnds(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	if _, err := w.logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write"); err != nil {
		t.Fatal(err)
	}
	listed := []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.payments)}}
	as.Spec.Provisioning.Adoption.APIResources = listed
	create(t, w.management(), as, api, cart)
	isReady(t, cart)

	change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.Adoption.APIResources = nil })
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	provisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	w.hasNoToken("cart-token")
	w.hasNoScopes(api)
	late := w.cart()
	late.Name = "late"
	create(t, late)
	hasCondition(t, late, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	w.hasNoToken("late-token")
	w.hasNoScopes(api)

	change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.Adoption.APIResources = listed })
	isReady(t, cart)
	isReady(t, late)
}

// TestNamespaceIsNoLongerAllowed takes a client's namespace out of those that may
// use a server: its token, application and role go, also where the server could
// not be asked at first and the client is to be retained.
func TestNamespaceIsNoLongerAllowed(t *testing.T) {
	w := newTenant(t)
	startOperator(t, func(o *Options) { o.DeletionTimeout = time.Second })
	cluster, secret := w.clusterServer(w.payments, w.shop)
	api, cart, kept := w.api(), w.cart(), w.cart()
	api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
		Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name),
	}
	kept.Name, kept.Spec.DeletionPolicy = "kept", v1alpha1.DeletionRetain
	create(t, secret, cluster, api, cart, kept)
	isReady(t, cart)
	isReady(t, kept)
	w.logto.SetDown(true)
	change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) {
		c.Spec.AllowedNamespaces.Names = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.payments)}
	})
	for _, c := range []*v1alpha1.M2MClient{cart, kept} {
		hasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
		w.hasNoToken(c.Name + "-token")
	}
	w.logto.SetDown(false)
	eventually(t, func() error {
		s := w.logto.Snapshot()
		for _, r := range s.Roles {
			if strings.Contains(r.Name, w.shop) {
				return fmt.Errorf("role %q is still there", r.Name)
			}
		}
		for _, a := range s.Applications {
			if strings.Contains(a.Name, w.shop+"/cart") || strings.Contains(a.Name, w.shop) && len(a.Secrets) > 0 {
				return fmt.Errorf("application %q is still there, with the secrets %q", a.Name, a.Secrets)
			}
		}
		return nil
	})
	if n := w.applicationsOf(w.shop + "/kept"); n != 1 {
		t.Errorf("%d applications of the client that is to be retained", n)
	}
	eventually(t, func() error {
		for _, c := range []*v1alpha1.M2MClient{cart, kept} {
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
				return err
			}
			if len(c.Finalizers) > 0 || c.Status.Provisioning.Server.Name != "" {
				return fmt.Errorf("%s has the finalizers %q and is provisioned at %q", c.Name, c.Finalizers, c.Status.Provisioning.Server.Name)
			}
		}
		return nil
	})
}

// TestClientWithoutAnAPIHasNoAccess deletes the only API of a client, which stays
// at the server: the client's role loses its scopes.
func TestClientWithoutAnAPIHasNoAccess(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	api.Spec.DeletionPolicy = v1alpha1.DeletionRetain
	create(t, w.management(), as, api, cart)
	isReady(t, cart)
	remove(t, api)
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotFound)
	w.hasNoScopes(api)
	if n := w.applicationsOf(w.shop); n != 1 {
		t.Errorf("%d applications of the client", n)
	}
}
