// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// claim returns a fault that signs tokens with one claim changed or removed.
func claim(name string, value any) func(*operator.Stage) *oidc.Fault {
	return func(*operator.Stage) *oidc.Fault {
		return &oidc.Fault{Claims: func(m map[string]any) {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}}
	}
}

// in returns a fault that signs tokens with a time at some distance from now.
func in(name string, d time.Duration) func(*operator.Stage) *oidc.Fault {
	return func(s *operator.Stage) *oidc.Fault { return claim(name, s.Op.Clock.Now().Add(d).Unix())(s) }
}

// TestTokenThatTheAPIWouldRefuse: such a token is not published, whether or not there
// is one that works.
func TestTokenThatTheAPIWouldRefuse(t *testing.T) {
	op := operator.StartStepped(t)
	good := func(s *operator.Stage) map[string]any {
		return map[string]any{"aud": operator.PaymentAPI, "sub": operator.CartID, "client_id": operator.CartID, "scope": "payments:write"}
	}
	signed := func(sign func(*oidc.Server, map[string]any) (string, error)) func(*operator.Stage) *oidc.Fault {
		return func(s *operator.Stage) *oidc.Fault {
			return &oidc.Fault{Rewrite: func(m map[string]any) {
				token, err := sign(s.AS, good(s))
				if err != nil {
					panic(err)
				}
				m["access_token"] = token
			}}
		}
	}
	noFault := func(*operator.Stage) *oidc.Fault { return nil }
	tests := map[string]struct {
		fault  func(*operator.Stage) *oidc.Fault
		demand func(*v1alpha1.Verification) // by the API, from when the fault begins
		reason string
	}{
		"another audience":         {fault: claim("aud", "https://other.example.com"), reason: jwks.ReasonWrongAudience},
		"audience of another case": {fault: claim("aud", "https://PAYMENT.example.com/api"), reason: jwks.ReasonWrongAudience},
		"no audience":              {fault: claim("aud", nil), reason: jwks.ReasonWrongAudience},
		"another issuer":           {fault: claim("iss", "https://other.example.com"), reason: jwks.ReasonWrongIssuer},
		"no issuer":                {fault: claim("iss", nil), reason: jwks.ReasonWrongIssuer},
		"expired":                  {fault: in("exp", -time.Hour), reason: jwks.ReasonExpired},
		"no expiry":                {fault: claim("exp", nil), reason: jwks.ReasonMalformed},
		"an expiry that is a text": {fault: claim("exp", "tomorrow"), reason: jwks.ReasonMalformed},
		"not valid yet":            {fault: in("nbf", 3*time.Hour), reason: jwks.ReasonNotYetValid},
		"issued in the future":     {fault: in("iat", 3*time.Hour), reason: jwks.ReasonNotYetValid},
		"another scope":            {fault: claim("scope", "payments:read"), reason: jwks.ReasonMissingScopes},
		"a part of the scope":      {fault: claim("scope", "payments:writer payments"), reason: jwks.ReasonMissingScopes},
		"no scope":                 {fault: claim("scope", nil), reason: jwks.ReasonMissingScopes},
		"a forged signature":       {fault: signed((*oidc.Server).ForgeToken), reason: jwks.ReasonBadSignature},
		"no signature":             {fault: unsigned, reason: jwks.ReasonAlgorithm},
		"another type":             {fault: noFault, demand: func(v *v1alpha1.Verification) { v.TokenType = "JWT" }, reason: jwks.ReasonWrongType},
		"an algorithm that is not allowed": {
			fault: noFault, demand: func(v *v1alpha1.Verification) { v.Algorithms = []v1alpha1.SignatureAlgorithm{"RS256", "PS256"} },
			reason: jwks.ReasonAlgorithm,
		},
	}
	refused := func(t *testing.T, s *operator.Stage, reason string) {
		t.Helper()
		operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, reason)
		operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		if n := s.AS.Count(oidc.Token); n != 1 {
			t.Errorf("%d token requests while no time passed, want 1", n)
		}
	}
	heals := func(t *testing.T, s *operator.Stage, undo func()) {
		t.Helper()
		next := s.Status().Failure.NextAttemptAt.Time
		s.AS.ClearFaults()
		undo()
		s.AS.ResetRequests()
		s.Until(next.Add(35 * time.Second))
		operator.IsReady(t, s.Cart)
		operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
		if n := s.AS.Count(oidc.Token); n != 1 {
			t.Errorf("%d token requests to recover, want 1", n)
		}
	}
	s := operator.NewStage(t, op)
	demand := func(d func(*v1alpha1.Verification)) {
		if d != nil {
			operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) { d(&a.Spec.Verification) })
			operator.FromCache(s.T, op, s.API)
		}
	}
	for name, tc := range tests {
		undo := func() {
			if tc.demand != nil {
				demand(func(v *v1alpha1.Verification) { *v = v1alpha1.Verification{} })
			}
		}
		t.Run(name+", over a token that works", func(t *testing.T) {
			s.T = t
			s.Renew()
			old := s.Token()
			demand(tc.demand)
			s.Due()
			s.AS.SetFault(oidc.Token, tc.fault(s))
			for range 3 {
				s.Settle()
			}
			refused(t, s, tc.reason)
			ready := func() {
				t.Helper()
				if tc.demand == nil {
					operator.IsReady(t, s.Cart)
				} else { // the token in use does not meet it either
					operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
				}
			}
			ready()
			expires := s.Status().ExpiresAt.Time
			s.Until(expires.Add(-time.Second))
			ready()
			if s.Token() != old {
				t.Error("the token that works is gone")
			}
			if n := s.AS.Count(oidc.Token); n > 15 {
				t.Errorf("%d token requests until it expired", n)
			}
			s.Until(expires)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenExpired)
			heals(t, s, undo)
		})
		t.Run(name+", where there is none", func(t *testing.T) {
			s.T = t
			demand(tc.demand)
			s.AS.SetFault(oidc.Token, tc.fault(s))
			s.AS.ResetRequests()
			tokens := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Shop, Name: "cart-token"}}
			operator.Remove(t, tokens)
			operator.Eventually(t, func() error {
				err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(tokens), tokens)
				if err == nil {
					return operator.ErrNotCached
				}
				return client.IgnoreNotFound(err)
			})
			for range 3 {
				s.Settle()
			}
			refused(t, s, tc.reason)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if s.Token() != "" {
				t.Error("the token was published")
			}
			heals(t, s, undo)
		})
	}
}

// unsigned is a fault that issues tokens with alg none.
func unsigned(s *operator.Stage) *oidc.Fault {
	return &oidc.Fault{Rewrite: func(m map[string]any) {
		_, payload, _ := strings.Cut(m["access_token"].(string), ".")
		payload, _, _ = strings.Cut(payload, ".")
		m["access_token"] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + payload + "."
	}}
}

// TestServersDiffer covers differences between servers that tokens must survive.
func TestServersDiffer(t *testing.T) {
	op := operator.StartStepped(t)
	const lives = 30 * time.Minute
	application := func(edit func(*oidc.Client)) func(*operator.Stage) {
		return func(s *operator.Stage) {
			c := oidc.Client{
				ID: operator.CartID, Secret: s.Credential(), Scopes: map[string][]string{operator.PaymentAPI: {"payments:read", "payments:write"}},
			}
			edit(&c)
			if err := s.AS.SetClient(c); err != nil {
				s.T.Fatal(err)
			}
		}
	}
	opaque := application(func(c *oidc.Client) { c.Opaque = true })
	answers := func(name string, value any) func(*operator.Stage) {
		return func(s *operator.Stage) { s.AS.SetFault(oidc.Token, &oidc.Fault{Rewrite: operator.Member(name, value)}) }
	}
	tests := map[string]struct {
		server   func(*oidc.Options)
		spec     func(*v1alpha1.AuthorizationServerSpec)
		prepare  func(*operator.Stage)
		lives    time.Duration // default: as the server says
		verified string        // reason of the condition
		resource string        // in the request; "-" for none
		audience string
	}{
		"expires_in is missing, and exp counts": {server: func(o *oidc.Options) { o.OmitExpiresIn = true }},
		"expires_in is a text":                  {server: func(o *oidc.Options) { o.ExpiresInString = true }},
		"expires_in is zero, and exp counts":    {prepare: answers("expires_in", 0)},
		"expires_in is negative":                {prepare: answers("expires_in", -1)},
		"expires_in is empty":                   {prepare: answers("expires_in", "")},
		"scope is a list in the answer":         {prepare: answers("scope", []string{"payments:write"})},
		"scope is missing in the answer":        {server: func(o *oidc.Options) { o.OmitScope = true }},
		"exp is earlier than expires_in": {
			prepare: func(s *operator.Stage) { s.AS.SetFault(oidc.Token, in("exp", 10*time.Minute)(s)) }, lives: 10 * time.Minute,
		},
		"exp is later than expires_in": {
			prepare: func(s *operator.Stage) { s.AS.SetFault(oidc.Token, in("exp", time.Hour)(s)) },
		},
		"the client is in the audience": {server: func(o *oidc.Options) { o.ClientIDInAudience = true }},
		"typ is JWT":                    {server: func(o *oidc.Options) { o.TokenType = "JWT" }},
		"keys have no alg":              {server: func(o *oidc.Options) { o.OmitKeyAlgorithm = true; o.Algorithm = "RS256" }},
		"tokens are opaque":             {prepare: opaque, verified: v1alpha1.ReasonOpaqueToken},
		"tokens are opaque and say no lifetime": {
			server: func(o *oidc.Options) { o.OmitExpiresIn = true }, prepare: opaque,
			verified: v1alpha1.ReasonOpaqueToken, lives: 5 * time.Minute,
		},
		"tokens are opaque and say that they have expired": {
			prepare:  func(s *operator.Stage) { opaque(s); answers("expires_in", 0)(s) },
			verified: v1alpha1.ReasonOpaqueToken, lives: 5 * time.Minute,
		},
		"tokens are opaque and the spec has a lifetime": {
			server: func(o *oidc.Options) { o.OmitExpiresIn = true }, prepare: opaque,
			spec:     func(a *v1alpha1.AuthorizationServerSpec) { a.DefaultTokenLifetime = "20m" },
			verified: v1alpha1.ReasonOpaqueToken, lives: 20 * time.Minute,
		},
		"the API is named by audience": {
			server:   func(o *oidc.Options) { o.AudienceParameter = "audience" },
			spec:     func(a *v1alpha1.AuthorizationServerSpec) { a.AudienceParameter = v1alpha1.AudienceParameterAudience },
			resource: "-", audience: operator.PaymentAPI,
		},
		"the API is not named": {
			spec:     func(a *v1alpha1.AuthorizationServerSpec) { a.AudienceParameter = v1alpha1.AudienceParameterNone },
			prepare:  application(func(c *oidc.Client) { c.DefaultResource = operator.PaymentAPI }),
			resource: "-",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t, func(o *oidc.Options) {
				o.Now, o.TokenLifetime = op.Clock.Now, lives
				if tc.server != nil {
					tc.server(o)
				}
			})
			s := &operator.Stage{World: w, Op: op, API: w.API(), Cart: w.Cart()}
			for _, namespace := range []string{w.Payments, w.Shop} {
				as := w.Server(namespace)
				if tc.spec != nil {
					tc.spec(&as.Spec)
				}
				operator.Create(t, as)
			}
			secret := operator.NewSecret()
			w.SetClient(operator.CartID, secret)
			operator.Create(t, s.API, w.Secret("cart-credentials", operator.CartID, secret), s.Cart)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			s.Settle()
			operator.IsReady(t, s.Cart)
			if tc.verified == "" {
				operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
			} else {
				operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, tc.verified)
			}
			if s.Token() == "" {
				t.Error("there is no token")
			}
			status, want := s.Status(), tc.lives
			if want == 0 {
				want = lives
			}
			if got := status.ExpiresAt.Sub(status.IssuedAt.Time); got != want {
				t.Errorf("the status gives the token a lifetime of %s, want %s", got, want)
			}
			if diff := cmp.Diff([]v1alpha1.ScopeName{"payments:write"}, status.Scopes); diff != "" {
				t.Errorf("scopes in the status (-want +got):\n%s", diff)
			}
			requests := s.AS.TokenRequests()
			if len(requests) != 1 {
				t.Fatalf("%d token requests, want 1", len(requests))
			}
			wantResource := operator.PaymentAPI
			if tc.resource == "-" {
				wantResource = ""
			}
			if r := requests[0]; r.Resource != wantResource || r.Audience != tc.audience {
				t.Errorf("the request had resource %q and audience %q", r.Resource, r.Audience)
			}
		})
	}
}

// TestScopeIsDroppedSilently: the server answers with status 200 and omits a scope.
func TestScopeIsDroppedSilently(t *testing.T) {
	op := operator.StartStepped(t)
	for name, opaque := range map[string]bool{"JWT": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op, func(o *oidc.Options) { o.DropUngrantedScopes = true })
			old := s.Token()
			err := s.AS.SetClient(oidc.Client{
				ID: operator.CartID, Secret: s.Credential(), Opaque: opaque, Scopes: map[string][]string{operator.PaymentAPI: {"payments:write"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
			})
			operator.FromCache(t, op, s.Cart)
			s.Settle()
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if s.Token() != old {
				t.Error("a token without the scope was published")
			}
			s.SetClient(operator.CartID, s.Credential())
			s.Until(op.Clock.Now().Add(time.Minute))
			operator.IsReady(t, s.Cart)
		})
	}
}

// TestPlainResource: an API that no APIResource describes.
func TestPlainResource(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	cart := w.Cart()
	cart.Spec.Access = []v1alpha1.Access{{Resource: operator.PaymentAPI, Key: "pay", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
	operator.Create(t, w.Server(w.Shop), w.Secret("cart-credentials", operator.CartID, secret), cart)
	s := &operator.Stage{World: w, Op: op, Cart: cart}
	s.Settle()
	operator.IsReady(t, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
	operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	first := operator.TokenIn(t, w.Shop, "cart-token", "pay")
	if first == "" {
		t.Fatal("there is no token")
	}
	// The operator verifies this token, too.
	w.AS.SetFault(oidc.Token, claim("aud", "https://other.example.com")(s))
	s.Due()
	s.Settle()
	operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongAudience)
	if operator.TokenIn(t, w.Shop, "cart-token", "pay") != first {
		t.Error("a token for another API was published")
	}
}
