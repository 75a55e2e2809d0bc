// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oidctest"
)

// claims is a fault that signs tokens with some claims changed, or without them.
func claims(changes map[string]any) *oidctest.Fault {
	return &oidctest.Fault{Claims: func(m map[string]any) {
		for name, value := range changes {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}
	}}
}

// TestScopesThatAreCarriedElsewhere: a server puts scopes into another claim, or
// into none. That is told, and what the API's owner declares then counts, for the
// operator and for the API's pods.
func TestScopesThatAreCarriedElsewhere(t *testing.T) {
	op := startStepped(t)
	for name, tc := range map[string]struct {
		token map[string]any // what it has instead
		told  string
		scope v1alpha1.Scope
		want  []string // the claims in verification.json
	}{
		"in roles, as at Entra": {
			token: map[string]any{"scope": nil, "roles": []string{"payments:write"}},
			told: `The server issued a token that the API would refuse: the token has no claim scope, expected there: "payments:write"; its other claims are "roles"; ` +
				`grant them to the client at the server, or say by carriedIn in the APIResource's spec.scopes where its tokens carry them`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "roles"},
			want:  []string{"roles"},
		},
		"in permissions, beside other scopes, as at Auth0": {
			token: map[string]any{"scope": "openid", "permissions": []string{"payments:write"}},
			told: `The server issued a token that the API would refuse: scopes missing: "payments:write"; the token's scope has "openid"; ` +
				`grant them to the client at the server`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "permissions"},
			want:  []string{"permissions"},
		},
		"nowhere, as at Dex": {
			token: map[string]any{"scope": nil},
			told: `The server issued a token that the API would refuse: the token has no claim scope, expected there: "payments:write"; ` +
				`grant them to the client at the server, or say by carriedIn in the APIResource's spec.scopes where its tokens carry them`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedNowhere},
			want:  []string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			s.verifies()
			s.as.SetFault(oidctest.Token, claims(tc.token))
			old := s.token()
			s.due()
			s.settle()
			c := hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			if diff := cmp.Diff(tc.told, c.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}

			change(t, s.api, func(a *v1alpha1.APIResource) {
				for i := range a.Spec.Scopes {
					if a.Spec.Scopes[i].Name == "payments:write" {
						a.Spec.Scopes[i].CarriedIn, a.Spec.Scopes[i].Claim = tc.scope.CarriedIn, tc.scope.Claim
					}
				}
			})
			cached(t, op, s.api)
			s.settle()
			isReady(t, s.cart)
			hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
			if s.token() == old {
				t.Error("the token was not published")
			}
			s.until(op.clock.Now().Add(holdMax)) // the API's pods get other terms after the client's pods the token
			s.settle()
			isReady(t, s.cart)
			if diff := cmp.Diff(tc.want, claimsInBundle(t, s)["payments:write"]); diff != "" {
				t.Errorf("claims of the scope in the bundle (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"scope", "scp"}, claimsInBundle(t, s)["payments:read"]); diff != "" {
				t.Errorf("claims of another scope in the bundle (-want +got):\n%s", diff)
			}

			if len(tc.want) == 0 {
				return
			}
			s.as.SetFault(oidctest.Token, claims(map[string]any{"scope": "payments:write"}))
			s.due()
			s.settle()
			c = hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			if !strings.Contains(c.Message, "no claim "+tc.want[0]) {
				t.Errorf("message %q", c.Message)
			}
		})
	}
}

// claimsInBundle returns the claims of each scope that the API's pods are told.
func claimsInBundle(t *testing.T, s *stage) map[string][]string {
	t.Helper()
	var rules struct {
		Scopes []struct {
			Name   string
			Claims []string
		}
	}
	if err := json.Unmarshal([]byte(s.bundle().Data["verification.json"]), &rules); err != nil {
		t.Fatal(err)
	}
	byName := map[string][]string{}
	for _, scope := range rules.Scopes {
		byName[scope.Name] = scope.Claims
	}
	return byName
}

// TestDefaultScopeIsCarriedNowhere: Entra's, which stands for others.
func TestDefaultScopeIsCarriedNowhere(t *testing.T) {
	for scope, want := range map[string][]string{"payments:write": {"scope", "scp"}, "api://payment/.default": nil} {
		if diff := cmp.Diff(want, carriers(scope, "", "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", scope, diff)
		}
	}
	if diff := cmp.Diff([]string{"scope", "scp"}, carriers("api://payment/.default", v1alpha1.CarriedInScopeClaim, "")); diff != "" {
		t.Errorf("a default scope that is declared as carried (-want +got):\n%s", diff)
	}
}

// TestPlainResourceWhoseTokensAreOdd: what an APIResource would say, the client
// says itself of an API that none describes.
func TestPlainResourceWhoseTokensAreOdd(t *testing.T) {
	op := startStepped(t)
	for name, tc := range map[string]struct {
		token map[string]any
		says  v1alpha1.ResourceVerification
	}{
		"scopes in roles": {
			map[string]any{"scope": nil, "roles": []string{"payments:write"}},
			v1alpha1.ResourceVerification{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "roles"},
		},
		"scopes nowhere": {map[string]any{"scope": nil}, v1alpha1.ResourceVerification{CarriedIn: v1alpha1.CarriedNowhere}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *oidctest.Options) { o.Now = op.clock.Now })
			w.as.SetFault(oidctest.Token, claims(tc.token))
			secret := newSecret()
			w.setClient(cartID, secret)
			cart := w.cart()
			cart.Spec.Access = []v1alpha1.Access{{Resource: paymentAPI, Key: "pay", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
			create(t, w.server(w.shop), w.secret("cart-credentials", cartID, secret), cart)
			s := &stage{world: w, op: op, cart: cart}
			s.settle()
			c := hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			if !strings.HasSuffix(c.Message, "or say by verification.carriedIn of the access where its tokens carry them") {
				t.Errorf("message %q", c.Message)
			}
			change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Verification = tc.says })
			cached(t, op, cart)
			s.settle()
			isReady(t, cart)
			hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		})
	}
}
