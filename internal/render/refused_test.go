// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
		"too many claims": {change: func(b *Bundle) {
			b.Named = Named{Claims: []string{"a", "b", "c"}, Values: []string{"x"}}
		}, wantErr: []string{"more than 2 claims or 64 values"}},
		"too many values": {change: func(b *Bundle) {
			b.Named = Named{Claims: []string{"a"}, Values: slices.Repeat([]string{"x"}, 65)}
		}, wantErr: []string{"more than 2 claims or 64 values"}},
		"too many scopes":       {change: func(b *Bundle) { b.Scopes = make([]Scope, 257) }, wantErr: []string{"257 scopes, more than 256"}},
		"no signature at all":   {change: func(b *Bundle) { b.Algorithms = []string{"none"} }, wantErr: []string{`"none"`, `"ES256"`}},
		"a symmetric algorithm": {change: func(b *Bundle) { b.Algorithms = []string{"RS256", "HS256"} }, wantErr: []string{`"HS256"`}},

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
				b.Keys = append([]Key{tc.key}, b.Keys...)
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
	long := func(n int) error { return errors.New(strings.Repeat("x", n)) }
	for name, tc := range map[string]struct {
		problems []error
		want     string
	}{
		"one":             {[]error{long(9)}, "xxxxxxxxx"},
		"three":           {[]error{errors.New("a"), errors.New("b"), errors.New("c")}, "a; b; c"},
		"as many as fit":  {[]error{long(398), long(400)}, long(398).Error() + "; " + long(400).Error()},
		"one too many":    {[]error{long(398), long(401)}, long(398).Error() + "; and 1 more"},
		"a short one too": {[]error{errors.New("a"), errors.New("b"), long(800), errors.New("c"), errors.New("d")}, "a; b; and 3 more"},
	} {
		if got := (&Incomplete{problems: tc.problems}).Error(); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	extra := map[string]string{}
	for i := range 64 {
		extra[fmt.Sprintf("file-%d-%s", i, strings.Repeat("x", 200))] = "{{ .None }}"
	}
	_, err := Verification(payment(), extra)
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "more") {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}
