// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// core is what must work with every authorization server. Its first tests need no control over it.
var core = []struct {
	name    string
	control bool // the test changes the server
	options serverOptions
	run     func(*testing.T, *world)
}{
	{name: "its answers are understood", run: testProbe},
	{name: "discovery names the issuer exactly", options: serverOptions{path: "/oidc"}, run: testDiscovery},
	{name: "the distributed files verify the token", options: serverOptions{path: "/oidc"}, run: testToken},
	{name: "a lost token is replaced", run: testLostToken},
	{name: "a token is replaced before it expires", options: serverOptions{lifetime: 10 * time.Second}, run: testRefresh},

	{name: "every way to authenticate", control: true, run: testAuthentication},
	{name: "tokens signed with RS256", control: true, options: serverOptions{algorithm: "RS256"}, run: testToken},
	{name: "tokens signed with PS256", control: true, options: serverOptions{algorithm: "PS256"}, run: testToken},
	{name: "tokens signed with ES384", control: true, options: serverOptions{algorithm: "ES384"}, run: testToken},
	{name: "tokens signed with EdDSA", control: true, options: serverOptions{algorithm: "EdDSA"}, run: testToken},
	{name: "keys are rotated while calls go on", control: true, run: testRotation},
	{name: "a wrong secret is told and healed", control: true, run: testWrongSecret},
	{name: "an unknown resource is told", control: true, run: testUnknownResource},
	{name: "a scope that the server refuses is told", control: true, run: testScopeRefused},
	{name: "a scope that the server leaves out is told", control: true, options: serverOptions{dropUngranted: true}, run: testScopeDropped},
}

func TestInterop(t *testing.T) {
	for _, s := range subjects {
		t.Run("server="+s.name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting for the next fetch of the keys
			for _, tc := range core {
				if s.named != nil && (tc.control || t.Failed()) {
					continue // the rest would fail as well, but take long to do so
				}
				t.Run(tc.name, func(t *testing.T) {
					w := newWorld(t, s, tc.options)
					start := time.Now()
					defer func() { reportCheck(s.name, tc.name, *w.notCheck, t.Failed(), time.Since(start)) }()
					tc.run(t, w)
				})
			}
		})
	}
}

func testDiscovery(t *testing.T, w *world) {
	if w.named != nil && w.named.tokenEndpoint != "" && w.named.jwksEndpoint != "" {
		*w.notCheck = "both endpoints are named, so nothing is discovered"
		return
	}
	server := w.authServer()
	w.isReady(server)
	w.hasCondition(server, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, v1alpha1.ReasonDiscovered)
	w.hasCondition(server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)

	// A slash is enough to make it another issuer (RFC 8414 section 3.3).
	other, slash := server.DeepCopy(), w.issuer+"/"
	if strings.HasSuffix(w.issuer, "/") {
		slash = strings.TrimSuffix(w.issuer, "/")
	}
	other.ObjectMeta, other.Status = metav1.ObjectMeta{Name: "inexact", Namespace: server.Namespace}, v1alpha1.AuthorizationServerStatus{}
	other.Spec.Issuer = slash
	w.create(other)
	w.hasCondition(other, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonIssuerMismatch)
}

func testToken(t *testing.T, w *world) {
	api, cart := w.story()
	w.isReady(cart, api)
	w.hasCondition(cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	v := w.mustVerify("payment-api", w.mustToken("cart", "payment-api"), asClaims(w.scopes)...)
	if !slices.Contains(v.audience, w.resource) {
		t.Errorf("aud is %q, not %q", v.audience, w.resource)
	}
	status := cart.Status.Tokens[0]
	if status.KeyID != v.kid {
		t.Errorf("the status names the key %q, the token %q", status.KeyID, v.kid)
	}
	if status.ExpiresAt.After(v.expiresAt) {
		t.Errorf("the status says that the token expires at %s, the token itself %s", status.ExpiresAt, v.expiresAt)
	}
	if w.as == nil {
		return
	}
	if diff := cmp.Diff(w.scopes, v.scopes); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{paymentAPI}, v.audience); diff != "" {
		t.Errorf("aud (-want +got):\n%s", diff)
	}
	if v.kid != w.as.KeyID() {
		t.Errorf("the token is signed with the key %q, the server's is %q", v.kid, w.as.KeyID())
	}
	if left := time.Until(v.expiresAt); left > w.lifetime || left < w.lifetime-time.Minute {
		t.Errorf("the token expires in %s, its lifetime is %s", left, w.lifetime)
	}
}

// asClaims leaves out scopes that are requested but never appear in a token: Entra's
// "<API>/.default".
func asClaims(scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return strings.HasSuffix(s, "/.default") })
}

// replaced waits until the client has another token than the given one, and the distributed files verify it.
func (w *world) replaced(former string) (next string) {
	w.t.Helper()
	eventually(w.t, func() (err error) {
		if next, err = w.token("cart", "payment-api"); err != nil {
			return err
		}
		if next == "" || next == former {
			return errors.New("the token was not replaced")
		}
		return nil
	})
	w.mustVerify("payment-api", next, asClaims(w.scopes)...)
	return next
}

func testLostToken(t *testing.T, w *world) {
	api, cart := w.story()
	w.isReady(cart, api)
	first := w.mustToken("cart", "payment-api")
	if err := kube.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.shop}}); err != nil {
		t.Fatal(err)
	}
	w.replaced(first)
	w.isReady(cart)
}

// longestWait is the longest token lifetime for which the test waits for a named
// server's regular refresh.
const longestWait = 90 * time.Second

func testRefresh(t *testing.T, w *world) {
	api, cart := w.story()
	w.isReady(cart, api)
	token := w.mustToken("cart", "payment-api")
	if w.as == nil {
		status := cart.Status.Tokens[0]
		if life := status.ExpiresAt.Sub(status.IssuedAt.Time); life > longestWait {
			*w.notCheck = fmt.Sprintf("tokens live for %s, too long to wait for", life)
			return
		}
	}
	expires := w.mustVerify("payment-api", token).expiresAt
	w.replaced(token)
	if !time.Now().Before(expires) {
		t.Error("the token expired before it was replaced")
	}
	w.isReady(cart)
}

func testAuthentication(t *testing.T, w *world) {
	w.authServer()
	w.api("payment-api", paymentAPI, readPayment, writePayment)
	clients := map[string]*v1alpha1.M2MClient{}

	for name, method := range map[string]v1alpha1.ClientSecretMethod{"basic": v1alpha1.ClientSecretBasic, "post": v1alpha1.ClientSecretPost} {
		secret := newSecret()
		w.setClient(oidc.Client{ID: name + " app:1", Secret: secret, Method: "client_secret_" + name})
		w.credentials(name, map[string]string{v1alpha1.ClientIDKey: name + " app:1", v1alpha1.ClientSecretKey: secret})
		clients[name] = w.cart(name, "payment-api", clientSecret(name, method), writePayment)
	}
	for name, tc := range map[string]struct {
		alg           string
		jwk           bool // else PEM
		tokenEndpoint bool // the older audience
	}{
		"rs256": {alg: "RS256"}, "ps256": {alg: "PS256", jwk: true}, "es256": {alg: "ES256", jwk: true},
		"es384": {alg: "ES384", tokenEndpoint: true}, "eddsa": {alg: "EdDSA"},
	} {
		if slices.Contains(w.manner.assertionsWithout, tc.alg) {
			continue
		}
		pem, jwk, public, err := oidc.NewKeyPair(tc.alg)
		if err != nil {
			t.Fatal(err)
		}
		w.setClient(oidc.Client{ID: name, Method: oidc.PrivateKeyJWT, PublicJWKS: public, AssertionAlg: tc.alg})
		spec := v1alpha1.PrivateKeyJWTCredentials{
			ClientID: v1alpha1.ClientID(name), SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(name + "-credentials")},
		}
		key := string(pem)
		if tc.jwk {
			key = string(jwk)
		}
		if spec.Audience = w.manner.assertionAudience; tc.tokenEndpoint {
			spec.Audience = v1alpha1.AssertionAudienceTokenEndpoint
		}
		w.credentials(name, map[string]string{v1alpha1.PrivateKeyKey: key})
		clients[name] = w.cart(name, "payment-api", v1alpha1.ClientCredentials{PrivateKeyJWT: spec}, writePayment)
	}
	// A plain resource needs no APIResource.
	plain := clients["basic"].DeepCopy()
	plain.ObjectMeta = metav1.ObjectMeta{Name: "plain", Namespace: w.shop}
	plain.Spec.Access = []v1alpha1.Access{{Resource: paymentAPI, Key: "payment-api", Scopes: scopeNames([]string{writePayment})}}
	w.create(plain)
	clients["plain"] = plain

	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t = t
			w.isReady(c)
			w.mustVerify("payment-api", w.mustToken(name, "payment-api"), writePayment)
		})
	}
}

func testRotation(t *testing.T, w *world) {
	api, cart := w.story()
	w.isReady(cart, api)
	calls := startCalls(w)
	tokens := []string{w.mustToken("cart", "payment-api")} // one by each key

	// Each rotation is followed by a token request: the client asks for other scopes.
	follow := func(how string) {
		t.Helper()
		change(w, cart, func(c *v1alpha1.M2MClient) {
			scopes := []string{writePayment}
			if len(tokens)%2 == 1 {
				scopes = []string{readPayment, writePayment}
			}
			c.Spec.Access[0].Scopes = scopeNames(scopes)
		})
		next := w.replaced(tokens[len(tokens)-1])
		if v := w.mustVerify("payment-api", next); v.kid != w.as.KeyID() {
			t.Errorf("%s: the token is signed with the key %q, the server signs with %q", how, v.kid, w.as.KeyID())
		}
		eventually(t, func() error { return calls.sawKey(w.as.KeyID()) })
		tokens = append(tokens, next)
		for i, token := range tokens {
			if _, err := w.verify("payment-api", token); err != nil {
				t.Errorf("%s: token %d of %d is refused: %v", how, i+1, len(tokens), err)
			}
		}
	}

	if _, err := w.as.RotateKey(); err != nil {
		t.Fatal(err)
	}
	follow("at once, with the former key still published")

	next, err := w.as.AnnounceKey()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		files, err := w.files("payment-api")
		if err == nil && !strings.Contains(files["jwks.json"], next) {
			err = fmt.Errorf("the announced key %q is not distributed", next)
		}
		return err
	})
	if err := w.as.PromoteKey(); err != nil {
		t.Fatal(err)
	}
	follow("announced")

	if err := w.as.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	follow("at once, with the former key gone")

	calls.stop()
	if calls.failed != nil {
		t.Errorf("%d of %d calls failed, the first one: %v", len(calls.failed), calls.made, calls.failed[0])
	}
}

// calls simulates a client that calls and an API that verifies, each with the files
// that it has at that moment. It makes a call every 50 ms, and as soon as there is
// another token.
type calls struct {
	mu     sync.Mutex
	made   int
	keys   map[string]bool // keys whose tokens were accepted
	failed []error
	stop   func()
}

func (c *calls) call(w *world) {
	token, err := w.token("cart", "payment-api")
	var v *verified
	if err == nil {
		v, err = w.verify("payment-api", token, writePayment)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	if err != nil {
		c.failed = append(c.failed, err)
		return
	}
	c.keys[v.kid] = true
}

// sawKey reports whether a call was made with a token that this key signed.
func (c *calls) sawKey(kid string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.keys[kid] {
		return fmt.Errorf("none of %d calls was made with a token of the key %q", c.made, kid)
	}
	return nil
}

func startCalls(w *world) *calls {
	w.t.Helper()
	c := &calls{keys: map[string]bool{}}
	tokens, err := kube.Watch(w.t.Context(), &corev1.SecretList{}, client.InNamespace(w.shop))
	if err != nil {
		w.t.Fatal(err)
	}
	ended, finished := make(chan struct{}), make(chan struct{})
	c.stop = sync.OnceFunc(func() {
		close(ended)
		<-finished
		tokens.Stop()
	})
	w.t.Cleanup(c.stop)
	go func() {
		defer close(finished)
		every := time.NewTicker(50 * time.Millisecond)
		defer every.Stop()
		for {
			c.call(w)
			select {
			case <-ended:
				return
			case <-every.C:
			case <-tokens.ResultChan():
			}
		}
	}()
	return c
}

func testWrongSecret(t *testing.T, w *world) {
	api, cart := w.story()
	w.isReady(cart, api)
	first := w.mustToken("cart", "payment-api")
	credentials := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-credentials", Namespace: w.shop}}
	setSecret := func(secret string) {
		change(w, credentials, func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	}

	setSecret(newSecret())
	message := w.hasCondition(cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	if !strings.Contains(message, "invalid_client") || !strings.Contains(message, "cart-credentials") {
		t.Errorf("the condition does not name the error or what to correct: %s", message)
	}
	w.isReady(cart) // the token still works
	if got := w.mustToken("cart", "payment-api"); got != first {
		t.Error("the working token is gone")
	}
	w.mustVerify("payment-api", first, writePayment)

	right := newSecret()
	w.setClient(oidc.Client{ID: cartID, Secret: right, Method: oidc.SecretBasic})
	setSecret(right)
	w.hasCondition(cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	w.replaced(first)
}

func testUnknownResource(t *testing.T, w *world) {
	_, cart := w.story()
	w.isReady(cart)
	w.api("refund-api", "https://refund.example.com/api")
	unknown := w.cart("refund", "refund-api", cart.Spec.Credentials)
	w.isRefused(unknown, orElse(w.manner.unknownResource, "invalid_target"))
	w.isReady(cart)
}

// isRefused waits until a client reports that the server refused its token request, and why.
func (w *world) isRefused(c *v1alpha1.M2MClient, code string) {
	w.t.Helper()
	message := w.hasCondition(c, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	if !strings.Contains(message, code) {
		w.t.Errorf("the condition does not say %s: %s", code, message)
	}
	w.hasNoToken(c)
}

func (w *world) hasNoToken(c client.Object) {
	w.t.Helper()
	if token, err := w.token(c.GetName(), "payment-api"); err != nil || token != "" {
		w.t.Errorf("there is a token in the Secret of %q, or: %v", c.GetName(), err)
	}
}

// limited creates a client that requests a scope which the API has and the server does
// not grant.
func (w *world) limited() *v1alpha1.M2MClient {
	w.t.Helper()
	_, cart := w.story()
	w.isReady(cart)
	secret := newSecret()
	w.setClient(oidc.Client{
		ID: "reader", Secret: secret, Method: oidc.SecretBasic, Scopes: map[string][]string{paymentAPI: {readPayment}},
	})
	w.credentials("reader", map[string]string{v1alpha1.ClientIDKey: "reader", v1alpha1.ClientSecretKey: secret})
	return w.cart("reader", "payment-api", clientSecret("reader", v1alpha1.ClientSecretBasic), readPayment, writePayment)
}

func testScopeRefused(t *testing.T, w *world) {
	reader := w.limited()
	w.isRefused(reader, "invalid_scope")
}

func testScopeDropped(t *testing.T, w *world) {
	if w.manner.neverDrops {
		*w.notCheck = "the server refuses scopes that are not granted"
		return
	}
	reader := w.limited()
	w.hasCondition(reader, v1alpha1.ConditionVerified, metav1.ConditionFalse, "MissingScopes")
	w.hasCondition(reader, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
	w.hasNoToken(reader)
	// The token is issued once the client requests only what the server grants.
	change(w, reader, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = scopeNames([]string{readPayment}) })
	w.isReady(reader)
	w.mustVerify("payment-api", w.mustToken("reader", "payment-api"), readPayment)
}
