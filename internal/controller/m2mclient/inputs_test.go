// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// credentialsOf returns the Secret with the cart application's credentials.
func credentialsOf(w *operator.World, t *testing.T) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	if err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: w.Shop, Name: "cart-credentials"}, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// rotateSecret gives the cart application another secret, at the authorization server
// first: from then on the old one is worthless.
func rotateSecret(w *operator.World, t *testing.T) string {
	t.Helper()
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	s := credentialsOf(w, t)
	operator.Change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	return secret
}

// TestChangedInputsMintOnce changes an input of a token. One request replaces the
// token, and a restart sends none. Changes that do not matter to the token cause no
// request.
func TestChangedInputsMintOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*testing.T, *operator.World, *v1alpha1.M2MClient)
		want   *oidc.Request // nil: none
	}{
		"the secret is rotated": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				rotateSecret(w, t)
			},
			want: &oidc.Request{ClientID: operator.CartID, Resource: operator.PaymentAPI, Scope: "payments:write"},
		},
		"a label on the credentials changes": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				s := credentialsOf(w, t)
				operator.Change(t, s, func(s *corev1.Secret) { s.Labels = map[string]string{"rotated": "never"} })
			},
		},
		"another key of the credentials changes": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				s := credentialsOf(w, t)
				operator.Change(t, s, func(s *corev1.Secret) { s.Data["comment"] = []byte("new") })
			},
		},
		"the credentials are written again unchanged": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				s := credentialsOf(w, t)
				operator.Remove(t, s)
				s.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}
				operator.Create(t, s)
			},
		},
		"the secret gets a newline at its end": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				s := credentialsOf(w, t)
				operator.Change(t, s, func(s *corev1.Secret) {
					s.Data[v1alpha1.ClientSecretKey] = append(s.Data[v1alpha1.ClientSecretKey], '\n')
				})
			},
		},
		"other scopes": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) {
					c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:write", "payments:read"}
				})
			},
			want: &oidc.Request{ClientID: operator.CartID, Resource: operator.PaymentAPI, Scope: "payments:read payments:write"},
		},
		"no scopes": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = nil })
			},
			want: &oidc.Request{ClientID: operator.CartID, Resource: operator.PaymentAPI},
		},
		"another parameter names the API": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				server := w.Server(w.Shop)
				operator.Change(t, server, func(s *v1alpha1.AuthorizationServer) { s.Spec.AudienceParameter = v1alpha1.AudienceParameterAudience })
			},
			want: &oidc.Request{ClientID: operator.CartID, Audience: operator.PaymentAPI, Scope: "payments:write"},
		},
		"no parameter names the API": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				server := w.Server(w.Shop)
				operator.Change(t, server, func(s *v1alpha1.AuthorizationServer) { s.Spec.AudienceParameter = v1alpha1.AudienceParameterNone })
			},
			want: &oidc.Request{ClientID: operator.CartID, Scope: "payments:write"},
		},
		"another client identifier in the spec": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientID = "till-app" })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: operator.PaymentAPI, Scope: "payments:write"},
		},
		"another client identifier in the Secret": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				s := credentialsOf(w, t)
				operator.Change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientIDKey] = []byte("till-app") })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: operator.PaymentAPI, Scope: "payments:write"},
		},
		"an additional parameter": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) {
					c.Spec.Access[0].Parameters = []v1alpha1.RequestParameter{{Name: "organization_id", Value: "shop"}, {Name: "audience", Value: "payments"}}
				})
			},
			want: &oidc.Request{ClientID: operator.CartID, Resource: operator.PaymentAPI, Audience: "payments", Scope: "payments:write",
				Parameters: map[string]string{"organization_id": "shop"}},
		},
		"the client identifier under another key": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientIDKey = "TILL" })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: operator.PaymentAPI, Scope: "payments:write"},
		},
		"the client identifier's key, named explicitly": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientIDKey = v1alpha1.ClientIDKey })
			},
		},
		"the same client identifier in the spec": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientID = operator.CartID })
			},
		},
		"another refresh time, not reached yet": {
			change: func(t *testing.T, _ *operator.World, c *v1alpha1.M2MClient) {
				operator.Change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Refresh.AtPercent = 90 })
			},
		},
		"another grant, which allows more": {
			change: func(t *testing.T, w *operator.World, _ *v1alpha1.M2MClient) {
				api := w.API()
				operator.Change(t, api, func(a *v1alpha1.APIResource) {
					a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: "payments:refund"})
					a.Spec.Grants[0].Scopes = append(a.Spec.Grants[0].Scopes, "payments:refund")
				})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			_, cart := w.Story()
			credentials := credentialsOf(w, t)
			operator.Change(t, credentials, func(s *corev1.Secret) { s.Data["TILL"] = []byte("till-app") })
			secret := string(credentials.Data[v1alpha1.ClientSecretKey])
			for _, id := range []string{operator.CartID, "till-app"} {
				// The server finds the right API whatever the request names.
				err := w.AS.SetClient(oidc.Client{ID: id, Secret: secret, DefaultResource: operator.PaymentAPI, Scopes: map[string][]string{
					operator.PaymentAPI: {"payments:read", "payments:write"},
				}})
				if err != nil {
					t.Fatal(err)
				}
			}
			op := operator.StartStepped(t)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			before := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			w.SawRequests(t, 1)

			tc.change(t, w, cart)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			op.Stop()
			op = operator.StartStepped(t)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)

			requests, after := w.AS.TokenRequests(), operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			if tc.want == nil {
				w.SawRequests(t, 0)
				if after != before {
					t.Error("the token was replaced")
				}
				return
			}
			w.SawRequests(t, 1)
			if len(requests) == 0 {
				return
			}
			got := requests[0]
			if got.ClientID != tc.want.ClientID || got.Resource != tc.want.Resource || got.Audience != tc.want.Audience || got.Scope != tc.want.Scope ||
				!maps.Equal(got.Parameters, tc.want.Parameters) {
				t.Errorf("the request was %+v, want %+v", got, *tc.want)
			}
			if oidc.Hash(after) != got.TokenHash {
				t.Error("the token that was issued is not in the Secret")
			}
		})
	}
}

// TestBadSecretKeepsTheToken writes a secret that the server does not know into the
// credentials. The working token stays, and the status says what is wrong.
func TestBadSecretKeepsTheToken(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	good := credentialsOf(w, t).Data[v1alpha1.ClientSecretKey]
	put := func(secret []byte) {
		t.Helper()
		s := credentialsOf(w, t)
		operator.Change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = secret })
		op.Settle(w.Payments, w.Shop)
	}
	stillWorks := func(wantRequests int) {
		t.Helper()
		operator.IsReady(t, cart)
		c := operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
		if !strings.Contains(c.Message, `Secret "cart-credentials"`) || !strings.Contains(c.Message, "invalid_client") {
			t.Errorf("the message is %q", c.Message)
		}
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != token {
			t.Error("the working token did not stay")
		}
		w.SawRequests(t, wantRequests)
	}
	w.AS.ResetRequests()

	bad := []byte(operator.NewSecret())
	put(bad)
	stillWorks(1)
	op.Settle(w.Payments, w.Shop)
	stillWorks(0) // the next attempt is not due
	op.Advance(15 * time.Second)
	op.Settle(w.Payments, w.Shop)
	stillWorks(1)

	put(good) // the secret that the token was minted with: the token is fresh again
	operator.IsReady(t, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.SawRequests(t, 0)

	put(bad)
	stillWorks(1)
	w.SetClient(operator.CartID, string(bad)) // the server learns the new secret
	op.Advance(15 * time.Second)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.SawRequests(t, 1)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == token {
		t.Error("the token was not replaced")
	}

	put([]byte(operator.NewSecret()))
	w.SawRequests(t, 1)
	rotateSecret(w, t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.SawRequests(t, 1)
}

// TestRotatedSecretIsNoticed rotates the secret while the operator runs.
func TestRotatedSecretIsNoticed(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)
	before := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	secret := rotateSecret(w, t)
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == before {
			return fmt.Errorf("the token was not replaced")
		}
		return nil
	})
	operator.ComesToRest(t, cart)
	operator.IsReady(t, cart)
	if r := w.AS.TokenRequests(); len(r) != 1 || r[0].CredentialID != oidc.Hash(secret) {
		t.Errorf("the requests were %+v", r)
	}
}
