// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const (
	rsaJWK = `{"kty":"RSA","kid":"2026-01","use":"sig","n":"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4gs_7svlJJQ4H9_NxsiIoLwAEk7-Q3UXERGYw_75IDrGA84-lA_-Ct4eTlXHBIY2EaV7t7LjJaynVJCpkv4LKjTTAumiGUIuQhrNhZLuF_RJLqHpM2kgWFLU7-VTdL1VbC2tejvcI2BlMkEpk1BzBZI0KQB0GaDWFLN-aEAw3vRw","e":"AQAB"}`
	ecJWK  = `{"kty":"EC","crv":"P-256","kid":"2026-02","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	okpJWK = `{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
)

// inScope are the claims of a scope in the usual claims.
var inScope = []string{"scope", "scp"}

func payment() Bundle {
	return Bundle{
		Name: "payment-api", Namespace: "payments",
		Issuer: "https://auth.example.com/oidc", Audience: "https://payment.example.com/api",
		JWKSURI: "https://auth.example.com/oidc/jwks", ClockSkewSeconds: 30, TokenType: "at+jwt",
		Scopes: []Scope{{"payments:read", "", inScope}, {"payments:write", "Create and refund payments", inScope}},
		Keys:   []Key{{ID: "2026-02", Algorithm: "ES256", JWK: ecJWK}, {ID: "2026-01", Algorithm: "", JWK: rsaJWK}},
	}
}

// opaque is the smallest bundle: an audience that is not a URI, and no scopes.
func opaque() Bundle {
	return Bundle{Name: "orders", Namespace: "shop", Issuer: "http://127.0.0.1:8080", Audience: "orders", Keys: []Key{{ID: "ed", Algorithm: "EdDSA", JWK: okpJWK}}}
}

// hostile puts what a template or a format might stumble over wherever a
// tenant can write.
func hostile() Bundle {
	evil := "x\"'\n  requires: {}\n- match: {prefix: \"/\"}\n</a>{{ . }}\u2028: &a *b !!c # %"
	b := payment()
	b.Issuer = `https://auth.example.com/"'}: #{{ . }}`
	b.Audience = `"quoted': - {audience}`
	b.TokenType = evil
	b.JWKSURI = evil
	b.Scopes = []Scope{{evil, evil, []string{evil}}, {"none", "", nil}}
	b.Name = evil
	return b
}

func TestVerificationGolden(t *testing.T) {
	tests := map[string]struct {
		bundle Bundle
		extra  map[string]string
	}{
		"payment": {payment(), map[string]string{
			"spring.yaml": "issuer: {{ json .Issuer }}\nscopes:\n{{- range .Scopes }}\n- {{ json . }}\n{{- end }}\njwks: |\n{{ indent 2 .JWKS }}",
		}},
		"opaque":  {bundle: opaque()},
		"hostile": {bundle: hostile()},
		"named": {func() Bundle {
			b := payment()
			b.Named = Named{Claims: []string{"client_id"}, Values: []string{"cart", "till"}}
			return b
		}(), map[string]string{"gateway": "{{ json .AudienceClaims }} {{ range .AudienceValues }}{{ json . }}{{ end }} {{ json .AudiencePrefix }}"}},
		"named-by-scope": {func() Bundle {
			b := payment()
			b.Named = Named{Claims: inScope, Prefix: "payments:"}
			return b
		}(), map[string]string{"gateway": "{{ json .AudienceClaims }} {{ json .AudiencePrefix }}"}},
		"formats": {bundle: func() Bundle {
			b := payment()
			b.Formats = everyFormat()
			b.Formats.Requests = []Requests{
				{Name: "public", Rules: []Rule{
					{Methods: []string{"GET", "HEAD"}, Paths: []Path{{Value: "/v1", Prefix: true}, {Value: "/health"}}, Scopes: []string{"payments:read"}},
					{Scopes: []string{"payments:read", "payments:write"}},
				}},
				{Name: "anyone"},
			}
			return b
		}()},
		"formats-named": {bundle: func() Bundle {
			b := payment()
			b.Named = Named{Claims: []string{"client_id"}, Values: []string{"cart"}}
			b.Formats = Formats{Names: []string{FormatEnvoy}, Requests: []Requests{{Name: "public"}}}
			return b
		}()},
		"no-keys": {bundle: func() Bundle { b := payment(); b.Keys = nil; return b }()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			files, err := Verification(tc.bundle, tc.extra)
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range files {
				golden(t, name+"/"+file, content)
			}
			entries, err := os.ReadDir("testdata/" + name)
			if err != nil || len(entries) != len(files) {
				t.Errorf("%d files, %d goldens (%v)", len(files), len(entries), err)
			}

			var v any
			if err := json.Unmarshal([]byte(files[FileVerification]), &v); err != nil {
				t.Fatal(err)
			}
			if problems := schemaProblems(schema(t), v, "$"); len(problems) > 0 {
				t.Errorf("verification.json breaks its schema: %v", problems)
			}
			if !json.Valid([]byte(files[FileJWKS])) {
				t.Error("jwks.json is not JSON")
			}
		})
	}
}

func parseSet(t *testing.T, jwks string) []map[string]string {
	t.Helper()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal([]byte(jwks), &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

func TestVerificationDoesNotDependOnOrder(t *testing.T) {
	a := payment()
	a.Algorithms = []string{"RS256", "ES256"}
	b := payment()
	b.Algorithms = []string{"ES256", "RS256", "ES256"}
	slices.Reverse(b.Keys)
	b.Keys = append(b.Keys, b.Keys...)

	first, err := Verification(a, map[string]string{"x": "{{ .JWKS }}"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Verification(b, map[string]string{"x": "{{ .JWKS }}"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"RS256", "ES256"}, a.Algorithms); diff != "" {
		t.Errorf("the caller's list changed (-want +got):\n%s", diff)
	}
}

func TestProtectedResourceOnlyForWebURIs(t *testing.T) {
	tests := map[string]bool{
		"https://payment.example.com": true, "https://payment.example.com/api?x=y": true, "http://localhost:8080/": true,
		"payment": false, "urn:example:payment": false, "https://payment.example.com/#a": false, "https://payment.example.com/#": false,
		"https:///path": false, "/path": false, "//payment.example.com": false, "https:opaque": false, "https://a b": false,
	}
	for audience, want := range tests {
		b := payment()
		b.Audience = audience
		files, err := Verification(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := files[FileProtectedResource]; got != want {
			t.Errorf("audience %q: file %v", audience, got)
		}
	}
}

func FuzzVerification(f *testing.F) {
	f.Add("https://auth.example.com", "https://payment.example.com", "scope", "what it is", ecJWK)
	f.Add("i", "a", "s", "line\nbreak: \"x\"", okpJWK)
	f.Add("i", "a", "s", "", `{"kty":"RSA","n":"n","e":"e","D":"x"}`)
	f.Fuzz(func(t *testing.T, issuer, audience, scope, description, jwk string) {
		var id struct {
			Kid string `json:"kid"`
		}
		_ = json.Unmarshal([]byte(jwk), &id)
		files, err := Verification(Bundle{
			Name: "n", Namespace: "ns", Issuer: issuer, Audience: audience,
			Scopes: []Scope{{scope, description, []string{scope}}}, Keys: []Key{{ID: id.Kid, JWK: jwk}},
		}, nil)
		if files == nil || err != nil && !errors.As(err, new(*Incomplete)) {
			return
		}
		if files[FileIssuer] != issuer || files[FileAudience] != audience {
			t.Error("issuer or audience changed")
		}
		var v verification
		if err := json.Unmarshal([]byte(files[FileVerification]), &v); err != nil || v.Issuer != issuer || v.Audience != audience {
			t.Errorf("verification.json: %v, %+v", err, v)
		}
		if _, ok := files[FileEnvoy]; !ok {
			return
		}
		var filter envoyFilter
		if err := yaml.UnmarshalStrict([]byte(files[FileEnvoy]), &filter); err != nil {
			t.Fatal(err)
		}
		p := filter.TypedConfig.Providers["ns/n"]
		if p.Issuer != issuer || len(p.Audiences) != 1 || p.Audiences[0] != audience || !p.RequireExpiration || len(filter.TypedConfig.Rules) != 1 {
			t.Errorf("filter %+v", filter)
		}
		for _, k := range parseSet(t, files[FileJWKS]) {
			for name := range k {
				if slices.Contains(privateMembers, strings.ToLower(name)) {
					t.Errorf("member %q got through", name)
				}
			}
		}
	})
}
