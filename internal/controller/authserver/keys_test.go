// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// keysOf returns the keys in the status of the API's server.
func keysOf(s *operator.Stage) []v1alpha1.SigningKey {
	s.T.Helper()
	server := s.Server(s.Payments)
	if err := operator.Kube.Get(s.T.Context(), client.ObjectKeyFromObject(server), server); err != nil {
		s.T.Fatal(err)
	}
	return server.Status.Keys
}

// TestOnlyPublicSigningKeysAreTaken publishes every kind of unusual key.
func TestOnlyPublicSigningKeysAreTaken(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()

	const private = "cHJpdmF0ZS1tZW1iZXI" // under whatever name, it must not show
	pair := func(alg string) map[string]any {
		_, jwk, _, err := oidc.NewKeyPair(alg)
		if err != nil {
			t.Fatal(err)
		}
		var key map[string]any
		if err := json.Unmarshal(jwk, &key); err != nil {
			t.Fatal(err)
		}
		for _, member := range []string{"d", "p", "q", "dp", "dq", "qi"} {
			if key[member] != nil {
				key[member] = private
			}
		}
		key["x5c"], key["comment"] = []string{private}, private
		return key
	}
	ec, rsa, ed := pair("ES256"), pair("RS256"), pair("EdDSA")
	enc := pair("ES384")
	enc["use"] = "enc"
	s.AS.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
		m["keys"] = append(m["keys"].([]any),
			map[string]any{"kty": "oct", "kid": "symmetric", "k": private},
			map[string]any{"kty": "oct", "kid": "symmetric-sig", "k": private, "use": "sig", "alg": "HS256"},
			enc, ec, rsa, ed,
			map[string]any{"kty": "EC", "crv": "secp256k1", "kid": "curve", "x": "AA", "y": "AA"},
			map[string]any{"kty": "OKP", "crv": "X25519", "kid": "exchange", "x": "AA"},
			map[string]any{"kty": "AKP", "alg": "ML-DSA-44", "kid": "later", "pub": "AA"},
			map[string]any{"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
			map[string]any{}, "no key", 7, nil, []any{ec},
		)
	}})
	op.Advance(authserver.DefaultKeyRefreshInterval)
	s.Settle()

	server := s.Server(s.Payments)
	operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	want := []string{s.AS.KeyID(), ec["kid"].(string), rsa["kid"].(string), ed["kid"].(string)}
	slices.Sort(want)
	got := []string{}
	public := []string{"alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"}
	for _, k := range server.Status.Keys {
		got = append(got, k.KeyID)
		var members map[string]any
		if err := json.Unmarshal([]byte(k.PublicKey), &members); err != nil {
			t.Fatal(err)
		}
		for name := range maps.Keys(members) {
			if !slices.Contains(public, name) {
				t.Errorf("the key %s has the member %q in the status", k.KeyID, name)
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys in the status (-want +got):\n%s", diff)
	}
	bundle := s.Bundle()
	if diff := cmp.Diff(want, operator.BundledKeys(t, bundle)); diff != "" {
		t.Errorf("keys in the bundle (-want +got):\n%s", diff)
	}
	for _, o := range []any{server.Status, bundle} {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{private, "symmetric", `"oct"`, `"enc"`} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s is in the %T", secret, o)
			}
		}
	}
}

// TestKeysAreAskedForConditionally: unchanged keys cause no write.
func TestKeysAreAskedForConditionally(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	op.Requests.Reset()
	for range 3 {
		op.Advance(authserver.DefaultKeyRefreshInterval)
		s.Settle()
	}
	if n, asked := s.AS.NotModified(), s.AS.Count(oidc.JWKS); n != 2*3 || asked != n {
		t.Errorf("%d of %d requests of two servers in three intervals were answered with 304", n, asked)
	}
	if diff := cmp.Diff([]string{}, op.Requests.Writes()); diff != "" {
		t.Errorf("keys that did not change were written (-want +got):\n%s", diff)
	}
}

// TestUnknownKeyIsFetchedOnce: a fresh token that is signed with an unknown key causes
// one fetch of the keys, and is published when the bundle has the key.
func TestUnknownKeyIsFetchedOnce(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	s.Rarely()
	old := s.Token()
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.AS.ResetRequests()
	if _, err := op.M2MClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.Cart))); err != nil {
		t.Fatal(err)
	}
	if s.Token() != old {
		t.Error("a token with an unknown key was published over one that works")
	}
	operator.IsReady(t, s.Cart)
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	s.Until(op.Clock.Now().Add(10 * time.Second))
	if got := operator.KeyOfToken(t, s.Token()); got != kid {
		t.Errorf("the token is signed by %s, want the new key %s", got, kid)
	}
	if !slices.Contains(operator.BundledKeys(t, s.Bundle()), kid) {
		t.Error("the bundle does not have the new key")
	}
	if got := s.Status().KeyID; got != kid {
		t.Errorf("the status names the key %q", got)
	}
	if n := s.AS.Count(oidc.JWKS); n != 1 {
		t.Errorf("the keys were fetched %d times, want once", n)
	}
	if n := s.AS.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// TestUnknownKeyWhereThereIsNoToken: no condition reports a failure while the keys are
// being fetched; after keyPatience it says what is wrong.
func TestUnknownKeyWhereThereIsNoToken(t *testing.T) {
	op := operator.StartStepped(t)
	for name, published := range map[string]bool{"the key is published": true, "the key is never published": false} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Rarely()
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			if !published {
				s.AS.RevokeKey(kid)
			}
			operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Shop, Name: "cart-token"}})
			op.CatchUp(s.Shop)
			s.AS.ResetRequests()
			if _, err := op.M2MClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.Cart))); err != nil {
				t.Fatal(err)
			}
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionUnknown, v1alpha1.ReasonWaitingForKey)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonWaitingForKey)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, v1alpha1.ReasonNoToken)
			s.Until(op.Clock.Now().Add(verdict.KeyPatience))
			s.Requested(1)
			if published {
				operator.IsReady(t, s.Cart)
				return
			}
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnknownKey)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		})
	}
}

// TestKeyThatIsNeverPublished: the server signs with a key that is not in its JWKS,
// and later with another key that is.
func TestKeyThatIsNeverPublished(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Rarely()
	old := s.Token()
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.AS.RevokeKey(kid)
	s.Due()
	s.AS.ResetRequests()
	s.Until(op.Clock.Now().Add(10 * time.Minute))
	operator.IsReady(t, s.Cart)
	failed := operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
	if !strings.Contains(failed.Message, kid) {
		t.Errorf("the message %q does not name the key", failed.Message)
	}
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnknownKey)
	if s.Token() != old {
		t.Error("a token with an unknown key was published over one that works")
	}
	if n := s.AS.Count(oidc.JWKS); n < 2 || n > 60 {
		t.Errorf("the keys were fetched %d times in ten minutes", n)
	}
	if n := s.AS.Count(oidc.Token); n > 8 {
		t.Errorf("%d token requests in ten minutes", n)
	}

	if err := s.AS.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.Until(op.Clock.Now().Add(6*time.Minute + time.Second))
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if got := operator.KeyOfToken(t, s.Token()); got != s.AS.KeyID() {
		t.Errorf("the token is signed by %s, want %s", got, s.AS.KeyID())
	}
}

// TestUnknownKeysAreFetchedSeldom: many clients with tokens of an unknown key do not
// cause repeated fetches of the keys.
func TestUnknownKeysAreFetchedSeldom(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	for i := range 5 {
		operator.EventuallyCached(t, op, s.Another(fmt.Sprintf("other-%d", i)))
	}
	s.Rarely()
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.AS.RevokeKey(kid)
	op.Advance(45 * time.Minute) // all are due
	s.Until(op.Clock.Now().Add(time.Minute))
	if n, most := s.AS.Count(oidc.JWKS), int(time.Minute/servers.KeyRefetchInterval)+1; n < 2 || n > most {
		t.Errorf("the keys were fetched %d times in a minute, want 2 to %d", n, most)
	}
}

// TestAnnouncedRotation: if a key is published before it signs, no token waits.
func TestAnnouncedRotation(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	old := s.AS.KeyID()
	kid, err := s.AS.AnnounceKey()
	if err != nil {
		t.Fatal(err)
	}
	op.Advance(authserver.DefaultKeyRefreshInterval)
	s.Settle()
	want := []string{old, kid}
	slices.Sort(want)
	if diff := cmp.Diff(want, operator.BundledKeys(t, s.Bundle())); diff != "" {
		t.Errorf("keys in the bundle (-want +got):\n%s", diff)
	}
	if err := s.AS.PromoteKey(); err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.AS.ResetRequests()
	if _, err := op.M2MClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.Cart))); err != nil {
		t.Fatal(err)
	}
	if got := operator.KeyOfToken(t, s.Token()); got != kid {
		t.Errorf("the token is signed by %s, want the announced key %s", got, kid)
	}
	if n := s.AS.Count(oidc.JWKS); n != 0 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// TestRetiredKeys: a key that the server no longer publishes stays for the retention,
// also across a restart.
func TestRetiredKeys(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.Retention = "2h" })
	s.Settle()
	seen := keysOf(s)[0].FirstSeenAt
	op.Advance(10 * time.Minute)
	old := s.AS.KeyID()
	if err := s.AS.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	retired := op.Clock.Now()
	both := []string{old, s.AS.KeyID()}
	slices.Sort(both)
	check := func(when string) {
		t.Helper()
		keys := keysOf(s)
		if len(keys) != 2 {
			t.Fatalf("%s: %d keys in the status", when, len(keys))
		}
		if k := keys[0]; k.KeyID != old || !k.FirstSeenAt.Equal(seen) || k.RetiredAt == nil || !k.RetiredAt.Time.Equal(retired) {
			t.Errorf("%s: the old key is %s, first seen at %s, retired at %v", when, k.KeyID, k.FirstSeenAt, k.RetiredAt)
		}
		if k := keys[1]; k.KeyID != s.AS.KeyID() || !k.FirstSeenAt.Time.Equal(retired) || k.RetiredAt != nil {
			t.Errorf("%s: the new key is %s, first seen at %s, retired at %v", when, k.KeyID, k.FirstSeenAt, k.RetiredAt)
		}
		if diff := cmp.Diff(both, operator.BundledKeys(t, s.Bundle())); diff != "" {
			t.Errorf("%s: keys in the bundle (-want +got):\n%s", when, diff)
		}
	}
	check("when it is retired")

	op.Stop()
	again := operator.StartStepped(t, func(o *controller.Options) { o.Clock = op.Clock })
	again.Clock, s.Op = op.Clock, again
	op.Advance(time.Minute)
	s.Settle()
	check("after a restart")
	if n := len(again.Requests.Writes()); n != 0 {
		t.Errorf("the restart wrote %v", again.Requests.Writes())
	}
	op.Clock.SetTime(retired.Add(2*time.Hour - time.Second))
	s.Settle()
	check("a second before the retention ends")
	s.Until(retired.Add(2 * time.Hour))
	if diff := cmp.Diff([]string{s.AS.KeyID()}, operator.BundledKeys(t, s.Bundle())); diff != "" {
		t.Errorf("keys in the bundle after the retention (-want +got):\n%s", diff)
	}
	if keys := keysOf(s); len(keys) != 1 {
		t.Errorf("%d keys in the status after the retention", len(keys))
	}
}
