// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signer is a key of the authorization server.
type signer struct {
	alg     string
	private crypto.Signer
}

// kid returns the key id of a signer: what is before the slash, if two have the same.
func kid(id string) string {
	before, _, _ := strings.Cut(id, "/")
	return before
}

// newSigners makes a key of each kind, by its id.
func newSigners(t *testing.T) map[string]signer {
	t.Helper()
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	p, err2 := rsa.GenerateKey(rand.Reader, 2048)
	e, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f, err4 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, o, err5 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return map[string]signer{"rs256": {"RS256", r}, "ps256": {"PS256", p}, "es256": {"ES256", e}, "es384": {"ES384", f}, "eddsa": {"EdDSA", o}}
}

// token makes a JWT. change may change any part of it.
func token(t *testing.T, keys map[string]signer, id string, change func(header, claims map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	header := map[string]any{"alg": keys[id].alg, "kid": kid(id), "typ": "JWT"}
	claims := map[string]any{"iss": issuer, "aud": audience, "sub": "cart", "iat": now, "exp": now + 600, "scope": "payments:read " + scope}
	if change != nil {
		change(header, claims)
	}
	opts := &jose.SignerOptions{}
	for name, value := range header {
		if name != "alg" {
			opts.WithHeader(jose.HeaderKey(name), value)
		}
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(keys[id].alg), Key: keys[id].private}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// unsigned makes a token without a signature, or with an HMAC whose key is the bytes of a
// public key.
func unsigned(t *testing.T, alg, id string, secret []byte) string {
	t.Helper()
	now := time.Now().Unix()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{"iss": issuer, "aud": audience, "sub": "cart", "iat": now, "exp": now + 600, "scope": scope}
	if secret == nil {
		return encode(map[string]any{"alg": alg, "kid": id, "typ": "JWT"}) + "." + encode(claims) + "."
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", id))
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := json.Marshal(claims)
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, _ := signed.CompactSerialize()
	return compact
}

// bad are changes that make a good token one that must be refused, by description.
var bad = map[string]struct {
	status int
	change func(header, claims map[string]any)
}{
	"expired":          {401, func(_, c map[string]any) { c["exp"] = time.Now().Unix() - 3600 }},
	"no exp":           {401, func(_, c map[string]any) { delete(c, "exp") }},
	"not yet valid":    {401, func(_, c map[string]any) { c["nbf"] = time.Now().Unix() + 3600 }},
	"another issuer":   {401, func(_, c map[string]any) { c["iss"] = issuer + "/" }},
	"no issuer":        {401, func(_, c map[string]any) { delete(c, "iss") }},
	"another audience": {401, func(_, c map[string]any) { c["aud"] = audience + "/v2" }},
	"no audience":      {401, func(_, c map[string]any) { delete(c, "aud") }},
	"an unknown key":   {401, func(h, _ map[string]any) { h["kid"] = "unknown" }},
	"another scope":    {403, func(_, c map[string]any) { c["scope"] = "payments:read payments:writers" }},
	"no scope":         {403, func(_, c map[string]any) { delete(c, "scope") }},
}

// publicTexts are forms of a public key that a verifier might take for the secret of an HMAC.
func publicTexts(t *testing.T, s signer) map[string][]byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return map[string][]byte{"DER": der, "PEM": text, "PEM without a line break": bytes.TrimSpace(text)}
}
