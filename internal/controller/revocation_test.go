// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

func revoke(kids ...string) func(*v1alpha1.AuthorizationServerSpec) {
	return func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = kids }
}

// TestRevokedKey: one pass takes a revoked key out of every bundle and replaces
// what it signed.
func TestRevokedKey(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	cart := verifyWith(s.shop, "cart", s.payments+"/payment-api")
	create(t, cart)
	eventuallyCached(t, op, cart)
	s.settle()
	old := s.as.KeyID()
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.setServers(revoke(old))
	s.as.ResetRequests()
	op.round(s.payments, s.shop)
	for _, namespace := range []string{s.payments, s.shop} {
		if diff := cmp.Diff([]string{kid}, bundledKeys(t, bundleIn(t, namespace, s.api))); diff != "" {
			t.Errorf("keys in the bundle of %s (-want +got):\n%s", namespace, diff)
		}
	}
	if got := keyOfToken(t, s.token()); got != kid {
		t.Errorf("the token is signed by %s, want %s", got, kid)
	}
	if slices.ContainsFunc(s.keys(), func(k v1alpha1.SigningKey) bool { return k.KeyID == old }) {
		t.Error("the revoked key is in the status")
	}
	if n := s.as.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	isReady(t, s.cart)
	isReady(t, s.api)
}

// TestOnlyKeyIsRevoked: nothing verifies any more, until the server has another
// key.
func TestOnlyKeyIsRevoked(t *testing.T) {
	op := startStepped(t)
	for name, revokeAt := range map[string]func(*stage){
		"at both servers":        func(s *stage) { s.setServers(revoke(s.as.KeyID())) },
		"at the API's server":    func(s *stage) { s.setServer(s.payments, revoke(s.as.KeyID())) },
		"at the client's server": func(s *stage) { s.setServer(s.shop, revoke(s.as.KeyID())) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			s.verifies()
			revokeAt(s)
			s.as.ResetRequests()
			s.until(op.clock.Now().Add(10 * time.Minute))
			hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, string(refresh.KeyRevoked))
			hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if n := s.as.Count(oidc.Token); n > 8 {
				t.Errorf("%d token requests in ten minutes for tokens that nobody may trust", n)
			}
			if name != "at the client's server" {
				if ids := bundledKeys(t, s.bundle()); len(ids) != 0 {
					t.Errorf("the bundle has the keys %v", ids)
				}
				hasCondition(t, s.server(s.payments), v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNoKeys)
			}

			if err := s.as.RotateKeyHard(); err != nil {
				t.Fatal(err)
			}
			s.until(op.clock.Now().Add(6*time.Minute + time.Second))
			isReady(t, s.cart)
			if got := keyOfToken(t, s.token()); got != s.as.KeyID() {
				t.Errorf("the token is signed by %s, want %s", got, s.as.KeyID())
			}
		})
	}
}

// TestTheBundleGoesAheadAfterARevocation has the client reconciled before the
// bundle: its new token waits until the API is given the key, but not for long.
func TestTheBundleGoesAheadAfterARevocation(t *testing.T) {
	op := startStepped(t)
	for name, tc := range map[string]struct {
		bundles bool
		after   time.Duration
		waits   bool
	}{
		"the bundle has the key":          {bundles: true},
		"the bundle does not come about":  {after: verdict.RevokedHold, waits: false},
		"the bundle has not the key, yet": {after: verdict.RevokedHold - time.Second, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			s.verifies()
			old := s.as.KeyID()
			kid, err := s.as.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			s.setServers(revoke(old))
			for _, namespace := range []string{s.payments, s.shop} {
				server := s.server(namespace)
				if _, err := op.server[0].Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(server)}); err != nil {
					t.Fatal(err)
				}
			}
			pass := func() string {
				t.Helper()
				if _, err := op.reconcilers.client.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(s.cart)}); err != nil {
					t.Fatal(err)
				}
				return keyOfToken(t, s.token())
			}
			s.as.ResetRequests()
			if got := pass(); got != old {
				t.Fatalf("a token of key %s was published before the bundle had it", got)
			}
			if tc.bundles {
				for _, b := range op.bundle.Bundles(t.Context(), client.ObjectKeyFromObject(s.api)) {
					if _, err := op.bundle.Reconcile(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
				op.awaitBundles()
			}
			op.clock.SetTime(op.clock.Now().Add(tc.after))
			want := kid
			if tc.waits {
				want = old
			}
			if got := pass(); got != want {
				t.Errorf("the token is signed by %s, want %s", got, want)
			}
			if n := s.as.Count(oidc.Token); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}
