// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestRegistrationStory has a client registered at a server that knows neither the
// client nor its API, changes its access, replaces its secret, and deletes it.
func TestRegistrationStory(t *testing.T) {
	initial := strings.ReplaceAll(operator.NewSecret(), " ", "-")
	w := operator.NewWorld(t, func(o *oidc.Options) {
		o.DynamicRegistration = &oidc.DynamicRegistration{InitialAccessToken: initial, RotateTokens: true}
	})
	t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
	w.AS.RemoveClient(operator.CartID)
	w.AS.RemoveResource(operator.PaymentAPI)
	operator.CreateNamespace(t)
	operator.Start(t)

	as, api, cart := w.Server(w.Payments), w.API(), w.Cart()
	as.Spec.Provisioning = v1alpha1.Provisioning{ResyncInterval: "10s", DynamicRegistration: v1alpha1.DynamicRegistrationProvisioning{
		InitialAccessTokenSecretRef: v1alpha1.SecretKeyReference{Name: "initial"},
	}}
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	cart.Spec.CredentialRotation.Overlap = "0s"
	cart.Spec.Access[0].Parameters = []v1alpha1.RequestParameter{{Name: "organization_id", Value: "shop"}}
	operator.Create(t, as, api, cart, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "initial", Namespace: w.Payments},
		StringData: map[string]string{v1alpha1.InitialAccessTokenKey: initial},
	})
	registered := func(scopes ...string) (id string) {
		t.Helper()
		operator.Eventually(t, func() error {
			clients := w.AS.RegisteredClients()
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
	operator.IsReady(t, cart)
	operator.IsReady(t, as)
	operator.ProvisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonNotApplicable)
	operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	first := registered("payments:write")

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
	})
	if id := registered("payments:read", "payments:write"); id != first {
		t.Error("the client was registered again for a scope")
	}
	operator.IsReady(t, cart)

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "now"}
	})
	operator.Told(t, cart, v1alpha1.ReasonCredentialRotated, "new client secret")
	if id := registered("payments:read", "payments:write"); id == first {
		t.Error("the client was not registered again")
	}
	operator.IsReady(t, cart)
	if got := cart.Status.Provisioning.LastHandledRotation; got != "now" {
		t.Errorf("the status says that the rotation %q was handled", got)
	}
	for _, r := range w.AS.TokenRequests() { // including those that try a new secret
		if diff := cmp.Diff(map[string]string{"organization_id": "shop"}, r.Parameters); diff != "" {
			t.Errorf("a token request had the parameters (-want +got):\n%s", diff)
		}
	}

	operator.Remove(t, cart)
	operator.IsGone(t, cart)
	if n := len(w.AS.RegisteredClients()); n != 0 {
		t.Errorf("%d clients are still registered", n)
	}
}

// TestNothingStaysForWantOfAnInitialAccessToken: an operator that never read it deletes what another one registered with it.
func TestNothingStaysForWantOfAnInitialAccessToken(t *testing.T) {
	initial := strings.ReplaceAll(operator.NewSecret(), " ", "-")
	w := operator.NewWorld(t, func(o *oidc.Options) {
		o.DynamicRegistration = &oidc.DynamicRegistration{InitialAccessToken: initial}
	})
	t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
	w.AS.RemoveClient(operator.CartID)
	operator.CreateNamespace(t)
	as, api, cart := w.Server(w.Payments), w.API(), w.Cart()
	as.Spec.Provisioning.DynamicRegistration.InitialAccessTokenSecretRef.Name = "initial"
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "initial", Namespace: w.Payments},
		StringData: map[string]string{v1alpha1.InitialAccessTokenKey: initial},
	}
	operator.Create(t, as, api, cart, secret)
	op := operator.Start(t)
	operator.IsReady(t, cart)
	op.Stop()

	operator.Remove(t, secret)
	operator.Remove(t, cart)
	operator.Start(t)
	operator.IsGone(t, cart)
	if n := len(w.AS.RegisteredClients()); n != 0 {
		t.Errorf("%d clients are still registered", n)
	}
}

// TestRegistrationWhoseAnswerIsLost: the operator cannot find such a registration
// again. An event reports it, and the server's status lists it when the client is
// gone.
func TestRegistrationWhoseAnswerIsLost(t *testing.T) {
	w := operator.NewWorld(t, func(o *oidc.Options) { o.DynamicRegistration = &oidc.DynamicRegistration{} })
	t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
	w.AS.RemoveClient(operator.CartID)
	w.AS.AddFault(oidc.Registration, &oidc.Fault{Cut: true, Times: 1})
	operator.CreateNamespace(t)
	operator.Start(t)
	as, api, cart := w.Server(w.Payments), w.API(), w.Cart()
	as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	operator.Create(t, as, api, cart)
	operator.IsReady(t, cart)
	const lost = "its answer was lost"
	operator.Told(t, cart, v1alpha1.ReasonLeftBehind, lost)
	if st := cart.Status.Provisioning.LeftBehind; len(st) != 1 || !strings.Contains(st[0], lost) {
		t.Errorf("the client's status lists %q", st)
	}
	operator.Remove(t, cart)
	operator.IsGone(t, cart)
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(as), as); err != nil {
			return err
		}
		if l := as.Status.LeftBehind; len(l) != 1 || l[0].Kind != "M2MClient" || l[0].Name != "cart" || !strings.Contains(l[0].What, lost) {
			return fmt.Errorf("the server lists as left behind %+v", l)
		}
		return nil
	})
	if n := len(w.AS.RegisteredClients()); n != 1 {
		t.Errorf("%d clients are registered, want the one that was lost", n)
	}
}

// TestARegistrationIsStored: the API server fails, or its answer is lost, when the
// operator stores a client that it has just registered. It tries again, and registers
// no other.
func TestARegistrationIsStored(t *testing.T) {
	for name, executes := range map[string]bool{"the write fails": false, "its answer is lost": true} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t, func(o *oidc.Options) { o.DynamicRegistration = &oidc.DynamicRegistration{} })
			t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
			w.AS.RemoveClient(operator.CartID)
			operator.CreateNamespace(t)
			as, api, cart := w.Server(w.Payments), w.API(), w.Cart()
			as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
			cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
			var failed atomic.Bool
			cfg, _ := operator.Broken(http.MethodPut, "/secrets/"+credentialSecretOf(cart).Name, 1000, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
				if len(w.AS.RegisteredClients()) == 0 || failed.Swap(true) {
					return next.RoundTrip(req)
				}
				broken := errors.New("the connection broke")
				if executes {
					resp, err := next.RoundTrip(req)
					if err != nil {
						return nil, err
					}
					return nil, errors.Join(broken, resp.Body.Close())
				}
				return nil, broken
			})
			operator.StartOver(t, cfg)
			operator.Create(t, as, api, cart)
			operator.IsReady(t, cart)
			if !failed.Load() {
				t.Fatal("no write failed")
			}
			if n := len(w.AS.RegisteredClients()); n != 1 || len(cart.Status.Provisioning.LeftBehind) > 0 {
				t.Errorf("%d clients are registered, and the status lists %q", n, cart.Status.Provisioning.LeftBehind)
			}
		})
	}
}
