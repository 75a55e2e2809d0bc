// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// everyFormat asks for all of them.
func everyFormat() Formats {
	return Formats{
		Names:     []string{FormatPEM, FormatPEMPerKey, FormatJWKPerKey, FormatOpenIDConfiguration, FormatEnvoy},
		Directory: "/var/run/secrets/m2m-operator.io/verify/payment-api",
	}
}

// TestFormatsAddTheirFilesOnly: nothing that somebody else asked for changes the
// files of every bundle.
func TestFormatsAddTheirFilesOnly(t *testing.T) {
	plain, err := Verification(payment(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]int{
		FormatPEM: 1, FormatPEMPerKey: 2, FormatJWKPerKey: 2, FormatOpenIDConfiguration: 1, FormatEnvoy: 2,
	}
	for format, want := range tests {
		t.Run(format, func(t *testing.T) {
			b := payment()
			b.Formats = Formats{Names: []string{format}, Directory: "/verify/payment-api"}
			files, err := Verification(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			added := maps.Clone(files)
			for name, content := range plain {
				if files[name] != content {
					t.Errorf("%s changed", name)
				}
				delete(added, name)
			}
			if len(added) != want {
				t.Errorf("%q added %v, want %d files", format, slices.Sorted(maps.Keys(added)), want)
			}
		})
	}
}

// TestKeysInOtherFormats: each file has the keys of jwks.json that the API accepts
// tokens of, and no other.
func TestKeysInOtherFormats(t *testing.T) {
	tests := map[string]struct {
		algorithms []string
		want       []string // thumbprints
	}{
		"the algorithms of the keys": {nil, []string{thumbprintOfJWK(t, rsaJWK), thumbprintOfJWK(t, ecJWK)}},
		"one algorithm":              {[]string{"ES256"}, []string{thumbprintOfJWK(t, ecJWK)}},
		"an algorithm of no key":     {[]string{"EdDSA"}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := payment()
			b.Algorithms, b.Formats = tc.algorithms, everyFormat()
			files, err := Verification(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for rest := []byte(files[FilePEM]); len(rest) > 0; {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					t.Fatalf("keys.pem ends with %q", rest)
				}
				if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
					t.Error(err)
				}
				all = append(all, string(pem.EncodeToMemory(block)))
			}
			var each, jwks []string
			for _, thumbprint := range tc.want {
				each = append(each, files["key-"+thumbprint+".pem"])
				jwk := files["key-"+thumbprint+".jwk"]
				if thumbprintOfJWK(t, jwk) != thumbprint {
					t.Errorf("key-%s.jwk is %s", thumbprint, jwk)
				}
				jwks = append(jwks, jwk)
			}
			if diff := cmp.Diff(each, all); diff != "" {
				t.Errorf("keys.pem (-files of keys +got):\n%s", diff)
			}
			for _, jwk := range jwks {
				if !strings.Contains(files[FileJWKS], strings.TrimSpace(jwk)) {
					t.Errorf("jwks.json has not %s", jwk)
				}
			}
			count := 0
			for name := range files {
				if strings.HasPrefix(name, "key-") {
					count++
				}
			}
			if count != 2*len(tc.want) {
				t.Errorf("%d files of keys, want %d", count, 2*len(tc.want))
			}
		})
	}
}

// thumbprintOfJWK returns the thumbprint of a JWK.
func thumbprintOfJWK(t *testing.T, jwk string) string {
	t.Helper()
	var id struct {
		Kid string `json:"kid"`
	}
	if err := json.Unmarshal([]byte(jwk), &id); err != nil {
		t.Fatal(err)
	}
	k, err := parseKey(Key{ID: id.Kid, JWK: jwk})
	if err != nil {
		t.Fatal(err)
	}
	return k.thumbprint()
}

// TestFormatsWinOverExtraFiles: a template cannot replace what the operator writes.
func TestFormatsWinOverExtraFiles(t *testing.T) {
	b := payment()
	b.Formats = everyFormat()
	want, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{FilePEM, FilePEMPerKey, FileJWKPerKey, FileOpenIDConfiguration, FileEnvoyJWT, FileEnvoyRBAC} {
		files, err := Verification(b, map[string]string{name: "evil"})
		var left *Incomplete
		if !errors.As(err, &left) {
			t.Errorf("%s: error %v", name, err)
		}
		if diff := cmp.Diff(want, files); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := Verification(payment(), map[string]string{FilePEM: "mine", FilePEMPerKey: "{{ .Key.PEM }}"}); err != nil {
		t.Errorf("without the formats the names are free: %v", err)
	}
}

// TestEnvoyFilesRefuseWhatTheyCannotCheck: a token that does not name the API by aud,
// and a scope that no token carries.
func TestEnvoyFilesRefuseWhatTheyCannotCheck(t *testing.T) {
	b := payment()
	b.Formats = Formats{Names: []string{FormatEnvoy}, Requests: []Requests{{Name: "public", Rules: []Rule{{}}}}}
	if closed := b.Closed(); len(closed) > 0 {
		t.Errorf("closed without need: %v", closed)
	}
	b.Named = Named{Claims: []string{"client_id"}, Values: []string{"cart"}}
	all := []string{FileEnvoyJWT, "envoy-ecds-rbac-public.yaml", FileEnvoyRBAC}
	if diff := cmp.Diff(all, b.Closed()); diff != "" {
		t.Errorf("closed (-want +got):\n%s", diff)
	}
	files, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all[1:] {
		if n := len(policiesOf(t, files[name])); n != 0 {
			t.Errorf("%s has %d policies", name, n)
		}
	}
	if strings.Contains(files[FileEnvoyJWT], "2026-02") {
		t.Error("the filter that verifies tokens has a key")
	}

	b = payment()
	b.Scopes = append(b.Scopes, Scope{Name: "nowhere"})
	b.Formats.Requests = []Requests{{Name: "public", Rules: []Rule{{Scopes: []string{"nowhere"}}, {Scopes: []string{"unknown"}}, {Scopes: []string{"payments:read"}}}}}
	if files, err = Verification(b, nil); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(policiesOf(t, files["envoy-ecds-rbac-public.yaml"]))); !slices.Equal(got, []string{"rule-02"}) {
		t.Errorf("policies %v", got)
	}
}

// policiesOf returns the policies of an RBAC filter's file.
func policiesOf(t *testing.T, file string) map[string]any {
	t.Helper()
	var discovered struct {
		Resources []struct {
			Config struct {
				Rules struct {
					Action   string         `json:"action"`
					Policies map[string]any `json:"policies"`
				} `json:"rules"`
			} `json:"typed_config"`
		} `json:"resources"`
	}
	if err := yaml.Unmarshal([]byte(file), &discovered); err != nil || len(discovered.Resources) != 1 {
		t.Fatalf("%d resources, error %v in\n%s", len(discovered.Resources), err, file)
	}
	rules := discovered.Resources[0].Config.Rules
	if rules.Action != "ALLOW" {
		t.Errorf("action %q", rules.Action)
	}
	return rules.Policies
}

// TestBundlesWithoutFormatsKeepTheirTerms: a new terms hash would hold back the tokens
// of every API after an upgrade.
func TestBundlesWithoutFormatsKeepTheirTerms(t *testing.T) {
	if got := ContentsOf(payment(), nil).Terms; got != "43106377393f72aa" {
		t.Errorf("the terms are %s now", got)
	}
}
