// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

var b64 = base64.RawURLEncoding

// The keys below are made once a run; edKey is the one of RFC 8037 appendix A,
// the same in every process, as fuzz workers need it.
var (
	rsaKey   = sync.OnceValue(newRSA)
	otherRSA = sync.OnceValue(newRSA)
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return newEC(elliptic.P256()) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return newEC(elliptic.P384()) })
	p521     = sync.OnceValue(func() *ecdsa.PrivateKey { return newEC(elliptic.P521()) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		seed, err := b64.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
		if err != nil {
			panic(err)
		}
		return ed25519.NewKeyFromSeed(seed)
	})
	otherEd = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) })
)

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

func newEC(curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// privateJWK encodes a private key with all its private members; members is
// appended, as in `,"use":"sig"`.
func privateJWK(tb testing.TB, key any, kid, members string) string {
	tb.Helper()
	encoded, err := jose.JSONWebKey{Key: key, KeyID: kid}.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSuffix(string(encoded), "}") + members + "}"
}

// publicJWK is privateJWK for the public half of a key.
func publicJWK(tb testing.TB, key crypto.Signer, kid, members string) string {
	tb.Helper()
	return privateJWK(tb, key.Public(), kid, members)
}

// set joins JWKs to a JWK Set.
func set(jwks ...string) []byte {
	return []byte(`{"keys":[` + strings.Join(jwks, ",") + `]}`)
}

// parsed parses JWKs all of which must be usable.
func parsed(tb testing.TB, jwks ...string) []Key {
	tb.Helper()
	keys, skipped, err := Parse(set(jwks...))
	if err != nil || len(skipped) > 0 {
		tb.Fatalf("Parse: %v, skipped %v", err, skipped)
	}
	return keys
}

// compactJWT joins a token's three parts, the signature being what sign says.
func compactJWT(header, payload string, sign func(input []byte) []byte) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	return input + "." + b64.EncodeToString(sign([]byte(input)))
}

// signed makes a token by hand: no library has a say in what its header is. The
// alg decides how it is signed whatever the header says.
func signed(tb testing.TB, alg string, key any, header, payload string) string {
	tb.Helper()
	return compactJWT(header, payload, func(input []byte) []byte {
		if key, ok := key.(ed25519.PrivateKey); ok {
			return ed25519.Sign(key, input)
		}
		if secret, ok := key.([]byte); ok {
			mac := hmac.New(sha256.New, secret)
			mac.Write(input)
			return mac.Sum(nil)
		}
		hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
		h := hash.New()
		h.Write(input)
		sum := h.Sum(nil)
		var signature []byte
		var err error
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			r, s, signErr := ecdsa.Sign(rand.Reader, key, sum)
			size := (key.Curve.Params().BitSize + 7) / 8
			signature, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), signErr
		case *rsa.PrivateKey:
			if strings.HasPrefix(alg, "PS") {
				signature, err = rsa.SignPSS(rand.Reader, key, hash, sum, nil)
			} else {
				signature, err = rsa.SignPKCS1v15(rand.Reader, key, hash, sum)
			}
		default:
			tb.Fatalf("no way to sign with a %T", key)
		}
		if err != nil {
			tb.Fatal(err)
		}
		return signature
	})
}

// compactJSON takes the white space out of a JSON text.
func compactJSON(tb testing.TB, s string) string {
	tb.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}
