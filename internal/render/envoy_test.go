// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestEnvoyFilterHoldsWhatIsMeant(t *testing.T) {
	for name, b := range map[string]Bundle{"payment": payment(), "hostile": hostile(), "opaque": opaque()} {
		t.Run(name, func(t *testing.T) {
			files, err := Verification(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := yaml.UnmarshalStrict([]byte(files[FileEnvoy]), &got); err != nil {
				t.Fatal(err)
			}
			config := got["typed_config"].(map[string]any)
			providers := config["providers"].(map[string]any)
			provider := providers[b.Namespace+"/"+b.Name].(map[string]any)
			inline := provider["local_jwks"].(map[string]any)["inline_string"].(string)
			delete(provider, "local_jwks")
			claims := []any{"scope", "scp"} // and others, if scopes are carried there
			if name == "hostile" {
				claims = append(claims, b.Scopes[0].Claims[0])
			}

			want := map[string]any{
				"issuer": b.Issuer, "audiences": []any{b.Audience}, "require_expiration": true,
				"clock_skew_seconds": float64(max(b.ClockSkewSeconds, 1)), "forward": true,
				"from_headers":                  []any{map[string]any{"name": "Authorization", "value_prefix": "Bearer "}},
				"payload_in_metadata":           "jwt_payload",
				"normalize_payload_in_metadata": map[string]any{"space_delimited_claims": claims},
			}
			if diff := cmp.Diff(map[string]any{b.Namespace + "/" + b.Name: any(want)}, providers); diff != "" {
				t.Errorf("providers (-want +got):\n%s", diff)
			}
			rules := []any{map[string]any{"match": map[string]any{"prefix": "/"}, "requires": map[string]any{"provider_name": b.Namespace + "/" + b.Name}}}
			if diff := cmp.Diff(rules, config["rules"]); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			for _, k := range parseSet(t, inline) {
				if k["alg"] == "" {
					t.Errorf("key %q states no algorithm, so Envoy takes any", k["kid"])
				}
			}
		})
	}
}

// TestFilesThatCannotCheckTheNameAreLeftOut: Envoy's filter would take every token
// of the issuer where aud does not name the API.
func TestFilesThatCannotCheckTheNameAreLeftOut(t *testing.T) {
	b := payment()
	b.Named = Named{Claims: []string{"client_id"}, Values: []string{"cart"}}
	files, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := files[FileEnvoy]; there {
		t.Error("Envoy's filter is in the bundle")
	}
	if diff := cmp.Diff([]string{FileEnvoy}, b.LeftOut()); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if left := payment().LeftOut(); len(left) > 0 {
		t.Errorf("left out without need: %v", left)
	}
	for name, n := range map[string]Named{
		"values without claims": {Values: []string{"cart"}},
		"a prefix alone":        {Prefix: "payments:"},
		"claims alone":          {Claims: []string{"client_id"}},
		"values and a prefix":   {Claims: []string{"scope"}, Values: []string{"cart"}, Prefix: "payments:"},
		"an empty value":        {Claims: []string{"client_id"}, Values: []string{""}},
		"an empty claim":        {Claims: []string{""}, Values: []string{"cart"}},
		"too many claims":       {Claims: []string{"a", "b", "c"}, Values: []string{"cart"}},
		"too many values":       {Claims: []string{"a"}, Values: slices.Repeat([]string{"cart"}, 65)},
	} {
		t.Run(name, func(t *testing.T) {
			b.Named = n
			if files, err := Verification(b, nil); err == nil || files != nil {
				t.Errorf("%d files, error %v", len(files), err)
			}
		})
	}
}

func TestEnvoyKeysAssertTheAlgorithms(t *testing.T) {
	tests := map[string]struct {
		algorithms []string
		keys       []Key
		want       []string // kid/alg
	}{
		"an RSA key that does not say is RS256":          {nil, []Key{{ID: "2026-01", Algorithm: "", JWK: rsaJWK}}, []string{"2026-01/RS256"}},
		"an RSA key whose owner says PS256":              {nil, []Key{{ID: "2026-01", Algorithm: "PS256", JWK: rsaJWK}}, []string{"2026-01/PS256"}},
		"an RSA key under a list of two":                 {[]string{"RS256", "PS256"}, []Key{{ID: "2026-01", Algorithm: "", JWK: rsaJWK}}, []string{"2026-01/RS256", "2026-01/PS256"}},
		"a key that the list excludes is left out":       {[]string{"ES256"}, payment().Keys, []string{"2026-02/ES256"}},
		"a list that no key fits leaves the unowned one": {[]string{"ES384"}, payment().Keys, []string{"nobody/ES256"}},
		"a stated algorithm is not stretched to others":  {[]string{"RS256", "PS256"}, []Key{{ID: "2026-01", Algorithm: "RS256", JWK: rsaJWK}}, []string{"2026-01/RS256"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := payment()
			b.Algorithms, b.Keys = tc.algorithms, tc.keys
			files, err := Verification(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			var filter envoyFilter
			if err := yaml.Unmarshal([]byte(files[FileEnvoy]), &filter); err != nil {
				t.Fatal(err)
			}
			inline := filter.TypedConfig.Providers["payments/payment-api"].LocalJWKS.InlineString
			if alone, err := EnvoyKeySet(b); alone != inline || err != nil {
				t.Errorf("the keys alone are %s, %v; want %s", alone, err, inline)
			}
			var got []string
			for _, k := range parseSet(t, inline) {
				got = append(got, k["kid"]+"/"+k["alg"])
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNoKeysForABundleThatIsRefused: a gateway that has the keys alone checks no less.
func TestNoKeysForABundleThatIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Bundle){
		"an unknown algorithm": func(b *Bundle) { b.Algorithms = []string{"none"} },
		"no issuer":            func(b *Bundle) { b.Issuer = "" },
	} {
		b := payment()
		change(&b)
		if keys, err := EnvoyKeySet(b); keys != "" || err == nil {
			t.Errorf("%s: %q, %v", name, keys, err)
		}
	}
}

// TestNobodyHasTheUnownedKey makes the point anew: who chooses a private key cannot choose
// what its public key looks like.
func TestNobodyHasTheUnownedKey(t *testing.T) {
	curve, three := elliptic.P256().Params(), big.NewInt(3)
	for i := range 100 {
		sum := sha256.Sum256(fmt.Appendf(nil, "m2m-operator: nobody has the private key, %d", i))
		x := new(big.Int).SetBytes(sum[:])
		right := new(big.Int).Exp(x, three, curve.P) // x³ - 3x + b
		right.Sub(right, new(big.Int).Mul(x, three))
		right.Mod(right.Add(right, curve.B), curve.P)
		y := new(big.Int).ModSqrt(right, curve.P)
		if x.Cmp(curve.P) >= 0 || y == nil {
			continue
		}
		encode := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
		want := fmt.Sprintf(`"x":"%s","y":"%s"}`, encode(x), encode(y))
		if !strings.HasSuffix(unownedKey, want) {
			t.Errorf("the key is %s, want …%s", unownedKey, want)
		}
		if _, err := parseKey(Key{ID: "nobody", JWK: unownedKey}); err != nil {
			t.Error(err)
		}
		return
	}
	t.Fatal("no point in a hundred")
}
