// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// credentialsOf returns the Secret with the cart application's credentials.
func (w *world) credentialsOf(t *testing.T) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	if err := kube.Get(t.Context(), types.NamespacedName{Namespace: w.shop, Name: "cart-credentials"}, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// rotateSecret gives the cart application another secret, at the authorization
// server first: the old one is worth nothing from then on.
func (w *world) rotateSecret(t *testing.T) string {
	t.Helper()
	secret := newSecret()
	w.setClient(cartID, secret)
	s := w.credentialsOf(t)
	change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	return secret
}

// TestChangedInputsMintOnce changes what a token is minted from: it is replaced,
// by one request, and a restart does not ask again. What does not matter to the
// token costs no request at all.
func TestChangedInputsMintOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*testing.T, *world, *v1alpha1.M2MClient)
		want   *oidc.Request // nil: none
	}{
		"the secret is rotated": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				w.rotateSecret(t)
			},
			want: &oidc.Request{ClientID: cartID, Resource: paymentAPI, Scope: "payments:write"},
		},
		"a label on the credentials changes": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				s := w.credentialsOf(t)
				change(t, s, func(s *corev1.Secret) { s.Labels = map[string]string{"rotated": "never"} })
			},
		},
		"another key of the credentials changes": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				s := w.credentialsOf(t)
				change(t, s, func(s *corev1.Secret) { s.Data["comment"] = []byte("new") })
			},
		},
		"the credentials are written anew as they were": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				s := w.credentialsOf(t)
				remove(t, s)
				s.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}
				create(t, s)
			},
		},
		"the secret gets a newline at its end": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				s := w.credentialsOf(t)
				change(t, s, func(s *corev1.Secret) {
					s.Data[v1alpha1.ClientSecretKey] = append(s.Data[v1alpha1.ClientSecretKey], '\n')
				})
			},
		},
		"other scopes": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) {
					c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:write", "payments:read"}
				})
			},
			want: &oidc.Request{ClientID: cartID, Resource: paymentAPI, Scope: "payments:read payments:write"},
		},
		"no scopes": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = nil })
			},
			want: &oidc.Request{ClientID: cartID, Resource: paymentAPI},
		},
		"another parameter names the API": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				server := w.server(w.shop)
				change(t, server, func(s *v1alpha1.AuthorizationServer) { s.Spec.AudienceParameter = v1alpha1.AudienceParameterAudience })
			},
			want: &oidc.Request{ClientID: cartID, Audience: paymentAPI, Scope: "payments:write"},
		},
		"no parameter names the API": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				server := w.server(w.shop)
				change(t, server, func(s *v1alpha1.AuthorizationServer) { s.Spec.AudienceParameter = v1alpha1.AudienceParameterNone })
			},
			want: &oidc.Request{ClientID: cartID, Scope: "payments:write"},
		},
		"another client identifier in the spec": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientID = "till-app" })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: paymentAPI, Scope: "payments:write"},
		},
		"another client identifier in the Secret": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				s := w.credentialsOf(t)
				change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientIDKey] = []byte("till-app") })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: paymentAPI, Scope: "payments:write"},
		},
		"a parameter more": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) {
					c.Spec.Access[0].Parameters = []v1alpha1.RequestParameter{{Name: "organization_id", Value: "shop"}, {Name: "audience", Value: "payments"}}
				})
			},
			want: &oidc.Request{ClientID: cartID, Resource: paymentAPI, Audience: "payments", Scope: "payments:write",
				Parameters: map[string]string{"organization_id": "shop"}},
		},
		"the client identifier under another key": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientIDKey = "TILL" })
			},
			want: &oidc.Request{ClientID: "till-app", Resource: paymentAPI, Scope: "payments:write"},
		},
		"the client identifier's key, said as it is": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientIDKey = v1alpha1.ClientIDKey })
			},
		},
		"the same client identifier in the spec": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Credentials.ClientSecret.ClientID = cartID })
			},
		},
		"another time to refresh, not yet come": {
			change: func(t *testing.T, _ *world, c *v1alpha1.M2MClient) {
				change(t, c, func(c *v1alpha1.M2MClient) { c.Spec.Refresh.AtPercent = 90 })
			},
		},
		"another grant, which gives more": {
			change: func(t *testing.T, w *world, _ *v1alpha1.M2MClient) {
				api := w.api()
				change(t, api, func(a *v1alpha1.APIResource) {
					a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: "payments:refund"})
					a.Spec.Grants[0].Scopes = append(a.Spec.Grants[0].Scopes, "payments:refund")
				})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, cart := w.story()
			credentials := w.credentialsOf(t)
			change(t, credentials, func(s *corev1.Secret) { s.Data["TILL"] = []byte("till-app") })
			secret := string(credentials.Data[v1alpha1.ClientSecretKey])
			for _, id := range []string{cartID, "till-app"} {
				// The server finds the right API whatever the request says.
				err := w.as.SetClient(oidc.Client{ID: id, Secret: secret, DefaultResource: paymentAPI, Scopes: map[string][]string{
					paymentAPI: {"payments:read", "payments:write"},
				}})
				if err != nil {
					t.Fatal(err)
				}
			}
			op := startStepped(t)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			before := tokenIn(t, w.shop, "cart-token", "payment-api")
			w.sawRequests(t, 1)

			tc.change(t, w, cart)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			op.stop()
			op = startStepped(t)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)

			requests, after := w.as.TokenRequests(), tokenIn(t, w.shop, "cart-token", "payment-api")
			if tc.want == nil {
				w.sawRequests(t, 0)
				if after != before {
					t.Error("the token was replaced")
				}
				return
			}
			w.sawRequests(t, 1)
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

// TestBadSecretKeepsTheToken puts a secret into the credentials that the server
// does not know. The working token stays, and the status says what is wrong.
func TestBadSecretKeepsTheToken(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	op := startStepped(t)
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	token := tokenIn(t, w.shop, "cart-token", "payment-api")
	good := w.credentialsOf(t).Data[v1alpha1.ClientSecretKey]
	put := func(secret []byte) {
		t.Helper()
		s := w.credentialsOf(t)
		change(t, s, func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = secret })
		op.settle(w.payments, w.shop)
	}
	stillWorks := func(wantRequests int) {
		t.Helper()
		isReady(t, cart)
		c := hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
		if !strings.Contains(c.Message, `Secret "cart-credentials"`) || !strings.Contains(c.Message, "invalid_client") {
			t.Errorf("the message is %q", c.Message)
		}
		if tokenIn(t, w.shop, "cart-token", "payment-api") != token {
			t.Error("the working token did not stay")
		}
		w.sawRequests(t, wantRequests)
	}
	w.as.ResetRequests()

	bad := []byte(newSecret())
	put(bad)
	stillWorks(1)
	op.settle(w.payments, w.shop)
	stillWorks(0) // the next attempt is not due
	op.advance(15 * time.Second)
	op.settle(w.payments, w.shop)
	stillWorks(1)

	put(good) // what the token was minted with: it is as good as new
	isReady(t, cart)
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.sawRequests(t, 0)

	put(bad)
	stillWorks(1)
	w.setClient(cartID, string(bad)) // the server catches up
	op.advance(15 * time.Second)
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.sawRequests(t, 1)
	if tokenIn(t, w.shop, "cart-token", "payment-api") == token {
		t.Error("the token was not replaced")
	}

	put([]byte(newSecret()))
	w.sawRequests(t, 1)
	w.rotateSecret(t)
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.sawRequests(t, 1)
}

// TestRotatedSecretIsNoticed rotates the secret under the running operator.
func TestRotatedSecretIsNoticed(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 1)
	before := tokenIn(t, w.shop, "cart-token", "payment-api")
	secret := w.rotateSecret(t)
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-token", "payment-api") == before {
			return fmt.Errorf("the token was not replaced")
		}
		return nil
	})
	comesToRest(t, cart)
	isReady(t, cart)
	if r := w.as.TokenRequests(); len(r) != 1 || r[0].CredentialID != oidc.Hash(secret) {
		t.Errorf("the requests were %+v", r)
	}
}
