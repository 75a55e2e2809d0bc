// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fuzzP256 is the same key in every process, as fuzz workers need it.
func fuzzP256(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	scalar := make([]byte, 32)
	scalar[31] = 7
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	n := strings.Repeat("_", 342) // 2052 bits, all ones
	f.Add(set(`{"kty":"RSA","kid":"r","alg":"PS256","use":"sig","e":"AQAB","n":"` + n + `","d":"AQ","p":"AQ","q":"AQ","dp":"AQ","dq":"AQ","qi":"AQ","x5c":["AA"]}`))
	f.Add(set(privateJWK(f, fuzzP256(f), "e", `,"key_ops":["verify"]`), privateJWK(f, edKey(), "é", "")))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA","kid":"s"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","D":"x"},null,7]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, skipped, err := Parse(body)
		if err != nil {
			var malformed *Error
			if !errors.As(err, &malformed) || malformed.Reason != Malformed || len(keys)+len(skipped) > 0 {
				t.Fatalf("got %v, %v, %v", keys, skipped, err)
			}
			return
		}
		if len(keys) > maxKeys || len(skipped) > maxKeys {
			t.Fatalf("%d keys, %d skipped", len(keys), len(skipped))
		}
		for _, s := range skipped {
			if strings.ContainsFunc(s.ID+s.Reason, func(r rune) bool { return r < ' ' || r > '~' }) || len(s.ID) > 6*quoteLimit || s.Reason == "" || len(s.Reason) > 2*quoteLimit*4 {
				t.Fatalf("skipped %+q", s.ID+s.Reason)
			}
		}
		var jwks []string
		for _, key := range keys {
			if !ValidKeyID(key.ID) {
				t.Fatalf("a key is called %q", key.ID)
			}
			checkPublic(t, key)
			jwks = append(jwks, key.JWK)
		}
		again, left, err := Parse(set(jwks...))
		if diff := cmp.Diff(keys, again); diff != "" || len(left) > 0 || err != nil {
			t.Fatalf("parsing the result again: %s, skipped %v, %v", diff, left, err)
		}
		records := Merge(nil, keys, MergePolicy{Retention: time.Hour, Now: t0})
		if len(records) != min(len(keys), MaxRecords) {
			t.Fatalf("%d keys became %d records", len(keys), len(records))
		}
	})
}

func FuzzDiscover(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://auth.example.com/oidc","token_endpoint":"https://auth.example.com/token","jwks_uri":"http://h/jwks?x=y","scopes_supported":["a"]}`))
	f.Add([]byte(`{"issuer":"https://auth.example.com","grant_types_supported":7}`))
	f.Add([]byte(`{"issuer":"https://auth.example.com/oidc","token_endpoint":"https://user@h/"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseMetadata(body, testIssuer)
		if err != nil {
			if m != nil || err.Message == "" || len(err.Message) > 2000 || (err.Reason != Malformed && err.Reason != IssuerMismatch) {
				t.Fatalf("got %v, %v", m, err)
			}
			return
		}
		if m.Issuer != testIssuer || !optionalEndpoint(m.TokenEndpoint) || !optionalEndpoint(m.JWKSURI) {
			t.Fatalf("got %v", m)
		}
		for _, list := range [][]string{m.TokenEndpointAuthMethods, m.GrantTypes, m.ScopesSupported} {
			if len(list) > maxListed {
				t.Fatalf("%d entries", len(list))
			}
			for _, s := range list {
				if s == "" || printable(s) != s {
					t.Fatalf("entry %q", s)
				}
			}
		}
	})
}

// fuzzTokens are the only ones that our keys ever signed.
func fuzzTokens(tb testing.TB) (tokens []string, keys []Key) {
	tb.Helper()
	ec := fuzzP256(tb)
	for _, payload := range []string{goodPayload, with(tb, "aud", `["a","`+testAudience+`"]`, "scp", `["x"]`), with(tb, "exp", "1.9e9")} {
		tokens = append(tokens,
			signed(tb, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"ed"}`, payload),
			signed(tb, "EdDSA", edKey(), `{"alg":"EdDSA","typ":"at+jwt"}`, payload),
			signed(tb, "ES256", ec, `{"alg":"ES256","kid":"ec"}`, payload))
	}
	return tokens, parsed(tb, publicJWK(tb, edKey(), "ed", ""), publicJWK(tb, ec, "ec", ""))
}

func FuzzVerify(f *testing.F) {
	tokens, keys := fuzzTokens(f)
	inputs := map[string]bool{}
	for _, token := range tokens {
		f.Add(token)
		inputs[token[:strings.LastIndex(token, ".")]] = true
		if _, err := Verify(token, keys, expectation()); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(signed(f, "EdDSA", otherEd(), `{"alg":"EdDSA","kid":"ed"}`, goodPayload))
	f.Add(compactJWT(`{"alg":"none"}`, goodPayload, func([]byte) []byte { return nil }))
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := Verify(token, keys, expectation())
		if err != nil {
			// Bytes found by chance may repeat; that no token is quoted is tested elsewhere.
			checkRefused(t, "", err, reasonOf(err), "")
			return
		}
		if !inputs[token[:strings.LastIndex(token, ".")]] {
			t.Fatalf("verified what nobody signed: %q", token)
		}
		if inspected, err := Inspect(token); err != nil || inspected.ExpiresAt != claims.ExpiresAt {
			t.Fatalf("Inspect says %v, %v; Verify %v", inspected, err, claims)
		}
	})
}

func FuzzInspect(f *testing.F) {
	f.Add(`{"alg":"none"}`, `{"exp":1,"nbf":2,"iat":3.5,"aud":["a"],"scope":"a b","scp":["c"]}`)
	f.Add(`{"alg":"RS256","kid":"k","typ":"JWT"}`, goodPayload)
	f.Add(`{"crit":[]}`, `[]`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		token := compactJWT(header, payload, func([]byte) []byte { return []byte("signature") })
		claims, err := Inspect(token)
		if err != nil {
			if reason := reasonOf(err); reason != ReasonOpaque && reason != ReasonMalformed {
				t.Fatalf("got %v", err)
			}
			return
		}
		if _, err := claims.ExpiresAt.MarshalJSON(); err != nil {
			t.Fatalf("exp cannot be written: %v", err)
		}
		for _, scope := range claims.Scopes {
			if scope == "" || strings.ContainsAny(scope, " \t\n") {
				t.Fatalf("scope %q", scope)
			}
		}
	})
}

func reasonOf(err error) string {
	var refused *VerifyError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}
