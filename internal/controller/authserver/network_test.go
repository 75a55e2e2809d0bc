// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func withEgress(p egress.Policy) func(*controller.Options) {
	return func(o *controller.Options) { o.Egress = p }
}

func allowed(t *testing.T, s string) egress.Allowed {
	t.Helper()
	a, err := egress.ParseAllowed(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func withTLS(o *oidc.Options) { o.TLS = true }

// TestServersThatAreOutOfBounds: the operator does not connect to what its flags
// forbid, and says which flag would allow it.
func TestServersThatAreOutOfBounds(t *testing.T) {
	for name, tc := range map[string]struct {
		policy egress.Policy
		tls    bool
		spec   func(*operator.World, *v1alpha1.AuthorizationServerSpec)
		want   string
	}{
		"http with the default flags": {
			want: "--allow-insecure-http",
		},
		"http, and loopback is allowed": {
			policy: egress.Policy{AllowLoopback: true}, want: "--allow-insecure-http",
		},
		"a loopback address": {
			tls: true, want: "--allow-loopback",
		},
		"a loopback address, and http is allowed": {
			policy: egress.Policy{AllowHTTP: true}, want: "--allow-loopback",
		},
		"a name that resolves to a loopback address": {
			tls: true,
			spec: func(w *operator.World, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = strings.Replace(w.AS.Issuer(), "127.0.0.1", "localhost", 1)
			},
			want: "--allow-loopback",
		},
		"the metadata service of a cloud": {
			policy: egress.Policy{AllowHTTP: true, AllowLoopback: true},
			spec: func(_ *operator.World, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = "http://169.254.169.254/latest"
			},
			want: "--allow-link-local",
		},
		"a server that the platform does not list": {
			tls: true, policy: egress.Policy{AllowLoopback: true, Allow: []egress.Allowed{allowed(t, "auth.example.com"), allowed(t, "192.0.2.0/24")}},
			want: "--egress-allow",
		},
		"a name that resolves to an address outside the networks that the platform lists": {
			tls: true, policy: egress.Policy{AllowLoopback: true, Allow: []egress.Allowed{allowed(t, "auth.example.com"), allowed(t, "192.0.2.0/24")}},
			spec: func(w *operator.World, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = strings.Replace(w.AS.Issuer(), "127.0.0.1", "localhost", 1)
			},
			want: "--egress-allow",
		},
		"6to4, which leads to a loopback address": {
			policy: egress.Policy{AllowHTTP: true, AllowLoopback: true},
			spec: func(_ *operator.World, s *v1alpha1.AuthorizationServerSpec) {
				s.Issuer = "http://[2002:7f00:1::1]/latest"
			},
			want: "stands for another",
		},
	} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t, withEgress(tc.policy))
			w := operator.NewWorld(t, func(o *oidc.Options) { o.TLS = tc.tls })
			server := w.Server(w.Shop)
			if tc.spec != nil {
				tc.spec(w, &server.Spec)
			}
			cart := w.Cart()
			cart.Spec.Access = []v1alpha1.Access{{Resource: operator.PaymentAPI, Key: "payment-api"}}
			operator.Create(t, server, w.Secret("cart-credentials", operator.CartID, operator.NewSecret()), cart)
			op.Settle(w.Payments, w.Shop)
			operator.Says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonRefused, tc.want)
			operator.Says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonRefused, tc.want)
			if n := w.AS.Count(oidc.Discovery) + w.AS.Count(oidc.JWKS) + w.AS.Count(oidc.Token); n != 0 {
				t.Errorf("the server got %d requests", n)
			}
			operator.Says(t, cart, v1alpha1.ConditionReady, v1alpha1.ReasonAuthorizationServerNotReady, `AuthorizationServer "auth" is not known; see its conditions`)
		})
	}
}

// TestEndpointsThatAreOutOfBounds: a server's metadata or a spec may name endpoints
// elsewhere. The rules for the issuer apply to them, too, and no credential goes
// there.
func TestEndpointsThatAreOutOfBounds(t *testing.T) {
	op := operator.StartStepped(t, withEgress(egress.Policy{AllowLoopback: true}))
	w := operator.NewWorld(t, withTLS)
	plain := operator.NewWorld(t)
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	api, cart := w.API(), w.Cart()
	trusting, astray := w.Server(w.Payments), w.Server(w.Shop)
	for _, s := range []*v1alpha1.AuthorizationServer{trusting, astray} {
		s.Spec.CABundle.ConfigMapRef.Name = "ca"
		operator.Create(t, caConfigMap(s.Namespace, string(w.AS.CAPEM())))
	}
	astray.Spec.Endpoints.Token = v1alpha1.EndpointURL(plain.AS.TokenURL())
	operator.Create(t, trusting, astray, api, w.Secret("cart-credentials", operator.CartID, secret), cart)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, astray)
	operator.Says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "http:// is not allowed", "--allow-insecure-http")

	operator.Change(t, astray, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.Endpoints.Token = "https://169.254.169.254/token"
	})
	op.Settle(w.Payments, w.Shop)
	op.Advance(10 * time.Minute)
	op.Settle(w.Payments, w.Shop)
	operator.Says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "--allow-link-local")

	operator.Change(t, astray, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{JWKS: v1alpha1.EndpointURL(plain.AS.JWKSURL())}
	})
	op.Settle(w.Payments, w.Shop)
	operator.Says(t, astray, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonRefused, "--allow-insecure-http")

	if n := plain.AS.Count(oidc.Token) + plain.AS.Count(oidc.JWKS); n != 0 {
		t.Errorf("%d requests went to forbidden destinations", n)
	}
}

// TestAnswersThatAreOutOfBounds: the operator follows no redirects, and stops reading
// an endless answer.
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
			op := operator.StartStepped(t)
			w, elsewhere := operator.NewWorld(t), operator.NewWorld(t)
			_, cart := w.Story()
			w.AS.SetFault(tc.endpoint, tc.fault(elsewhere.AS))
			op.Settle(w.Payments, w.Shop)
			var obj client.Object = cart
			if tc.endpoint != oidc.Token {
				obj = w.Server(w.Shop)
			}
			operator.Says(t, obj, tc.condition, tc.reason, tc.want)
			if n := elsewhere.AS.Count(oidc.Token) + elsewhere.AS.Count(oidc.JWKS); n != 0 {
				t.Errorf("the redirect was followed %d times", n)
			}

			w.AS.ClearFaults()
			op.Until(w, func() bool {
				op.Advance(time.Minute)
				return operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != ""
			})
			operator.IsReady(t, cart)
		})
	}
}

func caConfigMap(namespace, ca string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: namespace}, Data: map[string]string{v1alpha1.CABundleKey: ca}}
}

func caSecret(namespace, key, ca string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: namespace}, StringData: map[string]string{key: ca}}
}

// TestCABundles changes the bundle of a running operator: there is none, then the right
// one, garbage, and a renewed one.
func TestCABundles(t *testing.T) {
	system := operator.NewNamespace(t, "m2m-operator-system", nil)
	operator.Start(t, withEgress(egress.Policy{AllowLoopback: true}), func(o *controller.Options) { o.OperatorNamespace = system })
	another := operator.NewWorld(t, withTLS) // with another CA
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
			w := operator.NewWorld(t, withTLS)
			own := w.Server(w.Shop)
			own.Spec.CABundle = tc.source
			var server client.Object = own
			namespace := w.Shop
			if tc.cluster {
				namespace = system
				server = &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: w.Shop}, Spec: v1alpha1.ClusterAuthorizationServerSpec{
					AuthorizationServerSpec: own.Spec,
					AllowedNamespaces:       v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.Shop)}},
				}}
				t.Cleanup(func() { _ = operator.Kube.Delete(context.Background(), server) })
			}
			bundle := func(ca string) client.Object { return tc.bundle(namespace, ca) }
			operator.Create(t, server)
			operator.Says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonCABundleInvalid, "The CA bundle does not exist: "+tc.missing+`"`+namespace+`"`)

			operator.Create(t, bundle(string(w.AS.CAPEM())))
			operator.IsReady(t, server)

			replace := func(ca string) {
				t.Helper()
				if err := operator.Kube.Update(t.Context(), bundle(ca)); err != nil {
					t.Fatal(err)
				}
			}
			replace("-----BEGIN GARBAGE-----")
			operator.Says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonCABundleInvalid, "The CA bundle cannot be used: CA bundle contains no PEM certificate")
			operator.IsReady(t, server) // the known endpoints and keys stay valid

			replace(string(another.AS.CAPEM()))
			operator.Says(t, server, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonUnreachable, "has a certificate from an unknown authority")

			replace(string(another.AS.CAPEM()) + string(w.AS.CAPEM()))
			operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
			operator.HasCondition(t, server, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, v1alpha1.ReasonDiscovered)

			operator.Remove(t, bundle(""))
			operator.Says(t, server, v1alpha1.ConditionDiscovered, v1alpha1.ReasonCABundleInvalid, "The CA bundle does not exist")
		})
	}
}

// TestACABundleWithoutANamespace: an operator that does not know its own namespace
// cannot read a bundle there.
func TestACABundleWithoutANamespace(t *testing.T) {
	for name, watched := range map[string][]string{"all namespaces": nil, "some namespaces": {"one", "two"}} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t, operator.Watching(watched...), func(o *controller.Options) { o.OperatorNamespace = "" })
			w := operator.NewWorld(t, withTLS)
			spec := w.Server("").Spec
			spec.CABundle.SecretRef.Name = "ca"
			server := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: w.Shop}, Spec: v1alpha1.ClusterAuthorizationServerSpec{
				AuthorizationServerSpec: spec, AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
			}}
			operator.Create(t, server)
			t.Cleanup(func() { _ = operator.Kube.Delete(context.Background(), server) })
			op.Settle()
			operator.Says(t, server, v1alpha1.ConditionReady, v1alpha1.ReasonCABundleInvalid, "--operator-namespace")
		})
	}
}

// TestTokensOverTLS: token requests trust the bundle, too, and use a renewed one
// without a restart.
func TestTokensOverTLS(t *testing.T) {
	op := operator.StartStepped(t, withEgress(egress.Policy{AllowLoopback: true}))
	w := operator.NewWorld(t, withTLS)
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	ofAPI, ofClient, cart := w.Server(w.Payments), w.Server(w.Shop), w.Cart()
	for _, s := range []*v1alpha1.AuthorizationServer{ofAPI, ofClient} {
		s.Spec.CABundle.ConfigMapRef.Name = "ca"
		operator.Create(t, caConfigMap(s.Namespace, string(w.AS.CAPEM())))
	}
	operator.Create(t, ofAPI, ofClient, w.API(), w.Secret("cart-credentials", operator.CartID, secret), cart)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)

	another := operator.NewWorld(t, withTLS)
	operator.Change(t, caConfigMap(w.Shop, ""), func(m *corev1.ConfigMap) { m.Data[v1alpha1.CABundleKey] = string(another.AS.CAPEM()) })
	op.Until(w, func() bool {
		op.Advance(time.Minute)
		return operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(ofClient), ofClient) == nil &&
			operator.ConditionIs(ofClient, v1alpha1.ConditionKeysFresh, metav1.ConditionFalse)
	})
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.Shop}})
	op.Until(w, func() bool {
		return operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart) == nil &&
			operator.ConditionIs(cart, v1alpha1.ConditionFresh, metav1.ConditionFalse)
	})
	operator.Says(t, cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "TLS certificate is from an unknown authority")
	w.TheRequest() // the first one; no credential went over an untrusted connection

	operator.Change(t, caConfigMap(w.Shop, ""), func(m *corev1.ConfigMap) { m.Data[v1alpha1.CABundleKey] = string(w.AS.CAPEM()) })
	op.Until(w, func() bool {
		op.Advance(10 * time.Second)
		return operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != ""
	})
	operator.IsReady(t, cart)
}
