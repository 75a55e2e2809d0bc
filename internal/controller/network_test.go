// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func withEgress(p egress.Policy) func(*Options) { return func(o *Options) { o.Egress = p } }

func allowed(t *testing.T, s string) egress.Allowed {
	t.Helper()
	a, err := egress.ParseAllowed(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func withTLS(o *oidc.Options) { o.TLS = true }

// says checks an object's condition and that its message has these parts.
func says(t *testing.T, obj client.Object, conditionType, reason string, parts ...string) {
	t.Helper()
	c := hasCondition(t, obj, conditionType, metav1.ConditionFalse, reason)
	for _, part := range parts {
		if !strings.Contains(c.Message, part) {
			t.Errorf("the message of %s does not say %q: %s", conditionType, part, c.Message)
		}
	}
}

// TestServersThatAreOutOfBounds: the operator does not connect to what its flags
// forbid, and says which flag would allow it.
func TestServersThatAreOutOfBounds(t *testing.T) {
	for name, tc := range map[string]struct {
		policy egress.Policy
		tls    bool
		spec   func(*world, *v1alpha1.AuthorizationServerSpec)
		want   string
	}{
		"http in an installation as it is": {
			want: "--allow-insecure-http",
		},
		"http, where loopback is allowed": {
			policy: egress.Policy{AllowLoopback: true}, want: "--allow-insecure-http",
		},
		"a loopback address": {
			tls: true, want: "--allow-loopback",
		},
		"a loopback address, where http is allowed": {
			policy: egress.Policy{AllowHTTP: true}, want: "--allow-loopback",
		},
		"a name that resolves to a loopback address": {
			tls: true,
			spec: func(w *world, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = strings.Replace(w.as.Issuer(), "127.0.0.1", "localhost", 1)
			},
			want: "--allow-loopback",
		},
		"the metadata service of a cloud": {
			policy: egress.Policy{AllowHTTP: true, AllowLoopback: true},
			spec:   func(_ *world, s *v1alpha1.AuthorizationServerSpec) { s.Issuer = "http://169.254.169.254/latest" },
			want:   "--allow-link-local",
		},
		"a server that the platform does not list": {
			tls: true, policy: egress.Policy{AllowLoopback: true, Allow: []egress.Allowed{allowed(t, "auth.example.com"), allowed(t, "192.0.2.0/24")}},
			want: "--egress-allow",
		},
		"a name that resolves to an address outside the networks that the platform lists": {
			tls: true, policy: egress.Policy{AllowLoopback: true, Allow: []egress.Allowed{allowed(t, "auth.example.com"), allowed(t, "192.0.2.0/24")}},
			spec: func(w *world, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = strings.Replace(w.as.Issuer(), "127.0.0.1", "localhost", 1)
			},
			want: "--egress-allow",
		},
		"6to4, which leads to a loopback address": {
			policy: egress.Policy{AllowHTTP: true, AllowLoopback: true},
			spec:   func(_ *world, s *v1alpha1.AuthorizationServerSpec) { s.Issuer = "http://[2002:7f00:1::1]/latest" },
			want:   "stands for another",
		},
	} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t, withEgress(tc.policy))
			w := newWorld(t, func(o *oidc.Options) { o.TLS = tc.tls })
			server := w.server(w.shop)
			if tc.spec != nil {
				tc.spec(w, &server.Spec)
			}
			cart := w.cart()
			cart.Spec.Access = []v1alpha1.Access{{Resource: paymentAPI, Key: "payment-api"}}
			create(t, server, w.secret("cart-credentials", cartID, newSecret()), cart)
			op.settle(w.payments, w.shop)
			says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonRefused, tc.want)
			says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonRefused, tc.want)
			if n := w.as.Count(oidc.Discovery) + w.as.Count(oidc.JWKS) + w.as.Count(oidc.Token); n != 0 {
				t.Errorf("the server was asked %d times", n)
			}
			says(t, cart, v1alpha1.ConditionReady, v1alpha1.ReasonAuthorizationServerNotReady, `AuthorizationServer "auth" is not known; see its conditions`)
		})
	}
}

// TestEndpointsThatAreOutOfBounds: a server's metadata, or a spec, may name
// endpoints elsewhere; what holds for the issuer holds for them. No credential
// goes there.
func TestEndpointsThatAreOutOfBounds(t *testing.T) {
	op := startStepped(t, withEgress(egress.Policy{AllowLoopback: true}))
	w := newWorld(t, withTLS)
	plain := newWorld(t)
	secret := newSecret()
	w.setClient(cartID, secret)
	api, cart := w.api(), w.cart()
	trusting, astray := w.server(w.payments), w.server(w.shop)
	for _, s := range []*v1alpha1.AuthorizationServer{trusting, astray} {
		s.Spec.CABundle.ConfigMapRef.Name = "ca"
		create(t, caConfigMap(s.Namespace, string(w.as.CAPEM())))
	}
	astray.Spec.Endpoints.Token = v1alpha1.EndpointURL(plain.as.TokenURL())
	create(t, trusting, astray, api, w.secret("cart-credentials", cartID, secret), cart)
	op.settle(w.payments, w.shop)
	isReady(t, astray)
	says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "http:// is not allowed", "--allow-insecure-http")

	change(t, astray, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.Endpoints.Token = "https://169.254.169.254/token"
	})
	op.settle(w.payments, w.shop)
	op.advance(10 * time.Minute)
	op.settle(w.payments, w.shop)
	says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "--allow-link-local")

	change(t, astray, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{JWKS: v1alpha1.EndpointURL(plain.as.JWKSURL())}
	})
	op.settle(w.payments, w.shop)
	says(t, astray, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonRefused, "--allow-insecure-http")

	if n := plain.as.Count(oidc.Token) + plain.as.Count(oidc.JWKS); n != 0 {
		t.Errorf("%d requests went where none may go", n)
	}
}

// TestAnswersThatAreOutOfBounds: redirects are not followed, and no answer is
// read to an end that does not come.
func TestAnswersThatAreOutOfBounds(t *testing.T) {
	for name, tc := range map[string]struct {
		endpoint          oidc.Endpoint
		fault             func(elsewhere *oidc.Server) *oidc.Fault
		condition, reason string
		want              string
	}{
		"discovery redirects": {
			oidc.Discovery, func(e *oidc.Server) *oidc.Fault { return &oidc.Fault{Redirect: e.JWKSURL()} },
			v1alpha1.ConditionDiscovered, v1alpha1.ReasonBadStatus, "answered with a redirect, which is not followed",
		},
		"discovery is huge": {
			oidc.Discovery, func(*oidc.Server) *oidc.Fault { return &oidc.Fault{Huge: true} },
			v1alpha1.ConditionDiscovered, v1alpha1.ReasonMalformed, "answered with more than 524288 bytes",
		},
		"the JWKS redirects": {
			oidc.JWKS, func(e *oidc.Server) *oidc.Fault { return &oidc.Fault{Redirect: e.JWKSURL()} },
			v1alpha1.ConditionKeysFresh, v1alpha1.ReasonBadStatus, "answered with a redirect, which is not followed",
		},
		"the JWKS is huge": {
			oidc.JWKS, func(*oidc.Server) *oidc.Fault { return &oidc.Fault{Huge: true} },
			v1alpha1.ConditionKeysFresh, v1alpha1.ReasonMalformed, "answered with more than 524288 bytes",
		},
		"the token endpoint redirects": {
			oidc.Token, func(e *oidc.Server) *oidc.Fault { return &oidc.Fault{Redirect: e.TokenURL()} },
			v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "answered with a redirect, which is not followed",
		},
		"the token endpoint redirects with another status": {
			oidc.Token, func(e *oidc.Server) *oidc.Fault { return &oidc.Fault{Redirect: e.TokenURL(), Status: 302} },
			v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "answered with a redirect, which is not followed",
		},
		"the token's answer is huge": {
			oidc.Token, func(*oidc.Server) *oidc.Fault { return &oidc.Fault{Huge: true} },
			v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestFailed, "answer is larger than 524288 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t)
			w, elsewhere := newWorld(t), newWorld(t)
			_, cart := w.story()
			w.as.SetFault(tc.endpoint, tc.fault(elsewhere.as))
			op.settle(w.payments, w.shop)
			var obj client.Object = cart
			if tc.endpoint != oidc.Token {
				obj = w.server(w.shop)
			}
			says(t, obj, tc.condition, tc.reason, tc.want)
			if n := elsewhere.as.Count(oidc.Token) + elsewhere.as.Count(oidc.JWKS); n != 0 {
				t.Errorf("the redirect was followed %d times", n)
			}

			w.as.ClearFaults()
			op.until(w, func() bool {
				op.advance(time.Minute)
				return tokenIn(t, w.shop, "cart-token", "payment-api") != ""
			})
			isReady(t, cart)
		})
	}
}

func caConfigMap(namespace, ca string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: namespace}, Data: map[string]string{v1alpha1.CABundleKey: ca}}
}

func caSecret(namespace, key, ca string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: namespace}, StringData: map[string]string{key: ca}}
}

// TestCABundles has a running operator follow a bundle from its absence to the
// right one, to garbage, and on to a renewed one.
func TestCABundles(t *testing.T) {
	system := newNamespace(t, "m2m-operator-system", nil)
	startOperator(t, withEgress(egress.Policy{AllowLoopback: true}), func(o *Options) { o.OperatorNamespace = system })
	another := newWorld(t, withTLS) // with another CA
	for name, tc := range map[string]struct {
		cluster bool
		source  v1alpha1.CABundleSource
		bundle  func(namespace, ca string) client.Object
		missing string // how the condition names it
	}{
		"in a ConfigMap": {
			source:  v1alpha1.CABundleSource{ConfigMapRef: v1alpha1.ConfigMapKeyReference{Name: "ca"}},
			bundle:  func(ns, ca string) client.Object { return caConfigMap(ns, ca) },
			missing: `key "ca.crt" of ConfigMap "ca" in namespace `,
		},
		"in a Secret, under another key": {
			source:  v1alpha1.CABundleSource{SecretRef: v1alpha1.SecretKeyReference{Name: "ca", Key: "bundle.pem"}},
			bundle:  func(ns, ca string) client.Object { return caSecret(ns, "bundle.pem", ca) },
			missing: `key "bundle.pem" of Secret "ca" in namespace `,
		},
		"of a ClusterAuthorizationServer, in the operator's namespace": {
			cluster: true,
			source:  v1alpha1.CABundleSource{ConfigMapRef: v1alpha1.ConfigMapKeyReference{Name: "ca"}},
			bundle:  func(ns, ca string) client.Object { return caConfigMap(ns, ca) },
			missing: `key "ca.crt" of ConfigMap "ca" in namespace `,
		},
		"of a ClusterAuthorizationServer, in a Secret": {
			cluster: true,
			source:  v1alpha1.CABundleSource{SecretRef: v1alpha1.SecretKeyReference{Name: "ca"}},
			bundle:  func(ns, ca string) client.Object { return caSecret(ns, v1alpha1.CABundleKey, ca) },
			missing: `key "ca.crt" of Secret "ca" in namespace `,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withTLS)
			own := w.server(w.shop)
			own.Spec.CABundle = tc.source
			var server client.Object = own
			namespace := w.shop
			if tc.cluster {
				namespace = system
				server = &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: w.shop}, Spec: v1alpha1.ClusterAuthorizationServerSpec{
					AuthorizationServerSpec: own.Spec,
					AllowedNamespaces:       v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}},
				}}
				t.Cleanup(func() { _ = kube.Delete(context.Background(), server) })
			}
			bundle := func(ca string) client.Object { return tc.bundle(namespace, ca) }
			create(t, server)
			says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonCABundleInvalid, "The CA bundle does not exist: "+tc.missing+`"`+namespace+`"`)

			create(t, bundle(string(w.as.CAPEM())))
			isReady(t, server)

			replace := func(ca string) {
				t.Helper()
				if err := kube.Update(t.Context(), bundle(ca)); err != nil {
					t.Fatal(err)
				}
			}
			replace("-----BEGIN GARBAGE-----")
			says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonCABundleInvalid, "The CA bundle cannot be used: CA bundle contains no PEM certificate")
			isReady(t, server) // what was known before stays good

			replace(string(another.as.CAPEM()))
			says(t, server, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonUnreachable, "has a certificate from an unknown authority")

			replace(string(another.as.CAPEM()) + string(w.as.CAPEM()))
			hasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
			hasCondition(t, server, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, v1alpha1.ReasonDiscovered)

			remove(t, bundle(""))
			says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonCABundleInvalid, "The CA bundle does not exist")
		})
	}
}

// TestACABundleWithoutANamespace: an operator that was not told its namespace
// cannot look into it.
func TestACABundleWithoutANamespace(t *testing.T) {
	for name, watched := range map[string][]string{"all namespaces": nil, "some namespaces": {"one", "two"}} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t, watching(watched...), func(o *Options) { o.OperatorNamespace = "" })
			w := newWorld(t, withTLS)
			spec := w.server("").Spec
			spec.CABundle.SecretRef.Name = "ca"
			server := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: w.shop}, Spec: v1alpha1.ClusterAuthorizationServerSpec{
				AuthorizationServerSpec: spec, AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
			}}
			create(t, server)
			t.Cleanup(func() { _ = kube.Delete(context.Background(), server) })
			op.settle()
			says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonCABundleInvalid, "--operator-namespace")
		})
	}
}

// TestTokensOverTLS: token requests trust the bundle too, and a renewed one
// reaches them without a restart.
func TestTokensOverTLS(t *testing.T) {
	op := startStepped(t, withEgress(egress.Policy{AllowLoopback: true}))
	w := newWorld(t, withTLS)
	secret := newSecret()
	w.setClient(cartID, secret)
	ofAPI, ofClient, cart := w.server(w.payments), w.server(w.shop), w.cart()
	for _, s := range []*v1alpha1.AuthorizationServer{ofAPI, ofClient} {
		s.Spec.CABundle.ConfigMapRef.Name = "ca"
		create(t, caConfigMap(s.Namespace, string(w.as.CAPEM())))
	}
	create(t, ofAPI, ofClient, w.api(), w.secret("cart-credentials", cartID, secret), cart)
	op.settle(w.payments, w.shop)
	isReady(t, cart)

	another := newWorld(t, withTLS)
	change(t, caConfigMap(w.shop, ""), func(m *corev1.ConfigMap) { m.Data[v1alpha1.CABundleKey] = string(another.as.CAPEM()) })
	op.until(w, func() bool {
		op.advance(time.Minute)
		return kube.Get(t.Context(), client.ObjectKeyFromObject(ofClient), ofClient) == nil &&
			conditionIs(ofClient, v1alpha1.ConditionKeysFresh, metav1.ConditionFalse)
	})
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.shop}})
	op.until(w, func() bool {
		return kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart) == nil &&
			conditionIs(cart, v1alpha1.ConditionFresh, metav1.ConditionFalse)
	})
	says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "TLS certificate is from an unknown authority")
	w.theRequest() // the first; no credential went over a connection that is not trusted

	change(t, caConfigMap(w.shop, ""), func(m *corev1.ConfigMap) { m.Data[v1alpha1.CABundleKey] = string(w.as.CAPEM()) })
	op.until(w, func() bool {
		op.advance(10 * time.Second)
		return tokenIn(t, w.shop, "cart-token", "payment-api") != ""
	})
	isReady(t, cart)
}
