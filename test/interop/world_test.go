// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

const (
	paymentAPI   = "https://payment.example.com/api"
	cartID       = "cart-app"
	readPayment  = "payments:read"
	writePayment = "payments:write"
)

// world is the setting of a test: an authorization server, and the namespaces of a
// client and of the API it calls.
type world struct {
	t        *testing.T
	server   string              // its name in the report
	as       authorizationServer // nil for a named server
	manner   manner              // of one of ours
	named    *namedServer        // nil for one of ours
	issuer   string
	resource string
	scopes   []string
	lifetime time.Duration // of a token, 0 if not known
	shop     string        // the client's namespace
	payments string        // the API's namespace
	notCheck *string       // why this test does not apply to the server
}

var namespaces atomic.Int32 // made so far

// newWorld prepares a test against a server. It starts one that knows the payment API and the cart application,
// unless the server is a named one.
func newWorld(t *testing.T, s subject, o serverOptions) *world {
	t.Helper()
	w := &world{t: t, server: s.name, manner: s.manner, resource: paymentAPI, scopes: []string{writePayment}, notCheck: new(string)}
	if s.named != nil {
		w.named, w.issuer, w.resource, w.scopes = s.named, s.named.issuer, s.named.resource, s.named.scopes
	} else {
		if o.lifetime == 0 {
			o.lifetime = time.Hour
		}
		w.lifetime = o.lifetime
		w.as = s.start(t, o)
		t.Cleanup(w.as.Close)
		w.issuer = w.as.Issuer()
		w.as.SetResource(paymentAPI, readPayment, writePayment)
	}
	number := namespaces.Add(1)
	for name, ns := range map[string]*string{"shop": &w.shop, "payments": &w.payments} {
		*ns = fmt.Sprintf("%s-%d", name, number)
		w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: *ns}})
		t.Cleanup(func() { empty(t, *ns) })
	}
	return w
}

// empty deletes what a test left in a namespace, so that the operator has no more work with it.
func empty(t *testing.T, namespace string) {
	for _, o := range []client.Object{
		&v1alpha1.M2MClient{}, &v1alpha1.APIResource{}, &v1alpha1.AuthorizationServer{}, &corev1.Pod{}, &corev1.Secret{}, &corev1.ConfigMap{},
	} {
		if err := kube.DeleteAllOf(context.Background(), o, client.InNamespace(namespace), client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := kube.Create(w.t.Context(), o); err != nil {
			w.t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
	}
}

// change updates an object, and tries again after a conflict.
func change[T client.Object](w *world, obj T, mutate func(T)) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := kube.Get(w.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		mutate(obj)
		err := kube.Update(w.t.Context(), obj)
		if err != nil && !apierrors.IsConflict(err) {
			w.t.Fatal(err)
		}
		return err
	})
}

// setClient registers an application with all scopes of the payment API, or changes it.
func (w *world) setClient(c oidc.Client) {
	w.t.Helper()
	if c.Scopes == nil {
		c.Scopes = map[string][]string{paymentAPI: {readPayment, writePayment}}
	}
	if err := w.as.SetClient(c); err != nil {
		w.t.Fatal(err)
	}
}

func newSecret() string {
	secret := oidc.NewSecret()
	operatorLogs.neverShow(secret)
	return secret
}

// authServer creates the authorization server in both namespaces.
func (w *world) authServer() (ofShop *v1alpha1.AuthorizationServer) {
	w.t.Helper()
	for _, ns := range []string{w.payments, w.shop} {
		ofShop = &v1alpha1.AuthorizationServer{
			ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: ns},
			Spec: v1alpha1.AuthorizationServerSpec{
				Issuer: w.issuer, AudienceParameter: w.manner.audienceParameter, JWKS: v1alpha1.JWKSPolicy{RefreshInterval: "10s"},
			},
		}
		if w.named != nil {
			w.named.describe(w, ofShop)
		}
		w.create(ofShop)
	}
	return ofShop
}

// api creates the API, with a workload that verifies tokens, and grants the scopes to the shop.
func (w *world) api(name, identifier string, scopes ...string) *v1alpha1.APIResource {
	w.t.Helper()
	a := &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Identifier:             v1alpha1.ResourceIdentifier(identifier),
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}}},
				Scopes:  scopeNames(scopes),
			}},
		},
	}
	for _, s := range scopes {
		a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: v1alpha1.ScopeName(s)})
	}
	w.create(a, &corev1.Pod{
		// As if it were injected: no token waits for a kubelet.
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.payments, Annotations: map[string]string{
			v1alpha1.VerifyAnnotation: name, v1alpha1.InjectedAnnotation: "configmap/" + render.ConfigMapName(w.payments, name),
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "payment", Image: "payment"}}},
	})
	return a
}

// cart creates a client that calls the API of a given name with the credentials in the
// Secret "<client>-credentials".
func (w *world) cart(name, api string, credentials v1alpha1.ClientCredentials, scopes ...string) *v1alpha1.M2MClient {
	w.t.Helper()
	c := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.shop},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: v1alpha1.APIResourceName(api), Namespace: v1alpha1.NamespaceName(w.payments)},
				Scopes:         scopeNames(scopes),
			}},
			Credentials: credentials,
		},
	}
	w.create(c)
	return c
}

func scopeNames(scopes []string) []v1alpha1.ScopeName {
	var names []v1alpha1.ScopeName
	for _, s := range scopes {
		names = append(names, v1alpha1.ScopeName(s))
	}
	return names
}

// credentials creates the Secret "<client>-credentials".
func (w *world) credentials(client string, data map[string]string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: client + "-credentials", Namespace: w.shop}, StringData: data}
	w.create(s)
	return s
}

func clientSecret(client string, method v1alpha1.ClientSecretMethod) v1alpha1.ClientCredentials {
	return v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
		SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(client + "-credentials")}, Method: method,
	}}
}

// story creates everything for one client, "cart", that calls one API, "payment-api".
func (w *world) story() (*v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.t.Helper()
	var credentials v1alpha1.ClientCredentials
	if w.named != nil {
		credentials = w.named.credentials(w)
	} else {
		secret := newSecret()
		w.setClient(oidc.Client{ID: cartID, Secret: secret, Method: oidc.SecretBasic})
		w.credentials("cart", map[string]string{v1alpha1.ClientIDKey: cartID, v1alpha1.ClientSecretKey: secret})
		credentials = clientSecret("cart", v1alpha1.ClientSecretBasic)
	}
	w.authServer()
	scopes := w.scopes
	if w.named == nil {
		scopes = []string{readPayment, writePayment}
	}
	return w.api("payment-api", w.resource, scopes...), w.cart("cart", "payment-api", credentials, w.scopes...)
}

// hasCondition waits until an object has a condition of a status and reason, and returns its message.
func (w *world) hasCondition(obj client.Object, conditionType string, status metav1.ConditionStatus, reason string) (message string) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := kube.Get(w.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		var conditions []metav1.Condition
		switch o := obj.(type) {
		case *v1alpha1.AuthorizationServer:
			conditions = o.Status.Conditions
		case *v1alpha1.APIResource:
			conditions = o.Status.Conditions
		case *v1alpha1.M2MClient:
			conditions = o.Status.Conditions
		}
		c := meta.FindStatusCondition(conditions, conditionType)
		if c == nil || c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("%T %q has no current condition %s: %+v", obj, obj.GetName(), conditionType, conditions)
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("%s of %q is %s, %s: %s; want %s, %s", conditionType, obj.GetName(), c.Status, c.Reason, c.Message, status, reason)
		}
		message = c.Message
		return nil
	})
	return message
}

func (w *world) isReady(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		w.hasCondition(o, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
	}
}

// token returns the token that the client's pods find under the access's key, "" if there is
// none.
func (w *world) token(client, key string) (string, error) {
	var s corev1.Secret
	err := kube.Get(w.t.Context(), types.NamespacedName{Namespace: w.shop, Name: client + "-token"}, &s)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	return string(s.Data[key]), err
}

// mustToken returns the client's token, which must be there.
func (w *world) mustToken(client, key string) string {
	w.t.Helper()
	token, err := w.token(client, key)
	if err != nil || token == "" {
		w.t.Fatalf("no token of client %q: %v", client, err)
	}
	return token
}

// files returns the files that the API's pods find: the distributed verification bundle.
func (w *world) files(api string) (map[string]string, error) {
	var cm corev1.ConfigMap
	err := kube.Get(w.t.Context(), types.NamespacedName{Namespace: w.payments, Name: render.ConfigMapName(w.payments, api)}, &cm)
	return cm.Data, err
}

// verify checks a token with the distributed files in their present state.
func (w *world) verify(api, token string, scopes ...string) (*verified, error) {
	files, err := w.files(api)
	if err != nil {
		return nil, err
	}
	return verifyWithFiles(files, token, time.Now(), scopes...)
}

// mustVerify checks a token with the distributed files, which must accept it.
func (w *world) mustVerify(api, token string, scopes ...string) *verified {
	w.t.Helper()
	v, err := w.verify(api, token, scopes...)
	if err != nil {
		w.t.Fatalf("the distributed files refuse the token: %v", err)
	}
	return v
}

// verified is a token that was accepted.
type verified struct {
	kid, algorithm, typ string
	audience            []string
	scopes              []string
	expiresAt           time.Time
}

// verifyWithFiles does what an API can do that has only verification.json and
// jwks.json. It shares no code with the operator's own check.
func verifyWithFiles(files map[string]string, token string, now time.Time, scopes ...string) (*verified, error) {
	var want struct {
		Issuer, Audience, TokenType string
		Algorithms                  []jose.SignatureAlgorithm
		ClockSkewSeconds            int
		AudienceIn                  *struct{}
		Scopes                      []struct {
			Name   string
			Claims []string
		}
	}
	var set jose.JSONWebKeySet
	err := errors.Join(json.Unmarshal([]byte(files["verification.json"]), &want), json.Unmarshal([]byte(files["jwks.json"]), &set))
	if err != nil {
		return nil, fmt.Errorf("read the files: %w", err)
	}
	if want.AudienceIn != nil {
		return nil, errors.New("the files name the API by something other than aud, which this test never configures")
	}
	parsed, err := jwt.ParseSigned(token, want.Algorithms)
	if err != nil {
		return nil, fmt.Errorf("parse the token, of which %v are allowed: %w", want.Algorithms, err)
	}
	header := parsed.Headers[0]
	keys := set.Keys
	if header.KeyID != "" {
		keys = set.Key(header.KeyID)
	}
	var claims jwt.Claims
	var more map[string]any
	err = fmt.Errorf("no key %q in %d", header.KeyID, len(set.Keys))
	for _, key := range keys {
		if err = parsed.Claims(key, &claims, &more); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if claims.Expiry == nil {
		return nil, errors.New("the token never expires")
	}
	err = claims.ValidateWithLeeway(jwt.Expected{Issuer: want.Issuer, AnyAudience: jwt.Audience{want.Audience}, Time: now},
		time.Duration(want.ClockSkewSeconds)*time.Second)
	if err != nil {
		return nil, err
	}
	typ, _ := header.ExtraHeaders[jose.HeaderType].(string)
	v := &verified{
		kid: header.KeyID, algorithm: header.Algorithm, typ: typ, audience: claims.Audience,
		expiresAt: claims.Expiry.Time(),
	}
	for _, s := range want.Scopes {
		if carries(more, s.Claims, s.Name) {
			v.scopes = append(v.scopes, s.Name)
		}
	}
	for _, s := range scopes {
		if !slices.Contains(v.scopes, s) {
			return nil, fmt.Errorf("the token has the scopes %q, not %q", v.scopes, s)
		}
	}
	return v, nil
}

// carries reports whether the first of these claims that the token has, a string of words or a list, names a scope.
func carries(token map[string]any, claims []string, scope string) bool {
	for _, c := range claims {
		switch v := token[c].(type) {
		case nil:
			continue
		case string:
			return slices.Contains(strings.Fields(v), scope)
		case []any:
			return slices.Contains(v, any(scope))
		}
		return false
	}
	return false
}
