// SPDX-License-Identifier: Apache-2.0

package access

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

const issuer = "https://auth.example.com/oidc"

// claimant returns an APIResource that was created some time after noon.
func claimant(namespace string, created time.Duration, change ...func(*v1alpha1.APIResource)) *v1alpha1.APIResource {
	api := &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "payment-api", UID: types.UID("uid-of-" + namespace), CreationTimestamp: metav1.NewTime(noon.Add(created)),
		},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"}, Identifier: "https://payment.example.com/api",
		},
	}
	for _, f := range change {
		f(api)
	}
	return api
}

// holdingAt returns a change after which an APIResource holds its identifier since some time
// after noon.
func holdingAt(issuer string, since time.Duration) func(*v1alpha1.APIResource) {
	return func(a *v1alpha1.APIResource) {
		at := metav1.NewTime(noon.Add(since))
		a.Status.IdentifierHold = v1alpha1.IdentifierHold{Issuer: issuer, Since: &at}
	}
}

func TestWhichClaimGoesFirst(t *testing.T) {
	named := func(name, uid string) func(*v1alpha1.APIResource) {
		return func(a *v1alpha1.APIResource) { a.Name, a.UID = name, types.UID(uid) }
	}
	for name, tc := range map[string]struct{ first, second *v1alpha1.APIResource }{
		"of one namespace, the one created before": {claimant("a", 0, named("two", "z")), claimant("a", time.Second, named("one", "a"))},
		"of one namespace and second, the name decides": {
			claimant("a", 0, named("one", "z")), claimant("a", 0, named("two", "a")),
		},
		"the one that has it, though it is younger":            {claimant("b", time.Hour, holdingAt(issuer, time.Hour)), claimant("a", 0)},
		"the one that has it, though of the same second":       {claimant("b", 0, holdingAt(issuer, 0)), claimant("a", 0)},
		"the one that has it here, and not elsewhere":          {claimant("b", time.Hour, holdingAt(issuer, time.Hour)), claimant("a", 0, holdingAt("https://evil.example.com", 0))},
		"of two that have it, the one that was accepted first": {claimant("b", time.Hour, holdingAt(issuer, time.Hour)), claimant("a", 0, holdingAt(issuer, 2*time.Hour))},
		"of two accepted in one second, the older":             {claimant("b", 0, holdingAt(issuer, time.Hour)), claimant("a", time.Second, holdingAt(issuer, time.Hour))},
	} {
		t.Run(name, func(t *testing.T) {
			if first, known := precedes(tc.first, tc.second, issuer); !first || !known {
				t.Errorf("first: %t, known: %t", first, known)
			}
			if first, known := precedes(tc.second, tc.first, issuer); first || !known {
				t.Errorf("the other way round: first: %t, known: %t", first, known)
			}
			if first, known := precedes(tc.first, tc.first, issuer); first || !known {
				t.Error("it precedes itself")
			}
		})
	}
}

// TestCreationSaysNothingBetweenNamespaces: a restored backup creates all objects anew, in an
// order that depends on the names of the namespaces.
func TestCreationSaysNothingBetweenNamespaces(t *testing.T) {
	for name, tc := range map[string]struct{ a, b *v1alpha1.APIResource }{
		"created one after the other":      {claimant("b", 0), claimant("a", time.Hour)},
		"created in one second":            {claimant("a", 0), claimant("b", 0)},
		"having it elsewhere says nothing": {claimant("b", 0), claimant("a", time.Hour, holdingAt("https://evil.example.com", 0))},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range [][2]*v1alpha1.APIResource{{tc.a, tc.b}, {tc.b, tc.a}} {
				if _, known := precedes(pair[0], pair[1], issuer); known {
					t.Errorf("%s is known to be first or second", pair[0].Namespace)
				}
			}
		})
	}
}

// own returns an AuthorizationServer of a namespace.
func own(namespace, issuer string) *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "auth"}, Spec: v1alpha1.AuthorizationServerSpec{Issuer: issuer},
	}
}

// cluster returns a ClusterAuthorizationServer that allows namespaces.
func cluster(name, issuer string, allowed ...v1alpha1.NamespaceName) *v1alpha1.ClusterAuthorizationServer {
	return &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.ClusterAuthorizationServerSpec{
			AuthorizationServerSpec: v1alpha1.AuthorizationServerSpec{Issuer: issuer}, AllowedNamespaces: v1alpha1.NamespaceSelection{Names: allowed},
		},
	}
}

func reserving(c *v1alpha1.ClusterAuthorizationServer, prefix string, namespaces ...v1alpha1.NamespaceName) *v1alpha1.ClusterAuthorizationServer {
	c.Spec.IdentifierClaims = append(c.Spec.IdentifierClaims, v1alpha1.IdentifierClaim{
		Namespaces: v1alpha1.NamespaceSelection{Names: namespaces}, Prefixes: []string{prefix},
	})
	return c
}

func TestAccept(t *testing.T) {
	atCluster := func(name string) func(*v1alpha1.APIResource) {
		return func(a *v1alpha1.APIResource) {
			a.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(name)}
		}
	}
	identified := func(identifier string) func(*v1alpha1.APIResource) {
		return func(a *v1alpha1.APIResource) { a.Spec.Identifier = v1alpha1.ResourceIdentifier(identifier) }
	}
	const prefix = "https://payment.example.com/"
	for name, tc := range map[string]struct {
		api    *v1alpha1.APIResource // in namespace payments if it is the owner's
		others objects
		want   string // the reason of a refusal
	}{
		"alone":            {claimant("payments", 0), objects{own("payments", issuer)}, ""},
		"without a server": {claimant("payments", 0), nil, v1alpha1.ReasonAuthorizationServerNotFound},
		"the other has it": {
			claimant("payments", 0), objects{own("payments", issuer), own("evil", issuer), claimant("evil", time.Hour, holdingAt(issuer, time.Hour))},
			v1alpha1.ReasonIdentifierClaimed},
		"nobody has it, and the other is older": {
			claimant("payments", 0), objects{own("payments", issuer), own("evil", issuer), claimant("evil", -time.Hour)}, v1alpha1.ReasonIdentifierContested},
		"nobody has it, and the other is younger": {
			claimant("payments", 0), objects{own("payments", issuer), own("evil", issuer), claimant("evil", time.Hour)}, v1alpha1.ReasonIdentifierContested},
		"nobody has it, and a third one does": {
			claimant("payments", 0), objects{
				own("payments", issuer), own("evil", issuer), claimant("evil", -time.Hour),
				own("shop", issuer), claimant("shop", time.Hour, holdingAt(issuer, time.Hour)),
			}, v1alpha1.ReasonIdentifierClaimed},
		"nobody has it, and it is reserved": {
			claimant("payments", 0),
			objects{own("payments", issuer), own("evil", issuer), reserving(cluster("company", issuer, "evil", "payments"), prefix, "payments"), claimant("evil", -time.Hour)},
			""},
		"the older is of another issuer": {
			claimant("payments", 0), objects{own("payments", issuer), own("evil", "https://other.example.com"), claimant("evil", -time.Hour)}, ""},
		"the older has no server": {claimant("payments", 0), objects{own("payments", issuer), claimant("evil", -time.Hour)}, ""},
		"the one that has it has lost its server": {
			claimant("evil", -time.Hour), objects{own("evil", issuer), claimant("payments", 0, holdingAt(issuer, 0))}, v1alpha1.ReasonIdentifierClaimed},
		"the one that has it has lost its server, and another issuer is asked": {
			claimant("evil", -time.Hour), objects{own("evil", "https://other.example.com"), claimant("payments", 0, holdingAt(issuer, 0))}, ""},
		"the one that had it has turned to another issuer": {
			claimant("evil", 0), objects{own("evil", issuer), own("payments", "https://other.example.com"), claimant("payments", 0, holdingAt(issuer, 0))}, ""},
		"the one that had it is not allowed any more": {
			claimant("evil", 0, atCluster("company")),
			objects{cluster("company", issuer, "evil"), own("payments", issuer), claimant("payments", 0, holdingAt(issuer, 0))}, ""},
		"the one that had it is not allowed at its own server any more": {
			claimant("evil", 0, atCluster("company")),
			objects{cluster("company", issuer, "evil"), claimant("payments", 0, atCluster("company"), holdingAt(issuer, 0))}, ""},

		"the cluster's server allows it": {claimant("payments", 0, atCluster("company")), objects{cluster("company", issuer, "payments")}, ""},
		"the cluster's server does not":  {claimant("evil", 0, atCluster("company")), objects{cluster("company", issuer, "payments")}, v1alpha1.ReasonAuthorizationServerNotAllowed},
		"an own server of its issuer":    {claimant("evil", 0), objects{own("evil", issuer), cluster("company", issuer, "payments")}, v1alpha1.ReasonIdentifierNotAllowed},
		"an own server of its issuer, shouted": {
			claimant("evil", 0), objects{own("evil", "https://AUTH.Example.com.:443/x/../%6Fidc/"), cluster("company", issuer, "payments")}, v1alpha1.ReasonIdentifierNotAllowed},
		"an own server of another issuer":  {claimant("evil", 0), objects{own("evil", issuer+"2"), cluster("company", issuer, "payments")}, ""},
		"an own server, and it is allowed": {claimant("payments", 0), objects{own("payments", issuer), cluster("company", issuer, "payments")}, ""},
		"two of the cluster, the other one allows it": {
			claimant("payments", 0), objects{own("payments", issuer), cluster("a", issuer, "shop"), cluster("b", issuer, "payments")}, ""},
		"one of another issuer before it": {
			claimant("evil", 0), objects{own("evil", issuer), cluster("a", "https://other.example.com", "evil"), cluster("b", issuer, "payments")}, v1alpha1.ReasonIdentifierNotAllowed},
		"its claim is the second": {
			claimant("payments", 0),
			objects{own("payments", issuer), reserving(reserving(cluster("company", issuer, "payments"), "https://shop.example.com/", "shop"), prefix, "payments")}, ""},
		"its claim is the first of two": {
			claimant("payments", 0),
			objects{own("payments", issuer), reserving(reserving(cluster("company", issuer, "payments"), prefix, "payments"), prefix, "shop")}, ""},
		"two of the cluster, one allows it": {claimant("payments", 0), objects{own("payments", issuer), cluster("a", issuer, "payments"), cluster("b", issuer, "shop")}, ""},
		"the older is not allowed": {
			claimant("payments", 0), objects{own("payments", issuer), own("evil", issuer), cluster("company", issuer, "payments"), claimant("evil", -time.Hour)}, ""},
		"the one that is not allowed had it": {
			claimant("payments", 0),
			objects{own("payments", issuer), own("evil", issuer), cluster("company", issuer, "payments"), claimant("evil", -time.Hour, holdingAt(issuer, -time.Hour))}, ""},

		"a reserved identifier": {
			claimant("payments", 0), objects{own("payments", issuer), reserving(cluster("company", issuer, "payments"), prefix, "payments")}, ""},
		"a reserved identifier, for others": {
			claimant("evil", 0), objects{own("evil", issuer), reserving(cluster("company", issuer, "evil"), prefix, "payments")}, v1alpha1.ReasonIdentifierNotAllowed},
		"a reserved identifier, by a server without claims": {
			claimant("evil", 0, atCluster("b")), objects{reserving(cluster("a", issuer, "payments"), prefix, "payments"), cluster("b", issuer, "evil")},
			v1alpha1.ReasonIdentifierNotAllowed},
		"a reserved identifier, spelled otherwise": {
			claimant("evil", 0, identified("https://PAYMENT.example.com:443/api")),
			objects{own("evil", issuer), reserving(reserving(cluster("company", issuer, "evil"), prefix, "payments"), "https://evil.example.com/", "evil")},
			v1alpha1.ReasonIdentifierNotAllowed},
		"a way out of the own prefix": {
			claimant("evil", 0, identified("https://apis.example.com/evil/%2e%2e/payment")),
			objects{own("evil", issuer), reserving(cluster("company", issuer, "evil"), "https://apis.example.com/evil/", "evil")}, v1alpha1.ReasonIdentifierNotAllowed},
		"a host as user information": {
			claimant("evil", 0, identified("https://evil.example.com@payment.example.com/")),
			objects{own("evil", issuer), reserving(cluster("company", issuer, "evil"), "https://evil.example.com", "evil")}, v1alpha1.ReasonIdentifierNotAllowed},
		"a prefix that is no URL": {
			claimant("payments", 0, identified("urn:payments:api")),
			objects{own("payments", issuer), reserving(cluster("company", issuer, "payments"), "urn:payments:", "payments")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolver(append(tc.others, tc.api)...)
			_, refused, err := r.Accept(t.Context(), tc.api)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if refused != nil {
				got = refused.Reason
			}
			if got != tc.want {
				t.Errorf("refused for %q, want %q: %+v", got, tc.want, refused)
			}
		})
	}
}

// TestNormal: only URLs have a normal form.
func TestNormal(t *testing.T) {
	for s, want := range map[string]string{
		"HTTPS://Auth.Example.COM.:443/a/../b/": "https://auth.example.com/b/",
		"http://auth.example.com:443?a=b":       "http://auth.example.com:443?a=b",
		"https://auth.example.com/":             "https://auth.example.com/",
		"https://u:p@auth.example.com/%61":      "https://auth.example.com/a",
		"urn:example:api":                       "urn:example:api",
		"a/../b":                                "a/../b",
		"https://auth.example.com/%zz":          "https://auth.example.com/%zz",
	} {
		if got := normal(s); got != want {
			t.Errorf("normal(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestWhatAServerSaysOfItsKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		change                 func(*v1alpha1.AuthorizationServer)
		known, revoked, opaque bool // revoked: the key of ID "k"
	}{
		"nothing": {change: func(*v1alpha1.AuthorizationServer) {}},
		"a key":   {change: func(s *v1alpha1.AuthorizationServer) { s.Status.Keys = []v1alpha1.SigningKey{{KeyID: "k"}} }, known: true},
		"a key that is revoked": {change: func(s *v1alpha1.AuthorizationServer) {
			s.Status.Keys, s.Spec.JWKS.RevokedKeyIDs = []v1alpha1.SigningKey{{KeyID: "k"}}, []string{"", "k"}
		}, known: true, revoked: true},
		"no key but a revoked one": {change: func(s *v1alpha1.AuthorizationServer) { s.Spec.JWKS.RevokedKeyIDs = []string{"other"} }, known: true},
		"opaque tokens":            {change: func(s *v1alpha1.AuthorizationServer) { s.Spec.TokenFormat = v1alpha1.TokenFormatOpaque }, opaque: true},
	} {
		t.Run(name, func(t *testing.T) {
			as := own("payments", issuer)
			tc.change(as)
			s := ServerOf(as)
			if s.KeysKnown() != tc.known || s.Revoked("k") != tc.revoked || s.Revoked("") || s.Opaque() != tc.opaque {
				t.Errorf("keys known: %t, revoked: %t, without an ID: %t, opaque: %t", s.KeysKnown(), s.Revoked("k"), s.Revoked(""), s.Opaque())
			}
		})
	}
}
