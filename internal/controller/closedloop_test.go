// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// claim is a fault that signs tokens with one claim changed, or without it.
func claim(name string, value any) func(*stage) *oidc.Fault {
	return func(*stage) *oidc.Fault {
		return &oidc.Fault{Claims: func(m map[string]any) {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}}
	}
}

// in is a fault that signs tokens with a time some way from now.
func in(name string, d time.Duration) func(*stage) *oidc.Fault {
	return func(s *stage) *oidc.Fault { return claim(name, s.op.clock.Now().Add(d).Unix())(s) }
}

// TestTokenThatTheAPIWouldRefuse: it is not published, not over a token that
// works and not where there is none.
func TestTokenThatTheAPIWouldRefuse(t *testing.T) {
	op := startStepped(t)
	good := func(s *stage) map[string]any {
		return map[string]any{"aud": paymentAPI, "sub": cartID, "client_id": cartID, "scope": "payments:write"}
	}
	signed := func(sign func(*oidc.Server, map[string]any) (string, error)) func(*stage) *oidc.Fault {
		return func(s *stage) *oidc.Fault {
			return &oidc.Fault{Rewrite: func(m map[string]any) {
				token, err := sign(s.as, good(s))
				if err != nil {
					panic(err)
				}
				m["access_token"] = token
			}}
		}
	}
	noFault := func(*stage) *oidc.Fault { return nil }
	tests := map[string]struct {
		fault  func(*stage) *oidc.Fault
		demand func(*v1alpha1.Verification) // by the API, from when the fault begins
		reason string
	}{
		"another audience":          {fault: claim("aud", "https://other.example.com"), reason: jwks.ReasonWrongAudience},
		"audience of another case":  {fault: claim("aud", "https://PAYMENT.example.com/api"), reason: jwks.ReasonWrongAudience},
		"no audience":               {fault: claim("aud", nil), reason: jwks.ReasonWrongAudience},
		"another issuer":            {fault: claim("iss", "https://other.example.com"), reason: jwks.ReasonWrongIssuer},
		"no issuer":                 {fault: claim("iss", nil), reason: jwks.ReasonWrongIssuer},
		"expired":                   {fault: in("exp", -time.Hour), reason: jwks.ReasonExpired},
		"no expiry":                 {fault: claim("exp", nil), reason: jwks.ReasonMalformed},
		"an expiry that is a text":  {fault: claim("exp", "tomorrow"), reason: jwks.ReasonMalformed},
		"not valid yet":             {fault: in("nbf", 3*time.Hour), reason: jwks.ReasonNotYetValid},
		"issued in the future":      {fault: in("iat", 3*time.Hour), reason: jwks.ReasonNotYetValid},
		"another scope":             {fault: claim("scope", "payments:read"), reason: jwks.ReasonMissingScopes},
		"a part of the scope":       {fault: claim("scope", "payments:writer payments"), reason: jwks.ReasonMissingScopes},
		"no scope":                  {fault: claim("scope", nil), reason: jwks.ReasonMissingScopes},
		"a forged signature":        {fault: signed((*oidc.Server).ForgeToken), reason: jwks.ReasonBadSignature},
		"no signature":              {fault: unsigned, reason: jwks.ReasonAlgorithm},
		"a type that is not wanted": {fault: noFault, demand: func(v *v1alpha1.Verification) { v.TokenType = "JWT" }, reason: jwks.ReasonWrongType},
		"an algorithm that is not allowed": {
			fault: noFault, demand: func(v *v1alpha1.Verification) { v.Algorithms = []v1alpha1.SignatureAlgorithm{"RS256", "PS256"} },
			reason: jwks.ReasonAlgorithm,
		},
	}
	refused := func(t *testing.T, s *stage, reason string) {
		t.Helper()
		hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, reason)
		hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		if n := s.as.Count(oidc.Token); n != 1 {
			t.Errorf("%d token requests while no time passed, want 1", n)
		}
	}
	heals := func(t *testing.T, s *stage, undo func()) {
		t.Helper()
		next := s.status().Failure.NextAttemptAt.Time
		s.as.ClearFaults()
		undo()
		s.as.ResetRequests()
		s.until(next.Add(35 * time.Second))
		isReady(t, s.cart)
		hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
		if n := s.as.Count(oidc.Token); n != 1 {
			t.Errorf("%d token requests to recover, want 1", n)
		}
	}
	s := newStage(t, op)
	demand := func(d func(*v1alpha1.Verification)) {
		if d != nil {
			change(s.t, s.api, func(a *v1alpha1.APIResource) { d(&a.Spec.Verification) })
			fromCache(s.t, op, s.api)
		}
	}
	for name, tc := range tests {
		undo := func() {
			if tc.demand != nil {
				demand(func(v *v1alpha1.Verification) { *v = v1alpha1.Verification{} })
			}
		}
		t.Run(name+", over a token that works", func(t *testing.T) {
			s.t = t
			s.renew()
			old := s.token()
			demand(tc.demand)
			s.due()
			s.as.SetFault(oidc.Token, tc.fault(s))
			for range 3 {
				s.settle()
			}
			refused(t, s, tc.reason)
			ready := func() {
				t.Helper()
				if tc.demand == nil {
					isReady(t, s.cart)
				} else { // the token in use does not meet it either
					hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
				}
			}
			ready()
			expires := s.status().ExpiresAt.Time
			s.until(expires.Add(-time.Second))
			ready()
			if s.token() != old {
				t.Error("the token that works is gone")
			}
			if n := s.as.Count(oidc.Token); n > 15 {
				t.Errorf("%d token requests until it expired", n)
			}
			s.until(expires)
			hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenExpired)
			heals(t, s, undo)
		})
		t.Run(name+", where there is none", func(t *testing.T) {
			s.t = t
			demand(tc.demand)
			s.as.SetFault(oidc.Token, tc.fault(s))
			s.as.ResetRequests()
			tokens := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.shop, Name: "cart-token"}}
			remove(t, tokens)
			eventually(t, func() error {
				err := op.client.Get(t.Context(), client.ObjectKeyFromObject(tokens), tokens)
				if err == nil {
					return errNotCached
				}
				return client.IgnoreNotFound(err)
			})
			for range 3 {
				s.settle()
			}
			refused(t, s, tc.reason)
			hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if s.token() != "" {
				t.Error("the token was published")
			}
			heals(t, s, undo)
		})
	}
}

// unsigned is a fault that hands out tokens with alg none.
func unsigned(s *stage) *oidc.Fault {
	return &oidc.Fault{Rewrite: func(m map[string]any) {
		_, payload, _ := strings.Cut(m["access_token"].(string), ".")
		payload, _, _ = strings.Cut(payload, ".")
		m["access_token"] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + payload + "."
	}}
}

// TestServersDiffer: the manners of servers that a token must survive.
func TestServersDiffer(t *testing.T) {
	op := startStepped(t)
	const lives = 30 * time.Minute
	application := func(edit func(*oidc.Client)) func(*stage) {
		return func(s *stage) {
			c := oidc.Client{
				ID: cartID, Secret: s.credential(), Scopes: map[string][]string{paymentAPI: {"payments:read", "payments:write"}},
			}
			edit(&c)
			if err := s.as.SetClient(c); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	opaque := application(func(c *oidc.Client) { c.Opaque = true })
	answers := func(name string, value any) func(*stage) {
		return func(s *stage) { s.as.SetFault(oidc.Token, &oidc.Fault{Rewrite: member(name, value)}) }
	}
	tests := map[string]struct {
		server   func(*oidc.Options)
		spec     func(*v1alpha1.AuthorizationServerSpec)
		prepare  func(*stage)
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
			prepare: func(s *stage) { s.as.SetFault(oidc.Token, in("exp", 10*time.Minute)(s)) }, lives: 10 * time.Minute,
		},
		"exp is later than expires_in": {
			prepare: func(s *stage) { s.as.SetFault(oidc.Token, in("exp", time.Hour)(s)) },
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
			prepare:  func(s *stage) { opaque(s); answers("expires_in", 0)(s) },
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
			resource: "-", audience: paymentAPI,
		},
		"the API is not named": {
			spec:     func(a *v1alpha1.AuthorizationServerSpec) { a.AudienceParameter = v1alpha1.AudienceParameterNone },
			prepare:  application(func(c *oidc.Client) { c.DefaultResource = paymentAPI }),
			resource: "-",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *oidc.Options) {
				o.Now, o.TokenLifetime = op.clock.Now, lives
				if tc.server != nil {
					tc.server(o)
				}
			})
			s := &stage{world: w, op: op, api: w.api(), cart: w.cart()}
			for _, namespace := range []string{w.payments, w.shop} {
				as := w.server(namespace)
				if tc.spec != nil {
					tc.spec(&as.Spec)
				}
				create(t, as)
			}
			secret := newSecret()
			w.setClient(cartID, secret)
			create(t, s.api, w.secret("cart-credentials", cartID, secret), s.cart)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			s.settle()
			isReady(t, s.cart)
			if tc.verified == "" {
				hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
			} else {
				hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, tc.verified)
			}
			if s.token() == "" {
				t.Error("there is no token")
			}
			status, want := s.status(), tc.lives
			if want == 0 {
				want = lives
			}
			if got := status.ExpiresAt.Sub(status.IssuedAt.Time); got != want {
				t.Errorf("the token is said to live for %s, want %s", got, want)
			}
			if diff := cmp.Diff([]v1alpha1.ScopeName{"payments:write"}, status.Scopes); diff != "" {
				t.Errorf("scopes in the status (-want +got):\n%s", diff)
			}
			requests := s.as.TokenRequests()
			if len(requests) != 1 {
				t.Fatalf("%d token requests, want 1", len(requests))
			}
			wantResource := paymentAPI
			if tc.resource == "-" {
				wantResource = ""
			}
			if r := requests[0]; r.Resource != wantResource || r.Audience != tc.audience {
				t.Errorf("the request had resource %q and audience %q", r.Resource, r.Audience)
			}
		})
	}
}

// TestScopeIsDroppedSilently: the server answers 200 and leaves a scope out.
func TestScopeIsDroppedSilently(t *testing.T) {
	op := startStepped(t)
	for name, opaque := range map[string]bool{"JWT": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op, func(o *oidc.Options) { o.DropUngrantedScopes = true })
			old := s.token()
			err := s.as.SetClient(oidc.Client{
				ID: cartID, Secret: s.credential(), Opaque: opaque, Scopes: map[string][]string{paymentAPI: {"payments:write"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			change(t, s.cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
			})
			fromCache(t, op, s.cart)
			s.settle()
			hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonMissingScopes)
			hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if s.token() != old {
				t.Error("a token without the scope was published")
			}
			s.setClient(cartID, s.credential())
			s.until(op.clock.Now().Add(time.Minute))
			isReady(t, s.cart)
		})
	}
}

// TestPlainResource: an API that no APIResource describes.
func TestPlainResource(t *testing.T) {
	op := startStepped(t)
	w := newWorld(t, func(o *oidc.Options) { o.Now = op.clock.Now })
	secret := newSecret()
	w.setClient(cartID, secret)
	cart := w.cart()
	cart.Spec.Access = []v1alpha1.Access{{Resource: paymentAPI, Key: "pay", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
	create(t, w.server(w.shop), w.secret("cart-credentials", cartID, secret), cart)
	s := &stage{world: w, op: op, cart: cart}
	s.settle()
	isReady(t, cart)
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
	hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	first := tokenIn(t, w.shop, "cart-token", "pay")
	if first == "" {
		t.Fatal("there is no token")
	}
	// It is verified as well.
	w.as.SetFault(oidc.Token, claim("aud", "https://other.example.com")(s))
	s.due()
	s.settle()
	hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongAudience)
	if tokenIn(t, w.shop, "cart-token", "pay") != first {
		t.Error("a token for another API was published")
	}
}
