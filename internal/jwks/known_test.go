// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func TestKnownKeys(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: private.Public(), KeyID: "a", Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	p := parsedKeys{keys: map[string]any{}}
	first, ok := p.public(string(jwk))
	if !ok || !private.PublicKey.Equal(first.(*ecdsa.PublicKey)) {
		t.Fatalf("got %v, %v", first, ok)
	}
	if again, ok := p.public(string(jwk)); !ok || again != first {
		t.Error("a known key was parsed again")
	}
	for range 3 {
		if key, ok := p.public(publicJWK(t, edKey(), "b", "")); !ok || key == nil {
			t.Errorf("another key: %v, %v", key, ok)
		}
	}
	if len(p.keys) != 2 || p.keys[string(jwk)] != first {
		t.Errorf("%d keys are known after the second one", len(p.keys))
	}
	for range 2 { // parsed, and remembered
		if key, ok := p.public(`{"kty":"EC"}`); ok || key != nil {
			t.Errorf("half a key counts as %v", key)
		}
	}
	most := 0
	for i := range 2 * parsedMax {
		p.public(fmt.Sprintf(`{"kty":"none","kid":"%d"}`, i))
		most = max(most, len(p.keys))
	}
	if most != parsedMax {
		t.Errorf("%d keys are kept, want %d", most, parsedMax)
	}
	if key, ok := p.public(string(jwk)); !ok || !private.PublicKey.Equal(key.(*ecdsa.PublicKey)) {
		t.Errorf("after others came and went: %v, %v", key, ok)
	}
}
