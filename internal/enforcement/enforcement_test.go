// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

const gatewayGroup = "gateway.networking.k8s.io"

func payment() render.Bundle {
	standard := []string{"scope", "scp"}
	return render.Bundle{
		Name: "payment-api", Namespace: "payments", Issuer: "https://auth.example.com", Audience: "https://payment.example.com/api",
		ClockSkewSeconds: 60, Algorithms: []string{"RS256", "PS256"},
		Scopes: []render.Scope{
			{Name: "payments:read", Claims: standard}, {Name: "payments:write", Claims: standard},
			{Name: "audit", Claims: []string{"roles"}}, {Name: "admin", Claims: []string{"https://example.com/roles"}},
			{Name: "odd", Claims: []string{"a[b]"}}, {Name: "nowhere"}, {Name: "payments:*", Claims: standard},
		},
		Keys: []render.Key{{ID: "k1", JWK: `{"kty":"RSA","kid":"k1","n":"AQAB","e":"AQAB","d":""}`}, {ID: "k2", JWK: `{"kty":"RSA","kid":"k2","n":"AQAB","e":"AQAB"}`}},
	}
}

func entry(g Gateway, rules ...Rule) Entry {
	e := Entry{Namespace: "payments", API: "payment-api", Name: "public", Gateway: g, Rules: rules}
	e.Targets = []Target{{Group: gatewayGroup, Kind: "HTTPRoute", Name: "payment", Section: "pay"}}
	if g == Istio {
		e.Targets, e.Labels = nil, map[string]string{"app": "payment"}
	}
	return e
}

func someRules() []Rule {
	return []Rule{
		{"read", render.Rule{Methods: []string{"GET", "HEAD"}, Paths: []render.Path{{Value: "/v1/", Prefix: true}, {Value: "/status"}}, Scopes: []string{"payments:read"}}},
		{"all", render.Rule{Paths: []render.Path{{Value: "/", Prefix: true}}, Scopes: []string{"payments:read", "payments:write", "audit"}}},
	}
}

// TestPolicies compares whole policies with testdata.
func TestPolicies(t *testing.T) {
	for _, g := range Gateways() {
		for name, e := range map[string]Entry{"every-token": entry(g), "rules": entry(g, someRules()...)} {
			t.Run(string(g)+" "+name, func(t *testing.T) {
				p, err := Open(payment(), e)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, string(g)+"-"+name+".yaml", p.Objects)
			})
		}
		t.Run(string(g)+" targets", func(t *testing.T) {
			e := entry(EnvoyGateway)
			e.Gateway = g
			p, err := Open(payment(), e)
			if err != nil {
				t.Fatal(err)
			}
			last := p.Objects[len(p.Objects)-1]
			targets, _, _ := unstructured.NestedSlice(last.Object, "spec", "targetRefs")
			want := []any{map[string]any{"group": gatewayGroup, "kind": "HTTPRoute", "name": "payment", "sectionName": "pay"}}
			if _, selects, _ := unstructured.NestedMap(last.Object, "spec", "selector"); selects || !cmp.Equal(targets, want) {
				t.Errorf("%s protects %v, and what labels select: %t", last.GetKind(), targets, selects)
			}
		})
		t.Run(string(g)+" closed", func(t *testing.T) { golden(t, string(g)+"-closed.yaml", Closed(entry(g)).Objects) })
	}
}

func golden(t *testing.T, name string, objects []*unstructured.Unstructured) {
	t.Helper()
	var all []string
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	got, path := strings.Join(all, "---\n"), filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestNothingIsWeaker: where a gateway cannot check what must be checked, there is no
// policy that checks less.
func TestNothingIsWeaker(t *testing.T) {
	scoped := func(scopes ...string) []Rule { return []Rule{{Rule: render.Rule{Scopes: scopes}}} }
	tests := map[string]struct {
		gateways []Gateway // those that cannot
		change   func(*render.Bundle)
		rules    []Rule
	}{
		"tokens do not name the API by aud": {Gateways(), func(b *render.Bundle) {
			b.Named = render.Named{Claims: []string{"client_id"}, Values: []string{"x"}}
		}, nil},
		"no issuer":                               {Gateways(), func(b *render.Bundle) { b.Issuer = "" }, nil},
		"a long issuer":                           {[]Gateway{EnvoyGateway}, func(b *render.Bundle) { b.Issuer += "/" + strings.Repeat("x", maxIssuer) }, nil},
		"an unknown algorithm":                    {Gateways(), func(b *render.Bundle) { b.Algorithms = []string{"none"} }, nil},
		"a scope that no claim carries":           {Gateways(), nil, scoped("payments:read", "nowhere")},
		"a scope that the API does not know":      {Gateways(), nil, scoped("unheard")},
		"a claim with a dot":                      {[]Gateway{EnvoyGateway}, nil, scoped("admin")},
		"a claim with brackets":                   {[]Gateway{Istio}, nil, scoped("odd")},
		"a scope that is a wildcard":              {[]Gateway{Istio}, nil, scoped("payments:*")},
		"an audience that makes a condition long": {[]Gateway{EnvoyGateway}, func(b *render.Bundle) { b.Audience += strings.Repeat("\"", 1000) }, nil},
		"an issuer that just fits":                {nil, func(b *render.Bundle) { b.Issuer += strings.Repeat("x", maxIssuer-len(b.Issuer)) }, nil},
		"an audience that just fits": {nil, func(b *render.Bundle) {
			condition, err := envoyCondition(*b)
			if err != nil {
				t.Fatal(err)
			}
			b.Audience += strings.Repeat("x", (maxCondition-len(condition))/2) // the condition has it twice
			if condition, _ = envoyCondition(*b); len(condition) != maxCondition {
				t.Fatalf("the condition has %d characters", len(condition))
			}
		}, nil},
		"an issuer that is a wildcard":              {[]Gateway{Istio}, func(b *render.Bundle) { b.Issuer += "/*" }, nil},
		"an audience that is a wildcard":            {[]Gateway{Istio}, func(b *render.Bundle) { b.Audience = "*" }, nil},
		"a scope of an unusual claim, as that is":   {nil, nil, scoped("audit")},
		"no algorithm but those of the keys, as is": {nil, func(b *render.Bundle) { b.Algorithms = nil }, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, g := range Gateways() {
				b := payment()
				if tc.change != nil {
					tc.change(&b)
				}
				p, err := Open(b, entry(g, tc.rules...))
				cannot := strings.Contains(strings.Join(asTexts(tc.gateways), " "), string(g))
				if is := (*NotEnforceable)(nil); errors.As(err, &is) != cannot || cannot != (len(p.Objects) == 0) {
					t.Errorf("%s: %d objects, error %v; cannot: %t", g, len(p.Objects), err, cannot)
				}
			}
		})
	}
}

func asTexts(gateways []Gateway) (all []string) {
	for _, g := range gateways {
		all = append(all, string(g))
	}
	return all
}

// TestKeys: the keys that a gateway gets state their algorithms, and none is missing or
// private. Without any key the set has one that signs nothing: Envoy would refuse an empty
// set and go on with the former one, and an absent one would make Istio ask the server.
func TestKeys(t *testing.T) {
	for _, g := range Gateways() {
		for name, keys := range map[string][]render.Key{"keys": payment().Keys, "no key": nil} {
			b := payment()
			b.Keys = keys
			p, err := Open(b, entry(g))
			if err != nil {
				t.Fatal(err)
			}
			var set struct {
				Keys []map[string]string `json:"keys"`
			}
			if err := json.Unmarshal([]byte(keysIn(t, p.Objects[0])), &set); err != nil || set.Keys == nil {
				t.Fatalf("%s, %s: %v in %v", g, name, err, p.Objects[0])
			}
			var got []string
			for _, k := range set.Keys {
				got = append(got, k["kid"]+" "+k["alg"])
			}
			want := []string{"nobody ES256"}
			if keys != nil {
				want = []string{"k2 PS256", "k2 RS256"} // the other one is private
			}
			if diff := cmp.Diff(want, got, sorted); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", g, name, diff)
			}
		}
	}
}

var sorted = cmp.Transformer("sorted", func(in []string) map[string]bool {
	set := map[string]bool{}
	for _, s := range in {
		set[s] = true
	}
	return set
})

func keysIn(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	if o.GetKind() == "ConfigMap" {
		keys, _, _ := unstructured.NestedString(o.Object, "data", KeysField)
		return keys
	}
	rules, _, _ := unstructured.NestedSlice(o.Object, "spec", "jwtRules")
	return rules[0].(map[string]any)["jwks"].(string)
}

func TestWhatIsNotChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		gateway Gateway
		typ     string
		skew    int
		want    []string
	}{
		"a type and a skew, by Envoy Gateway":        {EnvoyGateway, "at+jwt", 30, []string{"the token type at+jwt", "the clock skew of 30s (Envoy Gateway allows 60s)"}},
		"a type and a skew, by Istio":                {Istio, "at+jwt", 30, []string{"that a token has an exp", "the token type at+jwt", "the clock skew of 30s (Istio allows 60s)"}},
		"the skew that Envoy allows":                 {EnvoyGateway, "", 60, nil},
		"a second less than the skew that it allows": {EnvoyGateway, "", 59, []string{"the clock skew of 59s (Envoy Gateway allows 60s)"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := payment()
			b.TokenType, b.ClockSkewSeconds = tc.typ, tc.skew
			p, err := Open(b, entry(tc.gateway))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, p.Unchecked); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
