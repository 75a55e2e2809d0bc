// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// hasNoScopes waits until no role has scopes of an API.
func hasNoScopes(w *operator.Tenant, api *v1alpha1.APIResource) {
	w.T.Helper()
	operator.Eventually(w.T, func() error {
		for _, r := range w.Logto.Snapshot().Roles {
			if len(r.Scopes[string(api.Spec.Identifier)]) > 0 {
				return fmt.Errorf("role %q has the scopes %q", r.Name, r.Scopes)
			}
		}
		return nil
	})
}

// TestAdoptionEnds removes an API from the list of those that may be adopted. Access
// to it is withdrawn in the cluster and at the server, and a later client gets none.
func TestAdoptionEnds(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	if _, err := w.Logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write"); err != nil {
		t.Fatal(err)
	}
	listed := []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.Payments)}}
	as.Spec.Provisioning.Adoption.APIResources = listed
	operator.Create(t, w.Management(), as, api, cart)
	operator.IsReady(t, cart)

	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.Adoption.APIResources = nil })
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	operator.ProvisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	w.HasNoToken("cart-token")
	hasNoScopes(w, api)
	late := w.Cart()
	late.Name = "late"
	operator.Create(t, late)
	operator.HasCondition(t, late, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	w.HasNoToken("late-token")
	hasNoScopes(w, api)

	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.Adoption.APIResources = listed })
	operator.IsReady(t, cart)
	operator.IsReady(t, late)
}

// TestNamespaceIsNoLongerAllowed removes a client's namespace from those that may use
// a server. The token, application and role are deleted, even if the server was down
// at first and the client's policy is Retain.
func TestNamespaceIsNoLongerAllowed(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, func(o *controller.Options) { o.DeletionTimeout = time.Second })
	cluster, secret := w.ClusterServer(w.Payments, w.Shop)
	api, cart, kept := w.API(), w.Cart(), w.Cart()
	api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
		Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name),
	}
	kept.Name, kept.Spec.DeletionPolicy = "kept", v1alpha1.DeletionRetain
	operator.Create(t, secret, cluster, api, cart, kept)
	operator.IsReady(t, cart)
	operator.IsReady(t, kept)
	w.Logto.SetDown(true)
	operator.Change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) {
		c.Spec.AllowedNamespaces.Names = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.Payments)}
	})
	for _, c := range []*v1alpha1.M2MClient{cart, kept} {
		operator.HasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
		w.HasNoToken(c.Name + "-token")
	}
	w.Logto.SetDown(false)
	operator.Eventually(t, func() error {
		s := w.Logto.Snapshot()
		for _, r := range s.Roles {
			if strings.Contains(r.Name, w.Shop) {
				return fmt.Errorf("role %q is still there", r.Name)
			}
		}
		for _, a := range s.Applications {
			if strings.Contains(a.Name, w.Shop+"/cart") || strings.Contains(a.Name, w.Shop) && len(a.Secrets) > 0 {
				return fmt.Errorf("application %q is still there, with the secrets %q", a.Name, a.Secrets)
			}
		}
		return nil
	})
	if n := w.ApplicationsOf(w.Shop + "/kept"); n != 1 {
		t.Errorf("%d applications of the client that is to be retained", n)
	}
	operator.Eventually(t, func() error {
		for _, c := range []*v1alpha1.M2MClient{cart, kept} {
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
				return err
			}
			if len(c.Finalizers) > 0 || c.Status.Provisioning.Server.Name != "" {
				return fmt.Errorf("%s has the finalizers %q and is provisioned at %q", c.Name, c.Finalizers, c.Status.Provisioning.Server.Name)
			}
		}
		return nil
	})
}

// TestClientWithoutAnAPIHasNoAccess deletes the only API of a client, which stays at
// the server. The client's role loses its scopes.
func TestClientWithoutAnAPIHasNoAccess(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	api.Spec.DeletionPolicy = v1alpha1.DeletionRetain
	operator.Create(t, w.Management(), as, api, cart)
	operator.IsReady(t, cart)
	operator.Remove(t, api)
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotFound)
	hasNoScopes(w, api)
	if n := w.ApplicationsOf(w.Shop); n != 1 {
		t.Errorf("%d applications of the client", n)
	}
}
