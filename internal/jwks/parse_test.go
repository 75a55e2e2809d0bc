// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rsaJWK writes an RSA key from bare numbers, possible or not.
func rsaJWK(n *big.Int, e int64) string {
	return fmt.Sprintf(`{"kty":"RSA","kid":"r","n":%q,"e":%q}`,
		b64.EncodeToString(n.Bytes()), b64.EncodeToString(big.NewInt(e).Bytes()))
}

func TestParseTakesAndSkips(t *testing.T) {
	odd := func(bits uint) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return n.Add(n, big.NewInt(1))
	}
	even := new(big.Int).Add(odd(2048), big.NewInt(1))
	for name, tc := range map[string]struct {
		jwk  string
		want string // the reason it is skipped; "" if it is taken
	}{
		"an RSA key":                         {publicJWK(t, rsaKey(), "k", ""), ""},
		"an RSA key for PS384":               {publicJWK(t, rsaKey(), "k", `,"alg":"PS384"`), ""},
		"a P-256 key":                        {publicJWK(t, p256(), "k", `,"alg":"ES256","use":"sig"`), ""},
		"a P-384 key":                        {publicJWK(t, p384(), "k", `,"alg":"ES384"`), ""},
		"a P-521 key":                        {publicJWK(t, p521(), "k", `,"alg":"ES512"`), ""},
		"an Ed25519 key":                     {publicJWK(t, edKey(), "k", `,"alg":"EdDSA"`), ""},
		"a key that may verify":              {publicJWK(t, edKey(), "k", `,"key_ops":["sign","verify"]`), ""},
		"a key whose use is null":            {publicJWK(t, edKey(), "k", `,"use":null,"alg": null,"key_ops":null`), ""},
		"a key without a kid":                {publicJWK(t, edKey(), "", ""), ""},
		"a key beside a huge certificate":    {publicJWK(t, edKey(), "k", `,"x5c":["`+strings.Repeat("A", 20000)+`"]`), ""},
		"a key with members it ignores":      {publicJWK(t, edKey(), "k", `,"y":5,"n":{},"x5u":"%","ext":true`), ""},
		"the smallest RSA key":               {rsaJWK(odd(2048), 3), ""},
		"the largest RSA key":                {rsaJWK(odd(4096), maxRSAExponent), ""},
		"a symmetric key":                    {`{"kty":"oct","kid":"k","k":"c2VjcmV0"}`, "is symmetric"},
		"a key for encryption":               {publicJWK(t, rsaKey(), "k", `,"use":"enc"`), `is for the use "enc", not for signatures`},
		"a key that may only sign":           {publicJWK(t, edKey(), "k", `,"key_ops":["sign"]`), `has key_ops without "verify"`},
		"key_ops of another form":            {publicJWK(t, edKey(), "k", `,"key_ops":"verify"`), `has key_ops without "verify"`},
		"a type from the future":             {`{"kty":"AKP","kid":"k","alg":"ML-DSA-44","pub":"AA"}`, `has the type "AKP", which is not supported`},
		"no type":                            {`{"kid":"k"}`, `has the type "", which is not supported`},
		"a type that is a number":            {`{"kty":7}`, `has the type "", which is not supported`},
		"a Bitcoin key":                      {`{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`, `has the curve "secp256k1", which is not supported`},
		"a key agreement key":                {`{"kty":"OKP","crv":"X25519","x":"AA"}`, `has the curve "X25519", which is not supported`},
		"a curve of another type":            {`{"kty":"OKP","crv":"P-256","x":"AA"}`, `has the curve "P-256", which is not supported`},
		"an encryption algorithm":            {publicJWK(t, rsaKey(), "k", `,"alg":"RSA-OAEP"`), `has the algorithm "RSA-OAEP", which is not supported for its type`},
		"an algorithm of another type":       {publicJWK(t, rsaKey(), "k", `,"alg":"ES256"`), `has the algorithm "ES256", which is not supported for its type`},
		"an algorithm of another curve":      {publicJWK(t, p256(), "k", `,"alg":"ES384"`), `has the algorithm "ES384", which is not supported for its type`},
		"HMAC with an RSA key":               {publicJWK(t, rsaKey(), "k", `,"alg":"HS256"`), `has the algorithm "HS256", which is not supported for its type`},
		"a weak RSA key":                     {rsaJWK(odd(2047), 65537), "is an RSA key of less than 2048 bits"},
		"a giant RSA key":                    {rsaJWK(odd(4097), 65537), "is an RSA key of more than 4096 bits"},
		"an RSA key of two factors of two":   {rsaJWK(even, 65537), "is an RSA key with an impossible modulus or exponent"},
		"the exponent 1":                     {rsaJWK(odd(2048), 1), "has malformed public members"},
		"the exponent 2":                     {rsaJWK(odd(2048), 2), "is an RSA key with an impossible modulus or exponent"},
		"an even exponent":                   {rsaJWK(odd(2048), 65536), "is an RSA key with an impossible modulus or exponent"},
		"an exponent too large to verify":    {rsaJWK(odd(2048), maxRSAExponent+2), "is an RSA key with an impossible modulus or exponent"},
		"an RSA key without a modulus":       {`{"kty":"RSA","e":"AQAB"}`, "is an RSA key of less than 2048 bits"},
		"a point off its curve":              {`{"kty":"EC","crv":"P-256","x":"` + b64.EncodeToString(make([]byte, 32)) + `","y":"` + b64.EncodeToString(make([]byte, 32)) + `"}`, "has malformed public members"},
		"a coordinate that is not base64url": {`{"kty":"EC","crv":"P-256","x":"?","y":"?"}`, "has malformed public members"},
		"an Ed25519 key of low order":        {`{"kty":"OKP","crv":"Ed25519","x":"` + b64.EncodeToString(append([]byte{1}, make([]byte, 31)...)) + `"}`, "has malformed public members"},
		"a kid that is a number":             {`{"kty":"OKP","crv":"Ed25519","kid":1}`, `has a "kid" that is not a string`},
		"a kid beyond measure":               {publicJWK(t, edKey(), strings.Repeat("k", 129), ""), badKeyID},
		"a kid of the largest size":          {publicJWK(t, edKey(), strings.Repeat("k", 128), ""), ""},
		"a kid with a space and a tilde":     {publicJWK(t, edKey(), "a ~", ""), ""},
		"a kid with a delete character":      {publicJWK(t, edKey(), "k\x7f", ""), badKeyID},
		"a kid with a line break":            {publicJWK(t, edKey(), "k\nevil: true", ""), badKeyID},
		"a kid with an escape sequence":      {publicJWK(t, edKey(), "\x1b[31mk", ""), badKeyID},
		"a kid that turns the text around":   {publicJWK(t, edKey(), "k\u202e", ""), badKeyID},
		"a kid of other letters":             {publicJWK(t, edKey(), "clé", ""), badKeyID},
		"a key beyond measure":               {`{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("A", 8192) + `"}`, "is larger than 8 KiB"},
		"a key of the largest size":          {`{"kty":"RSA","kid":"k","e":"AQAB","n":"` + strings.Repeat("A", 8184) + `"}`, "is an RSA key of less than 2048 bits"},
		"a coordinate with more behind it":   {strings.Replace(publicJWK(t, p384(), "k", ""), `","y"`, `?","y"`, 1), "has malformed public members"},
		"a member that comes twice":          {`{"kty":"oct","kty":"OKP","crv":"Ed25519"}`, "is not a JSON object, or has a duplicate member"},
		"a key that is null":                 {`null`, "is not a JSON object, or has a duplicate member"},
		"a key that is a string":             {`"key"`, "is not a JSON object, or has a duplicate member"},
	} {
		t.Run(name, func(t *testing.T) {
			good := publicJWK(t, p256(), "good", "")
			keys, skipped, err := Parse(set(tc.jwk, good))
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) == 0 || keys[len(keys)-1].ID != "good" {
				t.Errorf("the good key beside it was lost: %v", keys)
			}
			var reason string
			if len(skipped) > 0 {
				reason = skipped[0].Reason
			}
			if reason != tc.want || len(keys)+len(skipped) != 2 {
				t.Errorf("got keys %v, skipped %v; want the reason %q", keys, skipped, tc.want)
			}
		})
	}
}

func TestParseGivesOneFormOfAKey(t *testing.T) {
	const want = `{"crv":"Ed25519","kid":"a<b","kty":"OKP","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	got := parsed(t, `{"use" : "sig" , "x5t":"AA", "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid":"a\u003cb",
		"kty":"OKP", "crv":"Ed25519", "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "iat":1, "more":{"d":[]}}`)[0]
	if got.ID != "a<b" || got.Algorithm != "" || got.Type != "OKP" || strings.ReplaceAll(got.JWK, `\u003c`, "<") != want {
		t.Errorf("got %+v, want the JWK %s", got, want)
	}
	// RFC 8037 appendix A.3 gives this key's thumbprint.
	_, public, err := parseKey([]byte(got.JWK))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(identity{"a<b", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "EdDSA"}, identify(got, public), cmp.AllowUnexported(identity{})); diff != "" {
		t.Error(diff)
	}

	n := rsaKey().N
	plain := parsed(t, rsaJWK(n, 65537))[0]
	padded := parsed(t, fmt.Sprintf(`{"e":"AAEAAQ","n":%q,"kid":"r","kty":"RSA"}`, b64.EncodeToString(append([]byte{0, 0}, n.Bytes()...))))[0]
	if plain != padded {
		t.Errorf("leading zeros make another key: %v, %v", plain, padded)
	}
}

func TestParseLeavesPrivateMembersBehind(t *testing.T) {
	for name, key := range map[string]any{"RSA": rsaKey(), "EC": p384(), "OKP": edKey()} {
		t.Run(name, func(t *testing.T) {
			got := parsed(t, privateJWK(t, key, "k", `,"oth":[{"r":"AA"}],"k":"AA"`))[0]
			checkPublic(t, got)
			public := key.(crypto.Signer).Public()
			if want := parsed(t, privateJWK(t, public, "k", ""))[0]; got != want {
				t.Errorf("got %v, want the public half %v", got, want)
			}
		})
	}
}

// checkPublic fails if a key says more than a public key may.
func checkPublic(t *testing.T, key Key) {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(key.JWK), &members); err != nil {
		t.Fatalf("JWK %q: %v", key.JWK, err)
	}
	allowed := []string{"kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"}
	for name := range members {
		if !slices.Contains(allowed, name) {
			t.Errorf("JWK has the member %q: %s", name, key.JWK)
		}
	}
	if len(key.JWK) > maxKeySize || compactJSON(t, key.JWK) != key.JWK {
		t.Errorf("JWK is too large or not compact: %s", key.JWK)
	}
}

func TestParseOfKeysThatShareAKid(t *testing.T) {
	first := publicJWK(t, edKey(), "k", `,"alg":"EdDSA"`)
	keys, skipped, err := Parse(set(first, publicJWK(t, edKey(), "k", ""), publicJWK(t, p256(), "k", ""), publicJWK(t, edKey(), "other", "")))
	if err != nil {
		t.Fatal(err)
	}
	want := parsed(t, first, publicJWK(t, p256(), "k", ""), publicJWK(t, edKey(), "other", ""))
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Skipped{{ID: "k", Reason: "appears twice"}}, skipped); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesWhatIsNoKeySet(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":               "",
		"HTML":                  "<html>",
		"null":                  "null",
		"an array":              "[]",
		"no keys":               "{}",
		"keys that are null":    `{"keys":null}`,
		"keys that are no list": `{"keys":{}}`,
		"Keys with a capital":   `{"Keys":[]}`,
		"keys twice":            `{"keys":[],"keys":[]}`,
		"half a set":            `{"keys":[`,
		"two sets":              `{"keys":[]}{"keys":[]}`,
		"a very deep set":       `{"keys":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse([]byte(body))
			var got *Error
			if !errors.As(err, &got) || got.Reason != Malformed {
				t.Errorf("got %v, want Malformed", err)
			}
		})
	}
	if keys, skipped, err := Parse([]byte(` {"keys": [] , "more": 1} `)); len(keys)+len(skipped) > 0 || err != nil {
		t.Errorf("an empty set: got %v, %v, %v", keys, skipped, err)
	}
}

const badKeyID = "has a kid that is longer than 128 characters or not printable ASCII"

func TestParseIsBounded(t *testing.T) {
	var list []string
	for i := range 70 {
		list = append(list, `{"kty":"oct","kid":"secret"}`, publicJWK(t, edKey(), fmt.Sprint(i), ""))
	}
	keys, skipped, err := Parse(set(list...))
	if err != nil || len(keys) != maxKeys || keys[63].ID != "63" {
		t.Errorf("got %d keys up to %q, %v", len(keys), keys[len(keys)-1].ID, err)
	}
	if len(skipped) != maxKeys {
		t.Errorf("got %d skipped", len(skipped))
	}
	_, skipped, err = Parse(set(list[1], list[1], `{"kid":"`+strings.Repeat("é\\n", 500)+`"}`))
	if err != nil || len(skipped) != 2 || len(skipped[1].ID) > 6*quoteLimit || strings.ContainsAny(skipped[1].ID, "\n") {
		t.Errorf("got %v, %v", skipped, err)
	}
	unusable := slices.Repeat([]string{`{"kty":"oct","kid":"secret"}`}, maxKeys+1)
	if _, skipped, err = Parse(set(unusable...)); err != nil || len(skipped) != maxKeys {
		t.Errorf("got %d skipped of %d, %v", len(skipped), len(unusable), err)
	}
	var many []string
	for i := range 70 {
		many = append(many, publicJWK(t, edKey(), fmt.Sprint(i), ""))
	}
	many[66], many[67] = `{"kid":7}`, publicJWK(t, edKey(), "", "")
	keys, skipped, _ = Parse(set(many...), "69", "0", "")
	if diff := cmp.Diff([]Skipped{{Reason: "comes after the first 64, and only those are read", More: 4, Beyond: true}}, skipped); diff != "" {
		t.Error(diff)
	}
	if len(keys) != maxKeys+1 || keys[maxKeys].ID != "69" {
		t.Errorf("got %d keys, the last %q: one that is named is read wherever it is", len(keys), keys[len(keys)-1].ID)
	}
	for i := range 200 {
		many = append(many, publicJWK(t, edKey(), "named", fmt.Sprintf(`,"x5t":"%d"`, i)), publicJWK(t, edKey(), fmt.Sprint(70+i), ""))
	}
	var all []string
	for i := range 270 {
		all = append(all, fmt.Sprint(i))
	}
	if keys, _, _ = Parse(set(many...), all...); len(keys) != 2*maxKeys {
		t.Errorf("got %d keys of which all are named", len(keys))
	}
}

// TestParseReadsWhatIsClear: keys that are not written as RFC 7518 wants are the
// same keys, and the result is written as it wants.
func TestParseReadsWhatIsClear(t *testing.T) {
	numbers := func(change func([]byte) string) func(name, value string) string {
		return func(name, value string) string {
			raw, err := b64.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			return change(raw)
		}
	}
	coordinates := func(change func([]byte) []byte) func(name, value string) string {
		return numbers(func(raw []byte) string { return b64.EncodeToString(change(raw)) })
	}
	stripped := func(raw []byte) []byte { return bytes.TrimLeft(raw, "\x00") }
	signed := func(raw []byte) []byte { return append([]byte{0}, raw...) }
	ec := []crypto.Signer{shortEC(t, elliptic.P256()), shortEC(t, elliptic.P384()), shortEC(t, elliptic.P521())}
	all := append([]crypto.Signer{rsaKey(), edKey()}, ec...)
	for name, tc := range map[string]struct {
		keys  []crypto.Signer
		write func(name, value string) string
	}{
		"padded base64url":            {all, numbers(base64.URLEncoding.EncodeToString)},
		"standard base64":             {all, numbers(base64.StdEncoding.EncodeToString)},
		"standard base64, no padding": {all, numbers(base64.RawStdEncoding.EncodeToString)},
		"no leading zeros":            {ec, coordinates(stripped)},
		"a sign byte":                 {append([]crypto.Signer{rsaKey()}, ec...), coordinates(signed)},
	} {
		t.Run(name, func(t *testing.T) {
			changed := 0
			for _, key := range tc.keys {
				proper := publicJWK(t, key, "k", "")
				var members map[string]string
				if err := json.Unmarshal([]byte(proper), &members); err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"n", "x", "y"} {
					if value, ok := members[name]; ok {
						members[name] = tc.write(name, value)
						if members[name] != value {
							changed++
						}
					}
				}
				odd, err := json.Marshal(members)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(parsed(t, proper), parsed(t, string(odd))); diff != "" {
					t.Errorf("a %T (-want +got):\n%s", key, diff)
				}
			}
			if changed < len(tc.keys)-1 { // 48 bytes need no padding
				t.Errorf("%d numbers of %d keys are written in another way", changed, len(tc.keys))
			}
		})
	}
	if diff := cmp.Diff(parsed(t, publicJWK(t, edKey(), "k", `,"alg":"EdDSA"`)), parsed(t, publicJWK(t, edKey(), "k", `,"alg":"Ed25519"`))); diff != "" {
		t.Errorf("the name that RFC 9864 gives EdDSA (-want +got):\n%s", diff)
	}
	good := signedByEd(t)
	if claims, err := Verify(good, parsed(t, publicJWK(t, edKey(), "k", `,"alg":"Ed25519"`)), expectation()); err != nil || claims.KeyID != "k" {
		t.Errorf("a token of a key for Ed25519: %v, %v", claims, err)
	}
}

func signedByEd(t *testing.T) string {
	t.Helper()
	return signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"k"}`, goodPayload)
}

// shortEC returns a key with a coordinate that begins with a zero byte, as one of 128
// keys on P-256 has.
func shortEC(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	for n := 1; n < 10000; n++ {
		size := (curve.Params().BitSize + 7) / 8
		key, err := ecdsa.ParseRawPrivateKey(curve, big.NewInt(int64(n)).FillBytes(make([]byte, size)))
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] == 0 || point[1+size] == 0 {
			return key
		}
	}
	t.Fatal("found no such key")
	return nil
}

func TestAlgorithmsAreTheOnesThatKeysServe(t *testing.T) {
	for _, alg := range Algorithms() {
		if keyFamilies[alg] == "" {
			t.Errorf("no key serves %s", alg)
		}
	}
	if len(Algorithms()) != len(keyFamilies) {
		t.Errorf("got %d algorithms for %d", len(Algorithms()), len(keyFamilies))
	}
}
