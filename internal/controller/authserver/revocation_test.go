// SPDX-License-Identifier: Apache-2.0

package authserver_test

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
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// TestRevokedKey: one pass removes a revoked key from every bundle and replaces the
// tokens that it signed.
func TestRevokedKey(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	cart := operator.VerifyWith(s.Shop, "cart", s.Payments+"/payment-api")
	operator.Create(t, cart)
	operator.EventuallyCached(t, op, cart)
	s.Settle()
	old := s.AS.KeyID()
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.SetServers(operator.Revoke(old))
	s.AS.ResetRequests()
	op.Round(s.Payments, s.Shop)
	for _, namespace := range []string{s.Payments, s.Shop} {
		if diff := cmp.Diff([]string{kid}, operator.BundledKeys(t, operator.BundleIn(t, namespace, s.API))); diff != "" {
			t.Errorf("keys in the bundle of %s (-want +got):\n%s", namespace, diff)
		}
	}
	if got := operator.KeyOfToken(t, s.Token()); got != kid {
		t.Errorf("the token is signed by %s, want %s", got, kid)
	}
	if slices.ContainsFunc(keysOf(s), func(k v1alpha1.SigningKey) bool { return k.KeyID == old }) {
		t.Error("the revoked key is in the status")
	}
	if n := s.AS.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	operator.IsReady(t, s.Cart)
	operator.IsReady(t, s.API)
}

// TestOnlyKeyIsRevoked: no token verifies until the server has another key.
func TestOnlyKeyIsRevoked(t *testing.T) {
	op := operator.StartStepped(t)
	for name, revokeAt := range map[string]func(*operator.Stage){
		"at both servers":        func(s *operator.Stage) { s.SetServers(operator.Revoke(s.AS.KeyID())) },
		"at the API's server":    func(s *operator.Stage) { s.SetServer(s.Payments, operator.Revoke(s.AS.KeyID())) },
		"at the client's server": func(s *operator.Stage) { s.SetServer(s.Shop, operator.Revoke(s.AS.KeyID())) },
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			revokeAt(s)
			s.AS.ResetRequests()
			s.Until(op.Clock.Now().Add(10 * time.Minute))
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, string(refresh.KeyRevoked))
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			if n := s.AS.Count(oidc.Token); n > 8 {
				t.Errorf("%d token requests in ten minutes for tokens that no API may trust", n)
			}
			if name != "at the client's server" {
				if ids := operator.BundledKeys(t, s.Bundle()); len(ids) != 0 {
					t.Errorf("the bundle has the keys %v", ids)
				}
				operator.HasCondition(t, s.Server(s.Payments), v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNoKeys)
			}

			if err := s.AS.RotateKeyHard(); err != nil {
				t.Fatal(err)
			}
			s.Until(op.Clock.Now().Add(6*time.Minute + time.Second))
			operator.IsReady(t, s.Cart)
			if got := operator.KeyOfToken(t, s.Token()); got != s.AS.KeyID() {
				t.Errorf("the token is signed by %s, want %s", got, s.AS.KeyID())
			}
		})
	}
}

// TestTheBundleGoesAheadAfterARevocation reconciles the client before the bundle. The
// new token waits for a bounded time until the API gets the key.
func TestTheBundleGoesAheadAfterARevocation(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		bundles bool
		after   time.Duration
		waits   bool
	}{
		"the bundle has the key":               {bundles: true},
		"the bundle cannot be written":         {after: verdict.RevokedHold, waits: false},
		"the bundle does not have the key yet": {after: verdict.RevokedHold - time.Second, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			old := s.AS.KeyID()
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			s.SetServers(operator.Revoke(old))
			for _, namespace := range []string{s.Payments, s.Shop} {
				server := s.Server(namespace)
				if _, err := op.AuthorizationServers[0].Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(server)}); err != nil {
					t.Fatal(err)
				}
			}
			pass := func() string {
				t.Helper()
				if _, err := op.M2MClients.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(s.Cart)}); err != nil {
					t.Fatal(err)
				}
				return operator.KeyOfToken(t, s.Token())
			}
			s.AS.ResetRequests()
			if got := pass(); got != old {
				t.Fatalf("a token of key %s was published before the bundle had it", got)
			}
			if tc.bundles {
				for _, b := range op.Bundles.Bundles(t.Context(), client.ObjectKeyFromObject(s.API)) {
					if _, err := op.Bundles.Reconcile(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
				op.AwaitBundles()
			}
			op.Clock.SetTime(op.Clock.Now().Add(tc.after))
			want := kid
			if tc.waits {
				want = old
			}
			if got := pass(); got != want {
				t.Errorf("the token is signed by %s, want %s", got, want)
			}
			if n := s.AS.Count(oidc.Token); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}
