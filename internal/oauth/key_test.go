// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
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
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

type brokenSigner struct{ jose.Signer }

func (brokenSigner) Sign([]byte) (*jose.JSONWebSignature, error) { return nil, errors.New("broken") }

// RSA keys take long to make, so all tests share one.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))
}

func privateKey(t testing.TB, alg string) crypto.Signer {
	t.Helper()
	switch alg {
	case "RS256", "PS256":
		return rsaKey()
	case "ES256":
		return ecKey(elliptic.P256())
	case "ES384":
		return ecKey(elliptic.P384())
	case "EdDSA":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	}
	t.Fatalf("no key for %q", alg)
	return nil
}

func signingKey(t testing.TB, alg string) *SigningKey {
	t.Helper()
	return must(ParseSigningKey(pkcs8(t, privateKey(t, alg)), "", ""))
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	return block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
}

// jwk returns a key as JWK with members set, or dropped where nil.
func jwk(key any, members map[string]any) []byte {
	m := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(jose.JSONWebKey{Key: key})), &m); err != nil {
		panic(err)
	}
	for name, value := range members {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
	return must(json.Marshal(m))
}

func TestParseSigningKey(t *testing.T) {
	p256, p384, ed := ecKey(elliptic.P256()), ecKey(elliptic.P384()), privateKey(t, "EdDSA")
	sec1 := block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256)))
	for name, tc := range map[string]struct {
		data             []byte
		alg, kid         string
		wantAlg, wantKID string
		public           crypto.PublicKey
	}{
		"PKCS #1":                           {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey())), "", "", "RS256", "", rsaKey().Public()},
		"PKCS #8, RSA":                      {pkcs8(t, rsaKey()), "", "k", "RS256", "k", rsaKey().Public()},
		"PKCS #8, RSA for PS256":            {pkcs8(t, rsaKey()), "PS256", "", "PS256", "", rsaKey().Public()},
		"PKCS #8, P-384":                    {pkcs8(t, p384), "ES384", "", "ES384", "", p384.Public()},
		"PKCS #8, Ed25519":                  {pkcs8(t, ed), "", "", "EdDSA", "", ed.Public()},
		"SEC 1":                             {sec1, "", "", "ES256", "", p256.Public()},
		"SEC 1 after its parameters":        {append(block("EC PARAMETERS", []byte{6}), sec1...), "", "", "ES256", "", p256.Public()},
		"PEM in the midst of text":          {append([]byte("Key of cart\n\n"), append(sec1, "\n\n trailing"...)...), "", "", "ES256", "", p256.Public()},
		"PEM with its certificate":          {append(sec1, block("CERTIFICATE", []byte("x"))...), "", "", "ES256", "", p256.Public()},
		"JWK, RSA":                          {jwk(rsaKey(), nil), "", "", "RS256", "", rsaKey().Public()},
		"JWK, RSA, with alg and kid":        {jwk(rsaKey(), map[string]any{"alg": "PS256", "kid": "j", "use": "sig"}), "", "", "PS256", "j", rsaKey().Public()},
		"JWK, P-256":                        {jwk(p256, nil), "", "k", "ES256", "k", p256.Public()},
		"JWK, P-384":                        {jwk(p384, nil), "", "", "ES384", "", p384.Public()},
		"JWK, Ed25519":                      {jwk(ed, nil), "", "", "EdDSA", "", ed.Public()},
		"JWK that agrees with what we want": {append([]byte("\n "), jwk(p256, map[string]any{"alg": "ES256", "kid": "j"})...), "ES256", "j", "ES256", "j", p256.Public()},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseSigningKey(tc.data, tc.alg, tc.kid)
			if err != nil {
				t.Fatal(err)
			}
			if key.algorithm != tc.wantAlg || key.keyID != tc.wantKID {
				t.Errorf("got %s, kid %q; want %s, kid %q", key.algorithm, key.keyID, tc.wantAlg, tc.wantKID)
			}
			verify(t, tc.public, must(key.sign([]byte("{}"))))
		})
	}
}

func TestParseSigningKeyMistakes(t *testing.T) {
	p256, other := ecKey(elliptic.P256()), ecKey(elliptic.P256())
	text := pkcs8(t, p256)
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")})
	otherX := must(json.Marshal(jose.JSONWebKey{Key: other}))
	var o struct{ X, Y string }
	if err := json.Unmarshal(otherX, &o); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		data     []byte
		alg, kid string
		want     string
	}{
		"nothing":                        {nil, "", "", "private key is empty"},
		"blanks":                         {[]byte(" \n"), "", "", "private key is empty"},
		"an unknown algorithm":           {pkcs8(t, p256), "HS256", "", "use one of RS256, PS256, ES256, ES384, EdDSA"},
		"far too much":                   {bytes.Repeat([]byte("a"), maxKeyBytes+1), "", "", "larger than 16384 bytes"},
		"a password":                     {[]byte("hunter2hunter2hunter2hunter2"), "", "", "neither PEM nor a JWK"},
		"DER":                            {must(x509.MarshalPKCS8PrivateKey(p256)), "", "", "is DER, convert it to PEM"},
		"DER in base64":                  {[]byte(base64.StdEncoding.EncodeToString(must(x509.MarshalPKCS8PrivateKey(p256)))), "", "", "without its lines -----BEGIN and -----END"},
		"backslash and n for a newline":  {bytes.ReplaceAll(text, []byte("\n"), []byte(`\n`)), "", "", `has \n instead of line breaks`},
		"the same in quotes":             {must(json.Marshal(string(text))), "", "", `has \n instead of line breaks`},
		"quotes":                         {[]byte(`"secret"`), "", "", "in quotes"},
		"a byte order mark":              {append([]byte("\ufeff"), text...), "", "", "byte order mark"},
		"a byte order mark and a JWK":    {append([]byte("\ufeff"), jwk(p256, nil)...), "", "", "byte order mark"},
		"UTF-16":                         {[]byte("\xff\xfe-\x00-\x00"), "", "", "byte order mark"},
		"base64 once more":               {[]byte(base64.StdEncoding.EncodeToString(text)), "", "", "base64-encoded twice"},
		"base64 in lines once more":      {[]byte(base64.StdEncoding.EncodeToString(text)[:64] + "\n" + base64.StdEncoding.EncodeToString(text)[64:]), "", "", "base64-encoded twice"},
		"a JWK in base64 once more":      {[]byte(base64.StdEncoding.EncodeToString(jwk(p256, nil))), "", "", "base64-encoded twice"},
		"indented":                       {bytes.ReplaceAll(text, []byte("\n"), []byte("\n  ")), "", "", "is indented"},
		"one line":                       {bytes.ReplaceAll(text, []byte("\n"), []byte(" ")), "", "", "on one line"},
		"cut off":                        {text[:80], "", "", "cut off"},
		"a body that is not base64":      {bytes.Replace(text, []byte("KEY-----\n"), []byte("KEY-----\n***"), 1), "", "", "damaged PEM"},
		"an encrypted PKCS #8":           {block("ENCRYPTED PRIVATE KEY", []byte("x")), "", "", "encrypted, store it decrypted"},
		"an encrypted PKCS #1":           {encrypted, "", "", "encrypted, store it decrypted"},
		"an OpenSSH key":                 {block("OPENSSH PRIVATE KEY", []byte("x")), "", "", "ssh-keygen -p -m PKCS8"},
		"a public PEM":                   {block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(p256.Public()))), "", "", "only a public key or certificate"},
		"a certificate":                  {block("CERTIFICATE", []byte("x")), "", "", "only a public key or certificate"},
		"some other PEM":                 {block("EC PARAMETERS", []byte{6}), "", "", "no private key"},
		"two keys":                       {append(pkcs8(t, p256), pkcs8(t, other)...), "", "", "several private keys"},
		"a damaged PKCS #8":              {block("PRIVATE KEY", []byte("x")), "", "", "damaged"},
		"a damaged SEC 1":                {block("EC PRIVATE KEY", []byte("x")), "", "", "damaged"},
		"a damaged PKCS #1":              {block("RSA PRIVATE KEY", []byte("x")), "", "", "damaged"},
		"a key for key agreement":        {pkcs8(t, x25519), "", "", "key agreement"},
		"a small RSA key":                {pkcs8(t, small), "", "", "1024 bits, at least 2048"},
		"a small RSA JWK":                {jwk(small, nil), "", "", "1024 bits, at least 2048"},
		"an odd curve":                   {pkcs8(t, ecKey(elliptic.P521())), "", "", "use P-256 or P-384"},
		"an odd curve in a JWK":          {jwk(ecKey(elliptic.P521()), nil), "", "", "use P-256 or P-384"},
		"an unknown curve in a JWK":      {jwk(p256, map[string]any{"crv": "secp256k1"}), "", "", "unsupported type or curve"},
		"RSA for ES256":                  {pkcs8(t, rsaKey()), "ES256", "", "cannot sign with ES256, only with RS256 or PS256"},
		"P-256 for ES384":                {pkcs8(t, p256), "ES384", "", "cannot sign with ES384, only with ES256"},
		"a JWK's alg that does not fit":  {jwk(p256, map[string]any{"alg": "RS256"}), "", "", "cannot sign with RS256, only with ES256"},
		"a JWK's alg for encryption":     {jwk(rsaKey(), map[string]any{"alg": "RSA-OAEP"}), "", "", "the JWK's alg is not supported"},
		"a JWK's alg that contradicts":   {jwk(rsaKey(), map[string]any{"alg": "PS256"}), "RS256", "", "the JWK's alg differs from the requested algorithm RS256"},
		"a JWK's kid that contradicts":   {jwk(p256, map[string]any{"kid": "j"}), "", "k", "remove one of them"},
		"a JWK for encryption":           {jwk(p256, map[string]any{"use": "enc"}), "", "", "use: enc"},
		"a public JWK":                   {jwk(p256.Public(), nil), "", "", "only a public key"},
		"a symmetric JWK":                {[]byte(`{"kty":"oct","k":"aHVudGVyMg"}`), "", "", "symmetric"},
		"a JWK set":                      {[]byte(`{"keys":[` + string(jwk(p256, nil)) + `]}`), "", "", "JWK set"},
		"a JWK that breaks off":          {jwk(p256, nil)[:40], "", "", "not a well-formed JWK"},
		"a JWK whose kid is no string":   {jwk(p256, map[string]any{"kid": 7}), "", "", "incomplete or damaged"},
		"an RSA JWK without primes":      {jwk(rsaKey(), map[string]any{"p": nil, "q": nil}), "", "", "needs n, e, d, p, q"},
		"an EC JWK with a short d":       {jwk(p256, map[string]any{"d": "AAAA"}), "", "", "incomplete or damaged"},
		"an EC JWK with another's point": {jwk(p256, map[string]any{"x": o.X, "y": o.Y}), "", "", "damaged"},
		"an EC JWK with no point at all": {jwk(p256, map[string]any{"x": o.X}), "", "", "damaged"},
		"a JWK whose d is in capitals":   {[]byte(`{"kty":"EC","crv":"P-256","x":"` + o.X + `","y":"` + o.Y + `","D":"hunter2"}`), "", "", "incomplete or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseSigningKey(tc.data, tc.alg, tc.kid)
			if err == nil || key != nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v; want an error with %q", key, err, tc.want)
			}
			if repeats(err.Error(), tc.data) {
				t.Errorf("the error %q repeats the input", err)
			}
		})
	}
}

func TestRSAKeySizes(t *testing.T) {
	large := *rsaKey()
	large.N = must(rand.Prime(rand.Reader, 64))
	large.N = large.N.Lsh(large.N, maxRSABits)
	if _, err := algorithmsOf(&large); err == nil || !strings.Contains(err.Error(), "at most 8192") {
		t.Errorf("a huge RSA key: %v", err)
	}
	if _, err := algorithmsOf(nil); err == nil {
		t.Error("no key at all was accepted")
	}
}

// repeats reports whether text holds a word of input that is long enough to be key material.
func repeats(text string, input []byte) bool {
	for _, word := range bytes.FieldsFunc(input, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`"{},:`, r) }) {
		if len(word) >= 20 && strings.Contains(text, string(word)) {
			return true
		}
	}
	return false
}

func FuzzParseSigningKey(f *testing.F) {
	p256 := ecKey(elliptic.P256())
	for _, data := range [][]byte{
		nil, []byte("{}"), []byte(`{"kty":"oct","k":"aHVudGVyMg"}`), []byte(`{"keys":[]}`),
		pkcs8(f, rsaKey()), pkcs8(f, privateKey(f, "EdDSA")), pkcs8(f, ecKey(elliptic.P384())), block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256))),
		block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey())), block("ENCRYPTED PRIVATE KEY", []byte("x")),
		jwk(rsaKey(), map[string]any{"alg": "PS256", "kid": "j"}), jwk(p256, nil), jwk(privateKey(f, "EdDSA"), nil),
	} {
		f.Add(data, "", "")
		f.Add(data, "ES256", "k")
	}
	f.Fuzz(func(t *testing.T, data []byte, alg, kid string) {
		key, err := ParseSigningKey(data, alg, kid)
		if err != nil {
			if key != nil || repeats(err.Error(), data) {
				t.Errorf("key %v, error %q", key, err)
			}
			return
		}
		if alg != "" && key.algorithm != alg || kid != "" && key.keyID != kid {
			t.Errorf("asked for %q %q, got %v", alg, kid, key)
		}
		if _, err := key.sign([]byte("{}")); err != nil {
			t.Errorf("the key was accepted and does not sign: %v", err)
		}
	})
}
