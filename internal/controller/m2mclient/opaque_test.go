// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestOpaqueTokens: a server whose tokens only it can judge is ready without keys,
// whatever its tokens look like, and no pod waits for a bundle.
func TestOpaqueTokens(t *testing.T) {
	noKeys := &oidc.Fault{Rewrite: func(m map[string]any) { delete(m, "jwks_uri") }}
	for name, tc := range map[string]struct {
		metadata *oidc.Fault
		spec     func(*v1alpha1.AuthorizationServerSpec, *operator.World)
		jwt      bool // the tokens are JWTs nevertheless
		reason   string
	}{
		"the metadata names no JWKS": {metadata: noKeys, reason: v1alpha1.ReasonDiscovered},
		"the metadata names a JWKS, and tokens are JWTs": {
			jwt: true, reason: v1alpha1.ReasonDiscovered,
		},
		"there is no metadata": {
			metadata: &oidc.Fault{Status: 404}, reason: v1alpha1.ReasonEndpointsConfigured,
			spec: func(s *v1alpha1.AuthorizationServerSpec, w *operator.World) {
				s.Endpoints.Token = v1alpha1.EndpointURL(w.AS.TokenURL())
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			op := operator.StartStepped(t)
			w.AS.SetFault(oidc.Discovery, tc.metadata)
			var servers []*v1alpha1.AuthorizationServer
			for _, namespace := range []string{w.Payments, w.Shop} {
				as := w.Server(namespace)
				as.Spec.TokenFormat = v1alpha1.TokenFormatOpaque
				if tc.spec != nil {
					tc.spec(&as.Spec, w)
				}
				servers = append(servers, as)
				operator.Create(t, as)
			}
			secret := operator.NewSecret()
			register(w, oidc.Client{Secret: secret, Opaque: !tc.jwt})
			api, cart := w.API(), w.Cart()
			operator.Create(t, api, w.Secret("cart-credentials", operator.CartID, secret), cart)
			op.Settle(w.Payments, w.Shop)

			for _, as := range servers {
				operator.IsReady(t, as)
				operator.HasCondition(t, as, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, tc.reason)
				if c := meta.FindStatusCondition(as.Status.Conditions, v1alpha1.ConditionKeysFresh); c != nil {
					t.Errorf("the server has the condition %s: %s", c.Type, c.Message)
				}
			}
			if n := w.AS.Count(oidc.JWKS); n != 0 {
				t.Errorf("the JWKS was requested %d times", n)
			}
			operator.IsReady(t, cart)
			c := operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, v1alpha1.ReasonOpaqueToken)
			if want := `The token was not verified, because the tokens of AuthorizationServer "auth" are opaque`; c.Message != want {
				t.Errorf("Verified says %q, want %q", c.Message, want)
			}
			if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
				t.Error("there is no token")
			}
			operator.IsReady(t, api)
			operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonOpaqueToken)

			operator.Create(t, operator.AnnotatedPod(w.Payments, "payment", v1alpha1.VerifyAnnotation, "payment-api"))
			op.Settle(w.Payments, w.Shop)
			c = operator.HasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonOpaqueToken)
			want := `The tokens of AuthorizationServer "auth" are opaque, so there is no verification bundle; remove the annotation m2m-operator.io/verify from the API's workloads`
			if c.Message != want {
				t.Errorf("Ready says %q, want %q", c.Message, want)
			}
			operator.HasNoBundle(t, w.Payments, api)
		})
	}
}

// TestTokensBecomeOpaque switches a server to opaque tokens and back to JWTs. Keys and
// bundles follow.
func TestTokensBecomeOpaque(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	operator.Create(t, operator.AnnotatedPod(w.Payments, "payment", v1alpha1.VerifyAnnotation, "payment-api"))
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, api)
	operator.HasBundle(t, w.Payments, api)
	both := func(format v1alpha1.TokenFormat) {
		t.Helper()
		for _, namespace := range []string{w.Payments, w.Shop} {
			operator.Change(t, w.Server(namespace), func(s *v1alpha1.AuthorizationServer) { s.Spec.TokenFormat = format })
		}
		op.Settle(w.Payments, w.Shop)
	}

	both(v1alpha1.TokenFormatOpaque)
	as := w.Server(w.Payments)
	operator.IsReady(t, as)
	if len(as.Status.Keys) != 0 {
		t.Errorf("the server has %d keys", len(as.Status.Keys))
	}
	operator.HasNoBundle(t, w.Payments, api)
	operator.IsReady(t, cart)

	both(v1alpha1.TokenFormatJWT)
	operator.IsReady(t, as)
	if len(as.Status.Keys) != 1 {
		t.Errorf("the server has %d keys, want 1", len(as.Status.Keys))
	}
	operator.HasBundle(t, w.Payments, api)
	operator.IsReady(t, api)
	operator.IsReady(t, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
}
