// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// TestRegistrationStory has a client registered at a server that knows neither
// it nor its API, changes its access, replaces its secret, and deletes it.
func TestRegistrationStory(t *testing.T) {
	initial := strings.ReplaceAll(newSecret(), " ", "-")
	w := newWorld(t, func(o *oidc.Options) {
		o.DynamicRegistration = &oidc.DynamicRegistration{InitialAccessToken: initial, RotateTokens: true}
	})
	t.Cleanup(func() { letGo(t, w.shop, w.payments) })
	w.as.RemoveClient(cartID)
	w.as.RemoveResource(paymentAPI)
	haveOperatorNamespace(t)
	startOperator(t)

	as, api, cart := w.server(w.payments), w.api(), w.cart()
	as.Spec.Provisioning = v1alpha1.Provisioning{ResyncInterval: "10s", DynamicRegistration: v1alpha1.DynamicRegistrationProvisioning{
		InitialAccessTokenSecretRef: v1alpha1.SecretKeyReference{Name: "initial"},
	}}
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	cart.Spec.CredentialRotation.Overlap = "0s"
	cart.Spec.Access[0].Parameters = []v1alpha1.RequestParameter{{Name: "organization_id", Value: "shop"}}
	create(t, as, api, cart, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "initial", Namespace: w.payments},
		StringData: map[string]string{v1alpha1.InitialAccessTokenKey: initial},
	})
	registered := func(scopes ...string) (id string) {
		t.Helper()
		eventually(t, func() error {
			clients := w.as.RegisteredClients()
			if len(clients) != 1 {
				return fmt.Errorf("%d clients are registered", len(clients))
			}
			id = clients[0].ID
			if diff := cmp.Diff(scopes, clients[0].Scopes); diff != "" {
				return fmt.Errorf("the registered scopes (-want +got):\n%s", diff)
			}
			return nil
		})
		return id
	}
	isReady(t, cart)
	isReady(t, as)
	provisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonNotApplicable)
	hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	first := registered("payments:write")

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
	})
	if id := registered("payments:read", "payments:write"); id != first {
		t.Error("the client was registered anew for a scope")
	}
	isReady(t, cart)

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "now"}
	})
	told(t, cart, v1alpha1.ReasonCredentialRotated, "new client secret")
	if id := registered("payments:read", "payments:write"); id == first {
		t.Error("the client was not registered anew")
	}
	isReady(t, cart)
	for _, r := range w.as.TokenRequests() { // those that try a new secret, too
		if diff := cmp.Diff(map[string]string{"organization_id": "shop"}, r.Parameters); diff != "" {
			t.Errorf("a token request had the parameters (-want +got):\n%s", diff)
		}
	}

	remove(t, cart)
	isGone(t, cart)
	if n := len(w.as.RegisteredClients()); n != 0 {
		t.Errorf("%d clients are still registered", n)
	}
}

// TestRegistrationWhoseAnswerIsLost cannot find again what it registered: it is
// told, and listed at the server when the client is gone.
func TestRegistrationWhoseAnswerIsLost(t *testing.T) {
	w := newWorld(t, func(o *oidc.Options) { o.DynamicRegistration = &oidc.DynamicRegistration{} })
	t.Cleanup(func() { letGo(t, w.shop, w.payments) })
	w.as.RemoveClient(cartID)
	w.as.AddFault(oidc.Registration, &oidc.Fault{Cut: true, Times: 1})
	haveOperatorNamespace(t)
	startOperator(t)
	as, api, cart := w.server(w.payments), w.api(), w.cart()
	as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	create(t, as, api, cart)
	isReady(t, cart)
	const lost = "its answer was lost"
	told(t, cart, v1alpha1.ReasonLeftBehind, lost)
	if st := cart.Status.Provisioning.LeftBehind; len(st) != 1 || !strings.Contains(st[0], lost) {
		t.Errorf("the client's status lists %q", st)
	}
	remove(t, cart)
	isGone(t, cart)
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(as), as); err != nil {
			return err
		}
		if l := as.Status.LeftBehind; len(l) != 1 || l[0].Kind != "M2MClient" || l[0].Name != "cart" || !strings.Contains(l[0].What, lost) {
			return fmt.Errorf("the server lists as left behind %+v", l)
		}
		return nil
	})
	if n := len(w.as.RegisteredClients()); n != 1 {
		t.Errorf("%d clients are registered, want the one that was lost", n)
	}
}
