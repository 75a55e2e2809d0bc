// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestTheLargestBundle renders the worst that a server and an owner can do: 32 keys
// of RSA-4096 without an algorithm, with the longest IDs, and the most scopes with
// the longest descriptions. It fits beside the owner's files, and holds what every
// verifier needs.
func TestTheLargestBundle(t *testing.T) {
	b := payment()
	b.Keys, b.Scopes = nil, nil
	for i := range 32 {
		modulus := strings.Repeat("\xff", 511) + string(rune('a'+i%26))
		kid := fmt.Sprintf("%03d%s", i, strings.Repeat("<", 125))
		jwk, err := json.Marshal(map[string]string{
			"kty": "RSA", "kid": kid, "use": "sig", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString([]byte(modulus)),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Keys = append(b.Keys, Key{ID: kid, JWK: string(jwk)})
	}
	b.Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	for i := range MaxScopes {
		b.Scopes = append(b.Scopes, Scope{Name: fmt.Sprintf("%d%s", i, strings.Repeat("s", 120)), Description: strings.Repeat("\U0001F511", 256), Claims: []string{fmt.Sprintf("%d%s", i%maxScopeClaims, strings.Repeat("\"", 120))}})
	}
	extra := map[string]string{}
	for i := range 16 {
		extra[fmt.Sprintf("file-%02d", i)] = "{{ .JWKS }}"
	}
	files, err := Verification(b, extra)
	size := 0
	for name, content := range files {
		size += len(name) + len(content)
	}
	t.Logf("%d files of %d KiB in all, jwks.json %d KiB, Envoy's %d KiB, verification.json %d KiB: %v", len(files), size>>10,
		len(files[FileJWKS])>>10, len(files[FileEnvoy])>>10, len(files[FileVerification])>>10, err)
	if size > MaxBundleTotal {
		t.Errorf("the bundle has %d KiB", size>>10)
	}
	for _, name := range []string{FileJWKS, FileIssuer, FileAudience, FileVerification} {
		if files[name] == "" {
			t.Errorf("%s was left out", name)
		}
	}
}

// TestWhatJustFits: the bounds belong to what is allowed.
func TestWhatJustFits(t *testing.T) {
	b := payment()
	b.Named = Named{Claims: slices.Repeat([]string{"client_id"}, maxNamedClaims), Values: slices.Repeat([]string{"x"}, maxNamedValues)}
	if _, err := Verification(b, nil); err != nil {
		t.Errorf("claims and values: %v", err)
	}
	b = payment()
	files, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxBundleTotal
	for name, content := range files {
		room -= len(name) + len(content)
	}
	extra := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		extra[name] = large
		room -= len(name) + 120_000
	}
	room -= len("e")
	for more, fits := range []bool{true, false} {
		n := room + more
		extra["e"] = `{{ $x := "` + strings.Repeat("e", 1000) + `" }}` + strings.Repeat("{{ $x }}", n/1000) + strings.Repeat("e", n%1000)
		if files, err = Verification(b, extra); (err == nil) != fits || (len(files["e"]) == n) != fits {
			t.Errorf("%d bytes in the room for %d: %d bytes, %v", n, room, len(files["e"]), err)
		}
	}
}
