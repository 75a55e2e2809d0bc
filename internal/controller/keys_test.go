// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// verifyWith returns a Deployment that asks for verification bundles.
func verifyWith(namespace, name, refs string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{v1alpha1.VerifyAnnotation: refs}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: podTemplate(name, nil),
		},
	}
}

func podTemplate(name string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/image"}}},
	}
}

// verifies has a workload of the API's namespace ask for the bundle.
func (s *stage) verifies() {
	s.t.Helper()
	payment := verifyWith(s.payments, "payment", "payment-api")
	create(s.t, payment)
	eventuallyCached(s.t, s.op, payment)
	s.settle()
	if s.bundle() == nil {
		s.t.Fatal("there is no bundle")
	}
}

// bundle returns the bundle in the API's namespace, nil if there is none.
func (s *stage) bundle() *corev1.ConfigMap {
	s.t.Helper()
	return bundleIn(s.t, s.payments, s.api)
}

func bundleIn(t *testing.T, namespace string, api *v1alpha1.APIResource) *corev1.ConfigMap {
	t.Helper()
	var m corev1.ConfigMap
	err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}, &m)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return &m
}

// bundledKeys returns the IDs of the keys in a bundle's jwks.json, sorted.
func bundledKeys(t *testing.T, bundle *corev1.ConfigMap) []string {
	t.Helper()
	keys, _, err := jwks.Parse([]byte(bundle.Data["jwks.json"]))
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return ids
}

// keyOfToken returns the ID of the key that signed a token.
func keyOfToken(t *testing.T, token string) string {
	t.Helper()
	claims, err := jwks.Inspect(token)
	if err != nil {
		t.Fatal(err)
	}
	return claims.KeyID
}

// keys returns the keys in the status of the API's server.
func (s *stage) keys() []v1alpha1.SigningKey {
	s.t.Helper()
	server := s.server(s.payments)
	if err := kube.Get(s.t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
		s.t.Fatal(err)
	}
	return server.Status.Keys
}

// setServers changes the servers of the API and of the client.
func (s *stage) setServers(mutate func(*v1alpha1.AuthorizationServerSpec)) {
	s.t.Helper()
	for _, namespace := range []string{s.payments, s.shop} {
		s.setServer(namespace, mutate)
	}
}

func (s *stage) setServer(namespace string, mutate func(*v1alpha1.AuthorizationServerSpec)) {
	s.t.Helper()
	server := s.server(namespace)
	change(s.t, server, func(a *v1alpha1.AuthorizationServer) { mutate(&a.Spec) })
	fromCache(s.t, s.op, server)
}

var errNotCached = errors.New("the cache is behind")

// cached waits until the operator's cache has an object as it is.
func fromCache(t *testing.T, op *operator, obj client.Object) {
	t.Helper()
	have := obj.DeepCopyObject().(client.Object)
	eventually(t, func() error {
		if err := op.client.Get(t.Context(), client.ObjectKeyFromObject(obj), have); err != nil {
			return err
		}
		if have.GetGeneration() != obj.GetGeneration() {
			return errNotCached
		}
		return nil
	})
}

// rarely has the servers' keys polled so rarely that a test does not see it.
func (s *stage) rarely() {
	s.t.Helper()
	s.setServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "24h" })
	s.settle()
	s.as.ResetRequests()
}

// TestOnlyPublicSigningKeysAreTaken gives the server every kind of odd key.
func TestOnlyPublicSigningKeysAreTaken(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()

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
	s.as.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
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
	op.advance(authserver.DefaultKeyRefreshInterval)
	s.settle()

	server := s.server(s.payments)
	hasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	want := []string{s.as.KeyID(), ec["kid"].(string), rsa["kid"].(string), ed["kid"].(string)}
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
	bundle := s.bundle()
	if diff := cmp.Diff(want, bundledKeys(t, bundle)); diff != "" {
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

// TestKeysAreAskedForConditionally: keys that did not change cost no write.
func TestKeysAreAskedForConditionally(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	op.requests.reset()
	for range 3 {
		op.advance(authserver.DefaultKeyRefreshInterval)
		s.settle()
	}
	if n, asked := s.as.NotModified(), s.as.Count(oidc.JWKS); n != 2*3 || asked != n {
		t.Errorf("%d of %d requests of two servers in three intervals were answered with 304", n, asked)
	}
	if diff := cmp.Diff([]string{}, op.requests.writes()); diff != "" {
		t.Errorf("keys that did not change were written (-want +got):\n%s", diff)
	}
}

// TestUnknownKeyIsFetchedOnce: a fresh token that is signed by a key which is
// not known has the keys fetched, and is published when the bundle has the key.
func TestUnknownKeyIsFetchedOnce(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	s.rarely()
	old := s.token()
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.due()
	s.as.ResetRequests()
	if _, err := op.reconcilers.client.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(s.cart))); err != nil {
		t.Fatal(err)
	}
	if s.token() != old {
		t.Error("a token with an unknown key was published over one that works")
	}
	isReady(t, s.cart)
	hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	s.until(op.clock.Now().Add(10 * time.Second))
	if got := keyOfToken(t, s.token()); got != kid {
		t.Errorf("the token is signed by %s, want the new key %s", got, kid)
	}
	if !slices.Contains(bundledKeys(t, s.bundle()), kid) {
		t.Error("the bundle does not have the new key")
	}
	if got := s.status().KeyID; got != kid {
		t.Errorf("the status names the key %q", got)
	}
	if n := s.as.Count(oidc.JWKS); n != 1 {
		t.Errorf("the keys were fetched %d times, want once", n)
	}
	if n := s.as.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// TestUnknownKeyWhereThereIsNoToken: nothing is called wrong while the keys are being
// fetched, and what is wrong is told after keyPatience.
func TestUnknownKeyWhereThereIsNoToken(t *testing.T) {
	op := startStepped(t)
	for name, published := range map[string]bool{"the key is published": true, "the key is never published": false} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			s.rarely()
			kid, err := s.as.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			if !published {
				s.as.RevokeKey(kid)
			}
			remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.shop, Name: "cart-token"}})
			op.catchUp(s.shop)
			s.as.ResetRequests()
			if _, err := op.reconcilers.client.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(s.cart))); err != nil {
				t.Fatal(err)
			}
			hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionUnknown, v1alpha1.ReasonWaitingForKey)
			hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonWaitingForKey)
			hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionUnknown, v1alpha1.ReasonNoToken)
			s.until(op.clock.Now().Add(verdict.KeyPatience))
			s.requested(1)
			if published {
				isReady(t, s.cart)
				return
			}
			hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnknownKey)
			hasCondition(t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		})
	}
}

// TestKeyThatIsNeverPublished: the server signs with a key that is not in its
// JWKS, and later with another one that is.
func TestKeyThatIsNeverPublished(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.rarely()
	old := s.token()
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.as.RevokeKey(kid)
	s.due()
	s.as.ResetRequests()
	s.until(op.clock.Now().Add(10 * time.Minute))
	isReady(t, s.cart)
	failed := hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
	if !strings.Contains(failed.Message, kid) {
		t.Errorf("the message %q does not name the key", failed.Message)
	}
	hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnknownKey)
	if s.token() != old {
		t.Error("a token with an unknown key was published over one that works")
	}
	if n := s.as.Count(oidc.JWKS); n < 2 || n > 60 {
		t.Errorf("the keys were fetched %d times in ten minutes", n)
	}
	if n := s.as.Count(oidc.Token); n > 8 {
		t.Errorf("%d token requests in ten minutes", n)
	}

	if err := s.as.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.until(op.clock.Now().Add(6*time.Minute + time.Second))
	hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if got := keyOfToken(t, s.token()); got != s.as.KeyID() {
		t.Errorf("the token is signed by %s, want %s", got, s.as.KeyID())
	}
}

// TestUnknownKeysAreFetchedSeldom: many clients with tokens of a key that nobody
// knows do not have the keys fetched over and over.
func TestUnknownKeysAreFetchedSeldom(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	for i := range 5 {
		eventuallyCached(t, op, s.another(fmt.Sprintf("other-%d", i)))
	}
	s.rarely()
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.as.RevokeKey(kid)
	op.advance(45 * time.Minute) // all are due
	s.until(op.clock.Now().Add(time.Minute))
	if n, most := s.as.Count(oidc.JWKS), int(time.Minute/servers.KeyRefetchInterval)+1; n < 2 || n > most {
		t.Errorf("the keys were fetched %d times in a minute, want 2 to %d", n, most)
	}
}

// TestAnnouncedRotation: a key that was published before it signs makes nobody
// wait.
func TestAnnouncedRotation(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	old := s.as.KeyID()
	kid, err := s.as.AnnounceKey()
	if err != nil {
		t.Fatal(err)
	}
	op.advance(authserver.DefaultKeyRefreshInterval)
	s.settle()
	want := []string{old, kid}
	slices.Sort(want)
	if diff := cmp.Diff(want, bundledKeys(t, s.bundle())); diff != "" {
		t.Errorf("keys in the bundle (-want +got):\n%s", diff)
	}
	if err := s.as.PromoteKey(); err != nil {
		t.Fatal(err)
	}
	s.due()
	s.as.ResetRequests()
	if _, err := op.reconcilers.client.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(s.cart))); err != nil {
		t.Fatal(err)
	}
	if got := keyOfToken(t, s.token()); got != kid {
		t.Errorf("the token is signed by %s, want the announced key %s", got, kid)
	}
	if n := s.as.Count(oidc.JWKS); n != 0 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// TestRetiredKeys: a key that the server no longer publishes stays for the
// retention, over a restart.
func TestRetiredKeys(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	s.setServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.Retention = "2h" })
	s.settle()
	seen := s.keys()[0].FirstSeenAt
	op.advance(10 * time.Minute)
	old := s.as.KeyID()
	if err := s.as.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.settle()
	retired := op.clock.Now()
	both := []string{old, s.as.KeyID()}
	slices.Sort(both)
	check := func(when string) {
		t.Helper()
		keys := s.keys()
		if len(keys) != 2 {
			t.Fatalf("%s: %d keys in the status", when, len(keys))
		}
		if k := keys[0]; k.KeyID != old || !k.FirstSeenAt.Equal(seen) || k.RetiredAt == nil || !k.RetiredAt.Time.Equal(retired) {
			t.Errorf("%s: the old key is %s, first seen at %s, retired at %v", when, k.KeyID, k.FirstSeenAt, k.RetiredAt)
		}
		if k := keys[1]; k.KeyID != s.as.KeyID() || !k.FirstSeenAt.Time.Equal(retired) || k.RetiredAt != nil {
			t.Errorf("%s: the new key is %s, first seen at %s, retired at %v", when, k.KeyID, k.FirstSeenAt, k.RetiredAt)
		}
		if diff := cmp.Diff(both, bundledKeys(t, s.bundle())); diff != "" {
			t.Errorf("%s: keys in the bundle (-want +got):\n%s", when, diff)
		}
	}
	check("when it is retired")

	op.stop()
	again := startStepped(t, func(o *Options) { o.Clock = op.clock })
	again.clock, s.op = op.clock, again
	op.advance(time.Minute)
	s.settle()
	check("after a restart")
	if n := len(again.requests.writes()); n != 0 {
		t.Errorf("the restart wrote %v", again.requests.writes())
	}
	op.clock.SetTime(retired.Add(2*time.Hour - time.Second))
	s.settle()
	check("a second before the retention ends")
	s.until(retired.Add(2 * time.Hour))
	if diff := cmp.Diff([]string{s.as.KeyID()}, bundledKeys(t, s.bundle())); diff != "" {
		t.Errorf("keys in the bundle after the retention (-want +got):\n%s", diff)
	}
	if keys := s.keys(); len(keys) != 1 {
		t.Errorf("%d keys in the status after the retention", len(keys))
	}
}
