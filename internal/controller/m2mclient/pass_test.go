// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

const paymentAPI = "https://payment.example.com/api"

// TestAccessesAreNamedOnce checks that a message names the access that the client
// waits for, once.
func TestAccessesAreNamedOnce(t *testing.T) {
	wait := &rules.Problem{Reason: v1alpha1.ReasonProvisioning, Unknown: true, Message: `Access "cb": AuthorizationServer "logto" is being provisioned`}
	own := &rules.Problem{Reason: v1alpha1.ReasonTokenRequestFailed, Message: "the server did not answer"}
	for name, tc := range map[string]struct {
		problem *rules.Problem
		want    string
	}{
		"of the client": {wait, wait.Message},
		"of an access":  {own, `Access "ca": the server did not answer`},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pass{identity: identity{credProblem: wait}, Accesses: []*access{
				{subject: subject{key: "ca"}, outcome: outcome{problem: tc.problem}}, {subject: subject{key: "cb"}},
			}}
			if got := p.isFresh().Message; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestAnAttemptDependsOnWhatTheServerGrants: a scope that a token lacked may be
// granted since.
func TestAnAttemptDependsOnWhatTheServerGrants(t *testing.T) {
	basis := func(own bool, granted ...v1alpha1.ScopeName) string {
		c := &v1alpha1.M2MClient{}
		if own {
			c.Spec.Credentials.ClientSecret.SecretRef.Name = "cart"
		}
		c.Status.Provisioning.Access = []v1alpha1.ProvisionedAccess{
			{Resource: "https://other.example.com", Scopes: []v1alpha1.ScopeName{"other"}}, {Resource: paymentAPI, Scopes: granted},
		}
		return (&pass{Client: c}).basis(&access{subject: subject{resource: paymentAPI}}, "inputs", jwks.ReasonMissingScopes)
	}
	if basis(false, "payments:read") == basis(false, "payments:read", "payments:write") {
		t.Error("the attempt does not depend on the scopes that the server grants")
	}
	if basis(true, "payments:read") != basis(true) {
		t.Error("the attempt of a client with its own credentials depends on granted scopes in the status")
	}
}

// TestScopesThatAnAnswerLacks: the message quotes the server's answer, which shows its
// mistake, such as commas instead of spaces.
func TestScopesThatAnAnswerLacks(t *testing.T) {
	now := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	srv := &rules.Server{Spec: &v1alpha1.AuthorizationServerSpec{}, Status: &v1alpha1.AuthorizationServerStatus{}}
	a := &access{subject: subject{server: srv, expect: jwks.Expectation{Scopes: []string{"payments:read", "payments:write"}}}}
	for name, tc := range map[string]struct {
		granted []string
		want    string
	}{
		"commas":  {[]string{"payments:read,payments:write"}, `the server did not grant the scopes payments:read, payments:write; its answer says scope "payments:read,payments:write"`},
		"one":     {[]string{"payments:read"}, `the server did not grant the scopes payments:write; its answer says scope "payments:read"`},
		"nothing": {nil, `the server did not grant the scopes payments:read, payments:write; its answer says scope ""`},
		"many": {
			[]string{strings.Repeat("x", 300)},
			`the server did not grant the scopes payments:read, payments:write; its answer says scope "` + strings.Repeat("x", 256) + `"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := tokensecret.Token{Value: "opaque", Record: tokensecret.Record{ExpiresAt: now.Add(time.Hour), Scopes: tc.granted}}
			_, bad := verify(h, &pass{Now: now, origin: origin{server: srv}}, a)
			if bad == nil || bad.Reason != jwks.ReasonMissingScopes || bad.Message != tc.want+"; "+scopesHint {
				t.Errorf("got %v, want %q and the hint", bad, tc.want)
			}
		})
	}
}

// TestRegisteredClientsNeedAnAudience: an API's owner declares its scopes and how
// tokens name it. If that were enough, he could declare another API's scopes, have a
// client registered for them, and have its tokens published.
func TestRegisteredClientsNeedAnAudience(t *testing.T) {
	by := v1alpha1.TokenAudience{ScopePrefix: "payments:"}
	want := jwks.Named{Claims: []string{"scope", "scp"}, Prefix: "payments:"}
	own := &v1alpha1.M2MClient{}
	own.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
	for name, tc := range map[string]struct {
		client   *v1alpha1.M2MClient
		by       v1alpha1.TokenAudience
		audience string
		named    jwks.Named
	}{
		"own credentials":              {own, by, "", want},
		"registered":                   {&v1alpha1.M2MClient{}, by, paymentAPI, want},
		"own credentials, by aud":      {own, v1alpha1.TokenAudience{}, paymentAPI, jwks.Named{}},
		"registered, and named by aud": {&v1alpha1.M2MClient{}, v1alpha1.TokenAudience{}, paymentAPI, jwks.Named{}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &access{subject: subject{expect: jwks.Expectation{Audience: paymentAPI, Named: verification.Named(tc.by)}}}
			a.expectName(tc.client)
			if diff := cmp.Diff(jwks.Expectation{Audience: tc.audience, Named: tc.named}, a.expect); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNothingIsProvisionedWithoutAGrant checks that a client does not claim to wait for its server while
// nothing is granted to it.
func TestNothingIsProvisionedWithoutAGrant(t *testing.T) {
	auth := &v1alpha1.AuthorizationServer{}
	auth.Name, auth.Spec.Provisioning.Logto.Endpoint = "auth", "https://auth.example.com"
	r := &Reconciler{Config: Config{OperatorNamespace: "operator"}}
	denied := &rules.Problem{Reason: v1alpha1.ReasonNotGranted}
	for name, tc := range map[string]struct {
		accesses []*rules.Problem
		here     bool
		want     string
	}{
		"nothing granted":                {[]*rules.Problem{denied, denied}, false, `Nothing is registered at AuthorizationServer "auth" for a client that is granted nothing`},
		"nothing granted any more":       {[]*rules.Problem{denied}, true, `AuthorizationServer "auth" is being provisioned`},
		"one of two accesses is granted": {[]*rules.Problem{denied, nil}, false, `AuthorizationServer "auth" is being provisioned`},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pass{Client: &v1alpha1.M2MClient{}}
			p.server = rules.ServerOf(auth)
			for _, d := range tc.accesses {
				p.Accesses = append(p.Accesses, &access{permission: permission{denied: d}})
			}
			if got := r.clientProvisioned(p, tc.here, nil); got.Message != tc.want || got.Reason != v1alpha1.ReasonProvisioning {
				t.Errorf("got %s: %q, want %q", got.Reason, got.Message, tc.want)
			}
		})
	}
}
