// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// TestOpaqueTokens: a server whose tokens only it can judge is ready without keys,
// whatever its tokens look like, and nobody waits for a bundle.
func TestOpaqueTokens(t *testing.T) {
	noKeys := &oidc.Fault{Rewrite: func(m map[string]any) { delete(m, "jwks_uri") }}
	for name, tc := range map[string]struct {
		metadata *oidc.Fault
		spec     func(*v1alpha1.AuthorizationServerSpec, *world)
		jwt      bool // the tokens are JWTs all the same
		reason   string
	}{
		"the metadata names no JWKS": {metadata: noKeys, reason: v1alpha1.ReasonDiscovered},
		"the metadata names a JWKS, and tokens are JWTs": {
			jwt: true, reason: v1alpha1.ReasonDiscovered,
		},
		"there is no metadata": {
			metadata: &oidc.Fault{Status: 404}, reason: v1alpha1.ReasonEndpointsConfigured,
			spec: func(s *v1alpha1.AuthorizationServerSpec, w *world) {
				s.Endpoints.Token = v1alpha1.EndpointURL(w.as.TokenURL())
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			op := startStepped(t)
			w.as.SetFault(oidc.Discovery, tc.metadata)
			var servers []*v1alpha1.AuthorizationServer
			for _, namespace := range []string{w.payments, w.shop} {
				as := w.server(namespace)
				as.Spec.TokenFormat = v1alpha1.TokenFormatOpaque
				if tc.spec != nil {
					tc.spec(&as.Spec, w)
				}
				servers = append(servers, as)
				create(t, as)
			}
			secret := newSecret()
			w.register(oidc.Client{Secret: secret, Opaque: !tc.jwt})
			api, cart := w.api(), w.cart()
			create(t, api, w.secret("cart-credentials", cartID, secret), cart)
			op.settle(w.payments, w.shop)

			for _, as := range servers {
				isReady(t, as)
				hasCondition(t, as, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, tc.reason)
				if c := meta.FindStatusCondition(as.Status.Conditions, v1alpha1.ConditionKeysFresh); c != nil {
					t.Errorf("the server has the condition %s: %s", c.Type, c.Message)
				}
			}
			if n := w.as.Count(oidc.JWKS); n != 0 {
				t.Errorf("the JWKS was asked for %d times", n)
			}
			isReady(t, cart)
			c := hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, v1alpha1.ReasonOpaqueToken)
			if want := `The token was not checked, for those of AuthorizationServer "auth" are opaque`; c.Message != want {
				t.Errorf("Verified says %q, want %q", c.Message, want)
			}
			if tokenIn(t, w.shop, "cart-token", "payment-api") == "" {
				t.Error("there is no token")
			}
			isReady(t, api)
			hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonOpaqueToken)

			create(t, annotatedPod(w.payments, "payment", v1alpha1.VerifyAnnotation, "payment-api"))
			op.settle(w.payments, w.shop)
			c = hasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonOpaqueToken)
			want := `There is no verification bundle, for the tokens of AuthorizationServer "auth" are opaque; take the annotation m2m-operator.io/verify off the API's workloads`
			if c.Message != want {
				t.Errorf("Ready says %q, want %q", c.Message, want)
			}
			hasNoBundle(t, w.payments, api)
		})
	}
}

// TestTokensBecomeOpaque and JWTs again: keys and bundles follow what the server's
// owner says.
func TestTokensBecomeOpaque(t *testing.T) {
	w := newWorld(t)
	api, cart := w.story()
	create(t, annotatedPod(w.payments, "payment", v1alpha1.VerifyAnnotation, "payment-api"))
	op := startStepped(t)
	op.settle(w.payments, w.shop)
	isReady(t, api)
	hasBundle(t, w.payments, api)
	both := func(format v1alpha1.TokenFormat) {
		t.Helper()
		for _, namespace := range []string{w.payments, w.shop} {
			change(t, w.server(namespace), func(s *v1alpha1.AuthorizationServer) { s.Spec.TokenFormat = format })
		}
		op.settle(w.payments, w.shop)
	}

	both(v1alpha1.TokenFormatOpaque)
	as := w.server(w.payments)
	isReady(t, as)
	if len(as.Status.Keys) != 0 {
		t.Errorf("the server has %d keys", len(as.Status.Keys))
	}
	hasNoBundle(t, w.payments, api)
	isReady(t, cart)

	both(v1alpha1.TokenFormatJWT)
	isReady(t, as)
	if len(as.Status.Keys) != 1 {
		t.Errorf("the server has %d keys, want 1", len(as.Status.Keys))
	}
	hasBundle(t, w.payments, api)
	isReady(t, api)
	isReady(t, cart)
	hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
}
