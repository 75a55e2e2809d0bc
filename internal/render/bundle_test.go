// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
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

// TestThePublishedKeyComesFirst: many verifiers take the first key with an ID.
func TestThePublishedKeyComesFirst(t *testing.T) {
	b := payment()
	keys := b.Keys[:0:0]
	for i, k := range payment().Keys {
		var members map[string]any
		if err := json.Unmarshal([]byte(k.JWK), &members); err != nil {
			t.Fatal(err)
		}
		members["kid"] = "main"
		encoded, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, Key{ID: "main", Algorithm: k.Algorithm, JWK: string(encoded), Retired: i != 0})
	}
	if len(keys) < 2 {
		t.Fatal("there are no two keys")
	}
	for range keys {
		b.Keys = keys
		files, err := Verification(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(keys, func(k Key) bool { return !k.Retired })
		var want map[string]string
		if err := json.Unmarshal([]byte(keys[first].JWK), &want); err != nil {
			t.Fatal(err)
		}
		if got := parseSet(t, files[FileJWKS])[0]; got["x"] != want["x"] || got["n"] != want["n"] {
			t.Errorf("the first key is %v, want %v", got, want)
		}
		published := slices.IndexFunc(keys, func(k Key) bool { return !k.Retired })
		keys = slices.Clone(keys)
		keys[published].Retired, keys[(published+1)%len(keys)].Retired = true, false
	}
}

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
		"an RSA key that does not say is RS256":         {nil, []Key{{ID: "2026-01", Algorithm: "", JWK: rsaJWK}}, []string{"2026-01/RS256"}},
		"an RSA key whose owner says PS256":             {nil, []Key{{ID: "2026-01", Algorithm: "PS256", JWK: rsaJWK}}, []string{"2026-01/PS256"}},
		"an RSA key under a list of two":                {[]string{"RS256", "PS256"}, []Key{{ID: "2026-01", Algorithm: "", JWK: rsaJWK}}, []string{"2026-01/RS256", "2026-01/PS256"}},
		"a key that the list excludes is left out":      {[]string{"ES256"}, payment().Keys, []string{"2026-02/ES256"}},
		"a list that no key fits leaves nothing":        {[]string{"ES384"}, payment().Keys, nil},
		"a stated algorithm is not stretched to others": {[]string{"RS256", "PS256"}, []Key{{ID: "2026-01", Algorithm: "RS256", JWK: rsaJWK}}, []string{"2026-01/RS256"}},
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
			var got []string
			for _, k := range parseSet(t, filter.TypedConfig.Providers["payments/payment-api"].LocalJWKS.InlineString) {
				got = append(got, k["kid"]+"/"+k["alg"])
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
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

func TestVerificationRefuses(t *testing.T) {
	const private = `"d":"SENTINEL"`
	key := func(jwk string) func(*Bundle) {
		return func(b *Bundle) { b.Keys = []Key{{ID: "k", Algorithm: "", JWK: jwk}} }
	}
	tests := map[string]struct {
		change  func(*Bundle)
		extra   map[string]string
		wantErr []string
	}{
		"no issuer":               {change: func(b *Bundle) { b.Issuer = "" }, wantErr: []string{"issuer must not be empty"}},
		"no audience":             {change: func(b *Bundle) { b.Audience = "" }, wantErr: []string{"audience must not be empty"}},
		"an audience of two":      {change: func(b *Bundle) { b.Audience = "a\nb" }, wantErr: []string{"audience", "printable"}},
		"an issuer that is bytes": {change: func(b *Bundle) { b.Issuer = "\xff" }, wantErr: []string{"issuer", "printable"}},
		"a line separator":        {change: func(b *Bundle) { b.Issuer = "a\u2028b" }, wantErr: []string{"issuer", "printable"}},
		"a negative clock skew":   {change: func(b *Bundle) { b.ClockSkewSeconds = -1 }, wantErr: []string{"negative"}},
		"too many scopes":         {change: func(b *Bundle) { b.Scopes = make([]Scope, 257) }, wantErr: []string{"257 scopes, more than 256"}},
		"no signature at all":     {change: func(b *Bundle) { b.Algorithms = []string{"none"} }, wantErr: []string{`"none"`, `"ES256"`}},
		"a symmetric algorithm":   {change: func(b *Bundle) { b.Algorithms = []string{"RS256", "HS256"} }, wantErr: []string{`"HS256"`}},

		"a private RSA key":           {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB",` + private + `}`), wantErr: []string{`key "k"`, "private"}},
		"a private member in capital": {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","D":"SENTINEL"}`), wantErr: []string{"private"}},
		"only a prime":                {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","p":"SENTINEL"}`), wantErr: []string{"private"}},
		"other primes":                {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","oth":["SENTINEL"]}`), wantErr: []string{"private"}},
		"a private EC key":            {change: key(`{"kty":"EC","crv":"P-256","kid":"k","x":"x","y":"y",` + private + `}`), wantErr: []string{"private"}},
		"a private key that is null":  {change: key(`{"kty":"EC","crv":"P-256","kid":"k","x":"x","y":"y","d":null}`), wantErr: []string{"private"}},
		"a symmetric key":             {change: key(`{"kty":"oct","kid":"k","k":"SENTINEL"}`), wantErr: []string{"symmetric"}},
		"a symmetric key without k":   {change: key(`{"kty":"oct","kid":"k"}`), wantErr: []string{`"oct" is not RSA`}},
		"a key for encryption":        {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","use":"enc"}`), wantErr: []string{`use is "enc"`}},
		"a key with another id":       {change: key(`{"kty":"RSA","kid":"other","n":"n","e":"AQAB"}`), wantErr: []string{`kid is "other"`}},
		"a key without material":      {change: key(`{"kty":"RSA","kid":"k","n":"n"}`), wantErr: []string{`"e" is missing`}},
		"a key that is a list":        {change: key(`["SENTINEL"]`), wantErr: []string{"not a JSON object"}},
		"a key that is null":          {change: key(`null`), wantErr: []string{`key type ""`}},
		"a key and more":              {change: key(`{} SENTINEL`), wantErr: []string{"not a JSON object"}},
		"a member that is a number":   {change: key(`{"kty":"RSA","kid":"k","n":1234,"e":"AQAB"}`), wantErr: []string{`"n" is not a string`}},
		"a curve for agreement":       {change: key(`{"kty":"OKP","crv":"X25519","kid":"k","x":"x"}`), wantErr: []string{`"X25519" is not supported`}},
		"an algorithm of another key": {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","alg":"ES256"}`), wantErr: []string{`"ES256" does not fit`}},
		"a symmetric use of a key":    {change: key(`{"kty":"RSA","kid":"k","n":"n","e":"AQAB","alg":"HS256"}`), wantErr: []string{`"HS256" does not fit`}},
		"two algorithms":              {change: func(b *Bundle) { b.Keys[0].Algorithm = "ES384" }, wantErr: []string{`"ES384" does not fit`, `"ES256"`}},

		"a path out of the directory": {extra: map[string]string{"../x": ""}, wantErr: []string{"extra file", `"../x"`}},
		"a path into a directory":     {extra: map[string]string{"a/b": ""}, wantErr: []string{`"a/b"`}},
		"the kubelet's own link":      {extra: map[string]string{"..data": ""}, wantErr: []string{`"..data"`}},
		"the keys":                    {extra: map[string]string{"jwks.json": "{}"}, wantErr: []string{`"jwks.json" is part of every bundle`}},
		"a fixed file that is absent": {change: func(b *Bundle) { b.Audience = "x" }, extra: map[string]string{"protected-resource.json": "{}"}, wantErr: []string{"part of every bundle"}},
		"a template that is wrong":    {extra: map[string]string{"f": "{{ .Secret }}"}, wantErr: []string{`extra file "f"`, `no field "Secret"`}},
		"a bundle that is too large": {
			extra: map[string]string{"a": large, "b": large, "c": large, "d": large, "e": large}, wantErr: []string{`file "e"`, "more than 524288"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := payment()
			if tc.change != nil {
				tc.change(&b)
			}
			_, err := Verification(b, tc.extra)
			checkError(t, err, tc.wantErr...)
			if strings.Contains(err.Error(), "SENTINEL") {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}

// large is a small template with 120 KiB of output.
var large = `{{ $x := "` + strings.Repeat("a", 3000) + `" }}` + strings.Repeat("{{ $x }}", 40)

// TestWhatCannotBeRenderedIsLeftOut: one bad part must not keep a revoked key in
// the bundle.
func TestWhatCannotBeRenderedIsLeftOut(t *testing.T) {
	odd := func(kid string) Key {
		jwk, _ := json.Marshal(map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
		return Key{ID: kid, JWK: string(jwk)}
	}
	good := map[string]string{"good": "{{ .Name }}"}
	for name, tc := range map[string]struct {
		key   Key
		extra map[string]string
		left  []string
	}{
		"a key whose ID no YAML can hold": {key: odd("k\x7f")},
		"a key with a line break":         {key: odd("k\nevil: true")},
		"a private key":                   {key: Key{ID: "k", JWK: `{"kty":"oct","kid":"k","k":"AA"}`}},
		"what is no key":                  {key: Key{ID: "k", JWK: `{`}},
		"a template that is wrong":        {extra: map[string]string{"bad": "{{ .None }}"}, left: []string{"bad"}},
		"a template that fails":           {extra: map[string]string{"bad": "{{ index .Scopes 99 }}"}, left: []string{"bad"}},
		"a file of another's name":        {extra: map[string]string{"jwks.json": "{}"}, left: []string{"jwks.json"}},
		"more than fits":                  {extra: map[string]string{"a": large, "b": large, "c": large, "d": large, "e": large, "f": "f"}, left: []string{"e"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := payment()
			want, err := Verification(b, good)
			if err != nil {
				t.Fatal(err)
			}
			if tc.key.JWK != "" {
				b.Keys = append(b.Keys, tc.key)
			}
			extra := map[string]string{}
			maps.Copy(extra, good)
			maps.Copy(extra, tc.extra)
			got, err := Verification(b, extra)
			var left *Incomplete
			if !errors.As(err, &left) {
				t.Fatalf("the error is %v", err)
			}
			if diff := cmp.Diff(tc.left, left.Files); diff != "" {
				t.Errorf("files left out (-want +got):\n%s", diff)
			}
			if len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("the error is %+q", err.Error())
			}
			for file, content := range want {
				if got[file] != content {
					t.Errorf("%s is %q, want %q", file, got[file], content)
				}
			}
			size := 0
			for file, content := range got {
				size += len(file) + len(content)
			}
			if size > MaxBundleTotal {
				t.Errorf("the bundle has %d bytes", size)
			}
		})
	}
}

// TestManyProblemsAreToldBriefly checks the bound of the message.
func TestManyProblemsAreToldBriefly(t *testing.T) {
	extra := map[string]string{}
	for i := range 64 {
		extra[fmt.Sprintf("file-%d-%s", i, strings.Repeat("x", 200))] = "{{ .None }}"
	}
	_, err := Verification(payment(), extra)
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "more") {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}

func TestKeysLoseWhatVerifiersDoNotNeed(t *testing.T) {
	b := opaque()
	b.Keys = []Key{{ID: "thumbprint", JWK: `{"y2":{},"x5u":"https://evil.example.com","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","iat":1}`}}
	files, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "{\"keys\":[\n{\"alg\":\"EdDSA\",\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}\n]}\n"
	if diff := cmp.Diff(want, files[FileJWKS]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
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

func TestConfigMapName(t *testing.T) {
	long := strings.Repeat("a", 200) + "." + strings.Repeat("b", 52)
	namespace := strings.Repeat("n", 63)
	got := ConfigMapName(namespace, long)
	if len(got) > 253 || !strings.HasPrefix(got, "m2m-verify."+namespace+".aaa") {
		t.Errorf("%d characters: %s", len(got), got)
	}
	if got == ConfigMapName(namespace, long[:251]+"c") {
		t.Error("two long names meet")
	}
	// Where the cut falls on a dot, the label before the hash must not end in one.
	for cut := range 60 {
		name := strings.Repeat("a", 120+cut) + "." + strings.Repeat("b", 252-120-cut)
		if got := ConfigMapName(namespace, name); strings.Contains(got, ".-") || len(got) > 253 {
			t.Errorf("%s", got)
		}
	}
	for name, want := range map[[2]string]string{
		{"payments", "payment-api"}: "m2m-verify.payments.payment-api",
		{"a", "b.c"}:                "m2m-verify.a.b.c",
	} {
		if got := ConfigMapName(name[0], name[1]); got != want {
			t.Errorf("%v: %q", name, got)
		}
	}
}

func TestKeyIDs(t *testing.T) {
	b := Bundle{Keys: []Key{{ID: "b"}, {ID: "a"}, {ID: ""}, {ID: "b"}}}
	if diff := cmp.Diff([]string{"a", "b"}, KeyIDs(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b.Keys[0].ID != "b" {
		t.Error("the caller's keys were sorted")
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

// schema reads verification.schema.json.
func schema(t *testing.T) map[string]any {
	t.Helper()
	b, err := os.ReadFile("verification.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaNamesEveryMember keeps the schema and the struct in step.
func TestSchemaNamesEveryMember(t *testing.T) {
	var want []string
	for f := range reflect.TypeFor[verification]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		want = append(want, name)
	}
	var got []string
	for name := range schema(t)["properties"].(map[string]any) {
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-struct +schema):\n%s", diff)
	}
	items := schema(t)["properties"].(map[string]any)["algorithms"].(map[string]any)["items"].(map[string]any)
	var listed, known []string
	for _, alg := range items["enum"].([]any) {
		listed = append(listed, alg.(string))
	}
	for _, algs := range algorithmsOf {
		known = append(known, algs...)
	}
	slices.Sort(listed)
	slices.Sort(known)
	if diff := cmp.Diff(known, listed); diff != "" {
		t.Errorf("algorithms (-code +schema):\n%s", diff)
	}
}

func TestSchemaRefuses(t *testing.T) {
	tests := map[string]func(map[string]any){
		"no issuer":                          func(v map[string]any) { delete(v, "issuer") },
		"an empty audience":                  func(v map[string]any) { v["audience"] = "" },
		"a symmetric algorithm":              func(v map[string]any) { v["algorithms"] = []any{"HS256"} },
		"an algorithm twice":                 func(v map[string]any) { v["algorithms"] = []any{"RS256", "RS256"} },
		"a negative clock skew":              func(v map[string]any) { v["clockSkewSeconds"] = -1.0 },
		"half a second of skew":              func(v map[string]any) { v["clockSkewSeconds"] = 0.5 },
		"tokens that do not end":             func(v map[string]any) { v["requireExpiration"] = false },
		"a scope without a name":             func(v map[string]any) { v["scopes"] = []any{map[string]any{"claims": []any{}}} },
		"scopes that are null":               func(v map[string]any) { v["scopes"] = nil },
		"a name in no claims":                func(v map[string]any) { v["audienceIn"] = map[string]any{"values": []any{"a"}} },
		"a name that is empty":               func(v map[string]any) { v["audienceIn"] = map[string]any{"claims": []any{"a"}, "values": []any{""}} },
		"a scope that is nobody knows where": func(v map[string]any) { delete(v["scopes"].([]any)[0].(map[string]any), "claims") },
		"a scope in a claim without a name":  func(v map[string]any) { v["scopes"].([]any)[0].(map[string]any)["claims"] = []any{""} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			files, err := Verification(payment(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var v map[string]any
			if err := json.Unmarshal([]byte(files[FileVerification]), &v); err != nil {
				t.Fatal(err)
			}
			change(v)
			if len(schemaProblems(schema(t), v, "$")) == 0 {
				t.Error("the schema allows it")
			}
		})
	}
}

// schemaProblems is as much of JSON Schema as the schema uses; a keyword that
// it does not know is a problem.
func schemaProblems(schema map[string]any, v any, path string) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, path+": "+fmt.Sprintf(format, args...))
	}
	list, _ := v.([]any)
	object, _ := v.(map[string]any)
	for keyword, arg := range schema {
		switch keyword {
		case "$schema", "title", "description":
		case "type":
			number, isNumber := v.(float64)
			_, isString := v.(string)
			ok := map[string]bool{
				"object": object != nil, "array": list != nil, "string": isString,
				"integer": isNumber && number == float64(int(number)),
			}[arg.(string)]
			if !ok {
				bad("%v is no %v", v, arg)
			}
		case "required":
			for _, name := range arg.([]any) {
				if _, ok := object[name.(string)]; !ok {
					bad("no %v", name)
				}
			}
		case "properties":
			for name, sub := range arg.(map[string]any) {
				if value, ok := object[name]; ok {
					problems = append(problems, schemaProblems(sub.(map[string]any), value, path+"."+name)...)
				}
			}
		case "items":
			for i, item := range list {
				problems = append(problems, schemaProblems(arg.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "uniqueItems":
			for i := range list {
				if slices.ContainsFunc(list[:i], func(o any) bool { return reflect.DeepEqual(o, list[i]) }) {
					bad("%v twice", list[i])
				}
			}
		case "enum":
			if !slices.ContainsFunc(arg.([]any), func(o any) bool { return reflect.DeepEqual(o, v) }) {
				bad("%v is not allowed", v)
			}
		case "const":
			if !reflect.DeepEqual(arg, v) {
				bad("%v is not %v", v, arg)
			}
		case "minLength":
			if s, ok := v.(string); ok && float64(len(s)) < arg.(float64) {
				bad("too short")
			}
		case "minimum":
			if n, ok := v.(float64); ok && n < arg.(float64) {
				bad("%v is less than %v", v, arg)
			}
		default:
			bad("unknown keyword %s", keyword)
		}
	}
	return problems
}
