// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// claims returns a fault that signs tokens with some claims changed or removed.
func claims(changes map[string]any) *oidc.Fault {
	return &oidc.Fault{Claims: func(m map[string]any) {
		for name, value := range changes {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}
	}}
}

// TestScopesThatAreCarriedElsewhere: a server puts scopes into another claim, or into
// none. The condition says so. The declaration of the API's owner then applies to the
// operator and to the API's pods.
func TestScopesThatAreCarriedElsewhere(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		token map[string]any // the token's claims instead
		told  string
		scope v1alpha1.Scope
		want  []string // the claims in verification.json
	}{
		"in roles, as at Entra": {
			token: map[string]any{"scope": nil, "roles": []string{"payments:write"}},
			told: `The server issued a token that the API would refuse: claim scope is missing, expected "payments:write"; its other claims are "roles"; ` +
				`grant them to the client at the server, or set carriedIn in the APIResource's spec.scopes to where its tokens carry them`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "roles"},
			want:  []string{"roles"},
		},
		"in permissions, beside other scopes, as at Auth0": {
			token: map[string]any{"scope": "openid", "permissions": []string{"payments:write"}},
			told: `The server issued a token that the API would refuse: scopes missing: "payments:write"; claim scope has "openid"; ` +
				`grant them to the client at the server`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "permissions"},
			want:  []string{"permissions"},
		},
		"nowhere, as at Dex": {
			token: map[string]any{"scope": nil},
			told: `The server issued a token that the API would refuse: claim scope is missing, expected "payments:write"; ` +
				`grant them to the client at the server, or set carriedIn in the APIResource's spec.scopes to where its tokens carry them`,
			scope: v1alpha1.Scope{CarriedIn: v1alpha1.CarriedNowhere},
			want:  []string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			s.AS.SetFault(oidc.Token, claims(tc.token))
			old := s.Token()
			s.Due()
			s.Settle()
			c := operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			if diff := cmp.Diff(tc.told, c.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}

			operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
				for i := range a.Spec.Scopes {
					if a.Spec.Scopes[i].Name == "payments:write" {
						a.Spec.Scopes[i].CarriedIn, a.Spec.Scopes[i].Claim = tc.scope.CarriedIn, tc.scope.Claim
					}
				}
			})
			operator.FromCache(t, op, s.API)
			s.Settle()
			operator.IsReady(t, s.Cart)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
			if s.Token() == old {
				t.Error("the token was not published")
			}
			s.Until(op.Clock.Now().Add(delivery.HoldMax)) // the API's pods get the new terms after the client's pods get the token
			s.Settle()
			operator.IsReady(t, s.Cart)
			if diff := cmp.Diff(tc.want, claimsInBundle(t, s)["payments:write"]); diff != "" {
				t.Errorf("claims of the scope in the bundle (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"scope", "scp"}, claimsInBundle(t, s)["payments:read"]); diff != "" {
				t.Errorf("claims of another scope in the bundle (-want +got):\n%s", diff)
			}

			if len(tc.want) == 0 {
				return
			}
			s.AS.SetFault(oidc.Token, claims(map[string]any{"scope": "payments:write"}))
			s.Due()
			s.Settle()
			c = operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			if !strings.Contains(c.Message, "claim "+tc.want[0]+" is missing") {
				t.Errorf("message %q", c.Message)
			}
		})
	}
}

// claimsInBundle returns the claim of each scope in the API's bundle.
func claimsInBundle(t *testing.T, s *operator.Stage) map[string][]string {
	t.Helper()
	var rules struct {
		Scopes []struct {
			Name   string
			Claims []string
		}
	}
	if err := json.Unmarshal([]byte(s.Bundle().Data["verification.json"]), &rules); err != nil {
		t.Fatal(err)
	}
	byName := map[string][]string{}
	for _, scope := range rules.Scopes {
		byName[scope.Name] = scope.Claims
	}
	return byName
}

// TestTokensWithoutAnAudience: a server puts no aud into its tokens. The rule of the
// API's owner applies instead, to the operator and to the API's pods. Files that
// cannot express it are not rendered, and the condition says so.
func TestTokensWithoutAnAudience(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		by, wrong v1alpha1.TokenAudience
		want      string // in verification.json
	}{
		"named by the client": {
			by:    v1alpha1.TokenAudience{Claim: "client_id", Values: []v1alpha1.ClaimValue{"till", operator.CartID}},
			wrong: v1alpha1.TokenAudience{Claim: "client_id", Values: []v1alpha1.ClaimValue{"till"}},
			want:  `{"claims":["client_id"],"values":["till","` + operator.CartID + `"]}`,
		},
		"named by the scopes": {
			by:    v1alpha1.TokenAudience{ScopePrefix: "payments:"},
			wrong: v1alpha1.TokenAudience{ScopePrefix: "ledger:"},
			want:  `{"claims":["scope","scp"],"prefix":"payments:"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			s.AS.SetFault(oidc.Token, claims(map[string]any{"aud": nil}))
			old := s.Token()
			s.Due()
			s.Settle()
			c := operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongAudience)
			if !strings.Contains(c.Message, "set spec.verification.audience") {
				t.Errorf("message %q", c.Message)
			}
			say := func(by v1alpha1.TokenAudience) {
				t.Helper()
				operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.Audience = by })
				operator.FromCache(t, op, s.API)
				s.Settle()
			}
			say(tc.wrong)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongAudience)
			say(tc.by)
			operator.IsReady(t, s.Cart)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
			if s.Token() == old {
				t.Error("the token was not published")
			}
			var rules struct{ AudienceIn json.RawMessage }
			var compact bytes.Buffer
			if err := errors.Join(json.Unmarshal([]byte(s.Bundle().Data["verification.json"]), &rules), json.Compact(&compact, rules.AudienceIn)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, compact.String()); diff != "" {
				t.Errorf("audienceIn (-want +got):\n%s", diff)
			}
			if _, there := s.Bundle().Data["envoy-jwt-authn.yaml"]; there {
				t.Error("Envoy would accept every token of the issuer")
			}
			c = operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
			if !strings.HasSuffix(c.Message, ", without envoy-jwt-authn.yaml, which cannot express spec.verification.audience") {
				t.Errorf("message %q", c.Message)
			}
			formats := []v1alpha1.VerificationFormat{v1alpha1.FormatOpenIDConfiguration, v1alpha1.FormatEnvoy}
			operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.Formats = formats })
			say(tc.by)
			c = operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
			if !strings.HasSuffix(c.Message, "; for the same reason envoy-ecds-jwt-authn.yaml and envoy-ecds-rbac.yaml refuse every request") {
				t.Errorf("message %q", c.Message)
			}
			if file := s.Bundle().Data["envoy-ecds-rbac.yaml"]; !strings.Contains(file, "policies: {}") {
				t.Errorf("Envoy's filter allows requests:\n%s", file)
			}
			say(v1alpha1.TokenAudience{})
			data := s.Bundle().Data
			if _, there := data["envoy-jwt-authn.yaml"]; !there {
				t.Error("Envoy's file did not come back")
			}
			if strings.Contains(data["envoy-ecds-rbac.yaml"], "policies: {}") {
				t.Error("Envoy's filter still refuses every request")
			}
			if file := data["openid-configuration.json"]; !strings.Contains(file, `"file://`+v1alpha1.VerifyDir+"/"+s.API.Name+`/jwks.json"`) {
				t.Errorf("the discovery document does not name the mounted keys:\n%s", file)
			}
		})
	}
}

// TestPlainResourceWhoseTokensAreOdd: for an API without an APIResource, the client
// itself declares what an APIResource would.
func TestPlainResourceWhoseTokensAreOdd(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		token map[string]any
		says  v1alpha1.ResourceVerification
	}{
		"scopes in roles": {
			map[string]any{"scope": nil, "roles": []string{"payments:write"}},
			v1alpha1.ResourceVerification{CarriedIn: v1alpha1.CarriedInOtherClaim, Claim: "roles"},
		},
		"no aud, named by the client": {
			map[string]any{"aud": nil},
			v1alpha1.ResourceVerification{Audience: v1alpha1.TokenAudience{Claim: "client_id", Values: []v1alpha1.ClaimValue{operator.CartID}}},
		},
		"scopes nowhere": {map[string]any{"scope": nil}, v1alpha1.ResourceVerification{CarriedIn: v1alpha1.CarriedNowhere}},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
			w.AS.SetFault(oidc.Token, claims(tc.token))
			secret := operator.NewSecret()
			w.SetClient(operator.CartID, secret)
			cart := w.Cart()
			cart.Spec.Access = []v1alpha1.Access{{Resource: operator.PaymentAPI, Key: "pay", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
			operator.Create(t, w.Server(w.Shop), w.Secret("cart-credentials", operator.CartID, secret), cart)
			s := &operator.Stage{World: w, Op: op, Cart: cart}
			s.Settle()
			reason, hint := jwks.ReasonMissingScopes, "or set verification.carriedIn of the access to where its tokens carry them"
			if _, changed := tc.token["aud"]; changed {
				reason, hint = jwks.ReasonWrongAudience, "if its tokens have no aud, set spec.verification.audience of the APIResource, or verification.audience of an access with a plain resource"
			}
			c := operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, reason)
			if !strings.HasSuffix(c.Message, hint) {
				t.Errorf("message %q", c.Message)
			}
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Verification = tc.says })
			operator.FromCache(t, op, cart)
			s.Settle()
			operator.IsReady(t, cart)
			operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		})
	}
}
