// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

const (
	testIssuer   = "https://auth.example.com/oidc"
	testAudience = "https://payment.example.com/api"
)

// now is the present of the tests; goodPayload is valid then.
var now = time.Unix(1_800_000_000, 0).UTC()

const goodPayload = `{"iss":"https://auth.example.com/oidc","sub":"cart","client_id":"cart","aud":"https://payment.example.com/api",` +
	`"iat":1799999990,"nbf":1799999990,"exp":1800003600,"scope":"payments:read payments:write"}`

func expectation() Expectation {
	return Expectation{Issuer: testIssuer, Audience: testAudience, Scopes: []string{"payments:write"}, Skew: 30 * time.Second, Now: now}
}

// with replaces members of goodPayload; a value of "" removes one.
func with(tb testing.TB, changes ...string) string {
	tb.Helper()
	payload := strings.TrimSuffix(goodPayload, "}")
	for i := 0; i < len(changes); i += 2 {
		name, value := `"`+changes[i]+`":`, changes[i+1]
		if start := strings.Index(payload, name); start >= 0 {
			end := strings.Index(payload[start:], `,"`)
			if end < 0 {
				end = len(payload) - start
			}
			payload = payload[:start] + strings.TrimPrefix(payload[start+end:], ",")
			payload = strings.TrimSuffix(payload, ",")
		}
		if value != "" {
			payload += "," + name + value
		}
	}
	return payload + "}"
}

// checkRefused fails unless the error is a *VerifyError of that reason which
// keeps the token to itself.
func checkRefused(t *testing.T, token string, err error, reason, message string) {
	t.Helper()
	var got *VerifyError
	if !errors.As(err, &got) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	if got.Reason != reason || message != "" && got.Message != message {
		t.Errorf("got %s: %s\nwant %s: %s", got.Reason, got.Message, reason, message)
	}
	if len(got.Message) > 2000 || strings.ContainsFunc(got.Message, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("message is not bounded or not printable: %q", got.Message)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("message has a part of the token: %q", got.Message)
		}
	}
}

func TestVerifyWithEveryAlgorithm(t *testing.T) {
	signers := map[string]any{"RSA": rsaKey(), "P-256": p256(), "P-384": p384(), "P-521": p521(), "Ed25519": edKey()}
	var jwks []string
	for kid, key := range signers {
		jwks = append(jwks, privateJWK(t, key, kid, ""))
	}
	keys := parsed(t, jwks...)
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			kid := keyFamilies[alg]
			for _, header := range []string{fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid), fmt.Sprintf(`{"alg":%q}`, alg)} {
				claims, err := Verify(signed(t, alg, signers[kid], header, goodPayload), keys, expectation())
				if err != nil {
					t.Fatal(err)
				}
				want := &Claims{
					Issuer: testIssuer, Subject: "cart", ClientID: "cart", KeyID: kid, Algorithm: alg, Audience: []string{testAudience},
					ExpiresAt: now.Add(time.Hour), NotBefore: now.Add(-10 * time.Second), IssuedAt: now.Add(-10 * time.Second),
					Scopes: []string{"payments:read", "payments:write"}, ScopePresent: true,
					KeyThumbprint: thumbprintOf(signers[kid].(crypto.Signer).Public()),
				}
				if diff := cmp.Diff(want, claims); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestVerifyTheExampleOfTheStandard takes the token of RFC 7515 appendix A.2.
func TestVerifyTheExampleOfTheStandard(t *testing.T) {
	keys := parsed(t, `{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}`)
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
	expiry := time.Unix(1300819380, 0).UTC()
	claims, err := Verify(token, keys, Expectation{Issuer: "joe", Now: expiry.Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Claims{Issuer: "joe", Algorithm: "RS256", ExpiresAt: expiry, KeyThumbprint: "IsUn6_e04MaShXFIISMp4kG62LWzMIPy_MvSA5pJgX8"}, claims); diff != "" {
		t.Error(diff)
	}
}

// leavesOut makes it look as if parsing had left out a key.
func leavesOut(id string) func(*Expectation) {
	return func(e *Expectation) { e.LeftOut = []Skipped{{ID: id, Reason: "is weak"}} }
}

func TestVerifyHoldsTheTokenToTheExpectation(t *testing.T) {
	keys := parsed(t, publicJWK(t, edKey(), "k", ""))
	const header = `{"alg":"EdDSA","kid":"k","typ":"at+jwt"}`
	for name, tc := range map[string]struct {
		header  string // default: the one above
		payload string // default: goodPayload
		want    func(*Expectation)
		reason  string // "" if it is accepted
		message string
	}{
		"all is well":                      {},
		"the expected type":                {want: func(e *Expectation) { e.Type = "at+jwt" }},
		"the type's long form":             {header: `{"alg":"EdDSA","typ":"application/AT+JWT"}`, want: func(e *Expectation) { e.Type = "at+jwt" }},
		"the type's long form is expected": {want: func(e *Expectation) { e.Type = "Application/at+jwt" }},
		"a type with more than a prefix":   {header: `{"alg":"EdDSA","typ":"application/x/at+jwt"}`, want: func(e *Expectation) { e.Type = "x/at+jwt" }, reason: ReasonWrongType},
		"a type that is a prefix only":     {header: `{"alg":"EdDSA"}`, want: func(e *Expectation) { e.Type = "application/" }, reason: ReasonWrongType},
		"another type": {
			header: `{"alg":"EdDSA","typ":"JWT"}`, want: func(e *Expectation) { e.Type = "at+jwt" },
			reason: ReasonWrongType, message: `typ is "JWT", expected "at+jwt"`,
		},
		"no type": {header: `{"alg":"EdDSA"}`, want: func(e *Expectation) { e.Type = "at+jwt" }, reason: ReasonWrongType},
		"a trailing slash on the issuer": {
			payload: with(t, "iss", `"https://auth.example.com/oidc/"`),
			reason:  ReasonWrongIssuer, message: `issuer is "https://auth.example.com/oidc/", expected "https://auth.example.com/oidc"`,
		},
		"no issuer":                               {payload: with(t, "iss", ""), reason: ReasonWrongIssuer},
		"no issuer where none is expected":        {payload: with(t, "iss", ""), want: func(e *Expectation) { e.Issuer = "" }, reason: ReasonWrongIssuer},
		"an issuer that is a number":              {payload: with(t, "iss", `7`), reason: ReasonMalformed, message: "token's iss is malformed"},
		"the audience among others":               {payload: with(t, "aud", `["cart", "https://payment.example.com/api"]`)},
		"any audience":                            {payload: with(t, "aud", ""), want: func(e *Expectation) { e.Audience = "" }},
		"other audiences, in a stable order":      {payload: with(t, "aud", `["z","a"]`), reason: ReasonWrongAudience, message: `audience is "a", "z", expected "https://payment.example.com/api"`},
		"a prefix of the audience":                {payload: with(t, "aud", `"https://payment.example.com/"`), reason: ReasonWrongAudience},
		"no audience":                             {payload: with(t, "aud", ""), reason: ReasonWrongAudience, message: `audience is missing, expected "https://payment.example.com/api"`},
		"an empty list of audiences":              {payload: with(t, "aud", `[]`), reason: ReasonWrongAudience},
		"many audiences are not all quoted":       {payload: with(t, "aud", `["1","2","3","4","5","6","7"]`), reason: ReasonWrongAudience, message: `audience is "1", "2", "3", "4", "5" and 2 more, expected "https://payment.example.com/api"`},
		"a hostile audience":                      {payload: with(t, "aud", `"\u202e\u0000`+strings.Repeat("é", 300)+`"`), reason: ReasonWrongAudience},
		"an audience that is an object":           {payload: with(t, "aud", `{"a":1}`), reason: ReasonMalformed, message: "token's aud is malformed"},
		"an audience with a null":                 {payload: with(t, "aud", `["https://payment.example.com/api",null]`), reason: ReasonMalformed},
		"expired to the second":                   {payload: with(t, "exp", `1799999970`), reason: ReasonExpired, message: "token has expired"},
		"a second within the skew":                {payload: with(t, "exp", `1799999971`)},
		"an expiry with a fraction":               {payload: with(t, "exp", `1800000000.75`)},
		"an expiry with an exponent":              {payload: with(t, "exp", ` 1.9e9 `)},
		"a null expiry":                           {payload: with(t, "exp", `null`), reason: ReasonMalformed, message: "token has no exp"},
		"no expiry":                               {payload: with(t, "exp", ""), reason: ReasonMalformed, message: "token has no exp"},
		"an expiry in a string":                   {payload: with(t, "exp", `"1800003600"`), reason: ReasonMalformed, message: "token's exp is malformed"},
		"an expiry that is true":                  {payload: with(t, "exp", `true`), reason: ReasonMalformed},
		"an expiry after all ages":                {payload: with(t, "exp", `1e300`), reason: ReasonMalformed},
		"an expiry in milliseconds":               {payload: with(t, "exp", `1800003600000`), reason: ReasonMalformed},
		"an expiry beyond a float":                {payload: with(t, "exp", `1e999`), reason: ReasonMalformed},
		"an expiry before time began":             {payload: with(t, "exp", `-1`), reason: ReasonMalformed},
		"the epoch as expiry":                     {payload: with(t, "exp", `0`), reason: ReasonExpired},
		"not before the skew's end":               {payload: with(t, "nbf", `1800000030`)},
		"not before a later time":                 {payload: with(t, "nbf", `1800000031`), reason: ReasonNotYetValid, message: "token is not valid yet, its nbf or iat is in the future"},
		"issued within the skew":                  {payload: with(t, "iat", `1800000030`)},
		"issued in the future":                    {payload: with(t, "iat", `1800000031`), reason: ReasonNotYetValid},
		"neither nbf nor iat":                     {payload: with(t, "nbf", "", "iat", "")},
		"an iat in a string":                      {payload: with(t, "iat", `"now"`), reason: ReasonMalformed},
		"an nbf in a list":                        {payload: with(t, "nbf", `[]`), reason: ReasonMalformed},
		"no scope asked for, none there":          {payload: with(t, "scope", ""), want: func(e *Expectation) { e.Scopes = nil }},
		"scopes as a list":                        {payload: with(t, "scope", `["payments:write"]`)},
		"scopes as a list of strings with spaces": {payload: with(t, "scope", `["a payments:write"]`)},
		"scopes in scp":                           {payload: with(t, "scope", "", "scp", `["payments:write"]`)},
		"scopes in scp as a string":               {payload: with(t, "scope", "", "scp", `"a payments:write"`)},
		"scope goes before scp":                   {payload: with(t, "scope", `"a"`, "scp", `"payments:write"`), reason: ReasonMissingScopes},
		"missing scopes, sorted":                  {want: func(e *Expectation) { e.Scopes = []string{"z", "payments:read", "a"} }, reason: ReasonMissingScopes, message: `scopes missing: "a", "z"; claim scope has "payments:read", "payments:write"`},
		"a scope that only begins like it":        {payload: with(t, "scope", `"payments:writer"`), reason: ReasonMissingScopes},
		"no scopes at all":                        {payload: with(t, "scope", ""), reason: ReasonMissingScopes, message: `claim scope is missing, expected "payments:write"`},
		"a scope that is a number":                {payload: with(t, "scope", `1`), reason: ReasonMalformed},
		"a subject that is a number":              {payload: with(t, "sub", `1`), reason: ReasonMalformed},
		"a client id that is a number":            {payload: with(t, "client_id", `1`)},
		"a claim that comes twice":                {payload: `{"iss":"a","iss":"` + testIssuer + `"}`, reason: ReasonMalformed},
		"claims with capitals are other ones":     {payload: with(t, "exp", "", "EXP", `1800003600`), reason: ReasonMalformed, message: "token has no exp"},
		"a payload that is a list":                {payload: `[]`, reason: ReasonMalformed},
		"a payload that is null":                  {payload: `null`, reason: ReasonMalformed},
		"a nested token":                          {header: `{"alg":"EdDSA","cty":"JWT"}`, payload: `eyJ.eyJ.sig`, reason: ReasonMalformed},
		"a critical header":                       {header: `{"alg":"EdDSA","crit":["exp"],"exp":1}`, reason: ReasonMalformed, message: "token's header has a critical extension"},
		"an empty critical header":                {header: `{"alg":"EdDSA","crit":[]}`, reason: ReasonMalformed},
		"an unencoded payload":                    {header: `{"alg":"EdDSA","b64":false}`, reason: ReasonMalformed},
		"a header member that comes twice":        {header: `{"alg":"none","alg":"EdDSA"}`, reason: ReasonMalformed},
		"a kid that is a number":                  {header: `{"alg":"EdDSA","kid":1}`, reason: ReasonMalformed, message: "token's kid is malformed"},
		"a typ that is a list":                    {header: `{"alg":"EdDSA","typ":[]}`, reason: ReasonMalformed},
		"an alg that is a number":                 {header: `{"alg":1}`, reason: ReasonMalformed},
		"an empty kid is none":                    {header: `{"alg":"EdDSA","kid":""}`},
		"an embedded key that is malformed":       {header: `{"alg":"EdDSA","jwk":7}`, reason: ReasonMalformed, message: "token has a malformed header"},
		"an algorithm outside the allow-list":     {want: func(e *Expectation) { e.Algorithms = []string{"RS256", "ES256"} }, reason: ReasonAlgorithm, message: `signed with "EdDSA", expected RS256, ES256`},
		"an algorithm on the allow-list":          {want: func(e *Expectation) { e.Algorithms = []string{"RS256", "EdDSA"} }},
		"a key that is not in the set":            {header: `{"alg":"EdDSA","kid":"next"}`, reason: ReasonUnknownKey, message: `signed with the key "next", which is not in the key set`},
		"a key that was left out": {
			header: `{"alg":"EdDSA","kid":"weak\""}`, want: leavesOut("weak\\\""), reason: ReasonUnusableKey,
			message: `signed with the key "weak\"", which the server publishes but which is weak`,
		},
		"a key, and another was left out": {header: `{"alg":"EdDSA","kid":"next"}`, want: leavesOut("other"), reason: ReasonUnknownKey},
		"no kid, and such a key was left out": {
			header: `{"alg":"RS256"}`, want: leavesOut(""), reason: ReasonUnusableKey,
			message: "signed with a key without an ID, and the one that the server publishes is weak",
		},
		"no kid, and a key suits though one was left out": {header: `{"alg":"EdDSA"}`, want: leavesOut("")},
		"a key of that ID, though one was left out":       {header: `{"alg":"EdDSA","kid":"k"}`, want: leavesOut("k")},
		"a kid that no key can have": {
			header: `{"alg":"EdDSA","kid":"clé"}`, reason: ReasonUnusableKey,
			message: `signed with the key "cl\u00e9", whose ID is longer than 128 characters or not printable ASCII`,
		},
		"a kid that differs in case":           {header: `{"alg":"EdDSA","kid":"K"}`, reason: ReasonUnknownKey},
		"no kid, and no key of that algorithm": {header: `{"alg":"RS256"}`, reason: ReasonUnknownKey, message: "signed with a key without an ID, and the key set has none for RS256"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := header, goodPayload
			if tc.header != "" {
				h = tc.header
			}
			if tc.payload != "" {
				p = tc.payload
			}
			want := expectation()
			if tc.want != nil {
				tc.want(&want)
			}
			token := signed(t, "EdDSA", edKey(), h, p)
			claims, err := Verify(token, keys, want)
			if tc.reason != "" {
				checkRefused(t, token, err, tc.reason, tc.message)
			} else if err != nil {
				t.Error(err)
			} else if claims.KeyID != "k" {
				t.Errorf("got the key %q", claims.KeyID)
			}
		})
	}
}

func TestVerifyRefusesForgeries(t *testing.T) {
	publicPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}()
	rsaJWK := publicJWK(t, rsaKey(), "rsa", "")
	keys := parsed(t, rsaJWK, publicJWK(t, p256(), "ec", ""), publicJWK(t, p384(), "ec384", ""), publicJWK(t, edKey(), "ed", ""),
		publicJWK(t, otherRSA(), "ps", `,"alg":"PS256"`))
	none := func([]byte) []byte { return nil }
	good := signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"ed"}`, goodPayload)
	parts := strings.Split(good, ".")
	for name, tc := range map[string]struct{ token, reason string }{
		"alg none":                         {compactJWT(`{"alg":"none"}`, goodPayload, none), ReasonAlgorithm},
		"alg none with a kid":              {compactJWT(`{"alg":"none","kid":"ed"}`, goodPayload, none), ReasonAlgorithm},
		"alg NONE":                         {compactJWT(`{"alg":"NONE"}`, goodPayload, none), ReasonAlgorithm},
		"an empty alg":                     {compactJWT(`{"alg":""}`, goodPayload, none), ReasonAlgorithm},
		"HMAC with the public key, PEM":    {signed(t, "HS256", publicPEM, `{"alg":"HS256","kid":"rsa"}`, goodPayload), ReasonAlgorithm},
		"HMAC with the public key, JWK":    {signed(t, "HS256", []byte(rsaJWK), `{"alg":"HS256","kid":"rsa"}`, goodPayload), ReasonAlgorithm},
		"HMAC that calls itself RS256":     {signed(t, "HS256", publicPEM, `{"alg":"RS256","kid":"rsa"}`, goodPayload), ReasonBadSignature},
		"a kid of another type's key":      {signed(t, "RS256", rsaKey(), `{"alg":"RS256","kid":"ec"}`, goodPayload), ReasonAlgorithm},
		"a kid of another curve's key":     {signed(t, "ES256", p256(), `{"alg":"ES256","kid":"ec384"}`, goodPayload), ReasonAlgorithm},
		"ES256 made with a P-384 key":      {signed(t, "ES256", p384(), `{"alg":"ES256","kid":"ec384"}`, goodPayload), ReasonAlgorithm},
		"ES256 by a P-384 key without kid": {signed(t, "ES256", p384(), `{"alg":"ES256"}`, goodPayload), ReasonBadSignature},
		"a key used against its alg":       {signed(t, "RS256", otherRSA(), `{"alg":"RS256","kid":"ps"}`, goodPayload), ReasonAlgorithm},
		"the same without a kid":           {signed(t, "RS256", otherRSA(), `{"alg":"RS256"}`, goodPayload), ReasonBadSignature},
		"PKCS #1 for PSS":                  {signed(t, "RS256", rsaKey(), `{"alg":"PS256","kid":"rsa"}`, goodPayload), ReasonBadSignature},
		"another hash":                     {signed(t, "RS512", rsaKey(), `{"alg":"RS256","kid":"rsa"}`, goodPayload), ReasonBadSignature},
		"a stranger's key":                 {signed(t, "EdDSA", otherEd(), `{"alg":"EdDSA","kid":"ed"}`, goodPayload), ReasonBadSignature},
		"a stranger's key without kid":     {signed(t, "EdDSA", otherEd(), `{"alg":"EdDSA"}`, goodPayload), ReasonBadSignature},
		"a kid swapped for another's":      {signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"rsa"}`, goodPayload), ReasonAlgorithm},
		"a key that the token brings": {
			signed(t, "EdDSA", otherEd(), `{"alg":"EdDSA","kid":"ed","jwk":`+publicJWK(t, otherEd(), "ed", "")+`}`, goodPayload), ReasonBadSignature},
		"a key that the token brings, no kid": {
			signed(t, "EdDSA", otherEd(), `{"alg":"EdDSA","jwk":`+publicJWK(t, otherEd(), "", "")+`,"jku":"https://evil.example"}`, goodPayload), ReasonBadSignature},
		"a stripped signature":          {parts[0] + "." + parts[1] + ".", ReasonBadSignature},
		"a signature of zeros":          {parts[0] + "." + parts[1] + "." + b64.EncodeToString(make([]byte, 64)), ReasonBadSignature},
		"zeros as an ES256 signature":   {compactJWT(`{"alg":"ES256","kid":"ec"}`, goodPayload, func([]byte) []byte { return make([]byte, 64) }), ReasonBadSignature},
		"a modified payload":            {parts[0] + "." + b64.EncodeToString([]byte(with(t, "sub", `"admin"`))) + "." + parts[2], ReasonBadSignature},
		"a modified header":             {b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"ed","typ":"at+jwt"}`)) + "." + parts[1] + "." + parts[2], ReasonBadSignature},
		"trailing bits in the header":   {looseBits(good, 0), ReasonMalformed},
		"trailing bits in a signature":  {looseBits(good, 2), ReasonMalformed},
		"padding":                       {parts[0] + "." + parts[1] + "." + parts[2] + "==", ReasonMalformed},
		"padding in the header":         {parts[0] + "=." + parts[1] + "." + parts[2], ReasonMalformed},
		"a line break in the header":    {parts[0][:8] + "\n" + parts[0][8:] + "." + parts[1] + "." + parts[2], ReasonMalformed},
		"a line break at the end":       {good + "\n", ReasonMalformed},
		"a space in front":              {" " + good, ReasonOpaque},
		"base64 of the other alphabet":  {parts[0] + "." + parts[1] + ".++//", ReasonMalformed},
		"no token":                      {"", ReasonOpaque},
		"an opaque token":               {"8a7b6c5d4e3f", ReasonOpaque},
		"an opaque token in two parts":  {parts[0] + "." + parts[1], ReasonOpaque},
		"an opaque token in three":      {"v4.public.AAAA", ReasonOpaque},
		"a signed cookie":               {b64.EncodeToString([]byte(`{"user":1}`)) + ".AAAA.AAAA", ReasonOpaque},
		"an encrypted token":            {b64.EncodeToString([]byte(`{"alg":"RSA-OAEP","enc":"A128GCM"}`)) + ".AA.AA.AA.AA", ReasonOpaque},
		"a JWS in JSON":                 {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, ReasonOpaque},
		"a million dots":                {strings.Repeat(".", 1_000_000), ReasonOpaque},
		"a header of unbounded nesting": {b64.EncodeToString([]byte(`{"alg":`+strings.Repeat("[", 100000))) + ".e30.AA", ReasonMalformed},
		"a header of bounded nesting":   {compactJWT(`{"alg":"EdDSA","x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`, goodPayload, none), ReasonBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			want := expectation()
			// Unsupported algorithms stay refused even if asked for.
			want.Algorithms = append(Algorithms(), "none", "NONE", "", "HS256")
			claims, err := Verify(tc.token, keys, want)
			checkRefused(t, tc.token, err, tc.reason, "")
			if claims != nil {
				t.Errorf("got claims %v", claims)
			}
		})
	}
	if _, err := Verify(good, keys, expectation()); err != nil {
		t.Errorf("the token that they forge is refused: %v", err)
	}
}

// looseBits sets a bit that a lenient base64 decoder ignores in one part.
func looseBits(token string, part int) string {
	parts := strings.Split(token, ".")
	last := len(parts[part]) - 1
	if (last+1)%4 == 0 {
		panic("this part has no loose bits")
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	parts[part] = parts[part][:last] + string(alphabet[strings.IndexByte(alphabet, parts[part][last])|1])
	return strings.Join(parts, ".")
}

func TestVerifyAmongKeysThatShareAKid(t *testing.T) {
	keys := parsed(t, publicJWK(t, rsaKey(), "k", `,"alg":"RS256"`), publicJWK(t, rsaKey(), "k", `,"alg":"PS256"`), publicJWK(t, p256(), "k", ""),
		publicJWK(t, otherEd(), "k", ""), publicJWK(t, edKey(), "k", ""))
	good := signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"k"}`, goodPayload)
	claims, err := Verify(good, keys, expectation())
	if err != nil {
		t.Fatalf("the last key of that kid is not tried: %v", err)
	}
	// RFC 8037 appendix A.3 gives this key's thumbprint.
	if claims.KeyThumbprint != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("it was verified with the key of thumbprint %q", claims.KeyThumbprint)
	}
	forged := signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"k"}`, goodPayload)
	_, err = Verify(forged, keys[:4], expectation())
	checkRefused(t, forged, err, ReasonBadSignature, `the key "k" in the key set does not verify the signature`)
}

func TestVerifyUsesNoSecretKey(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	keys := []Key{{ID: "k", JWK: `{"kty":"oct","kid":"k","k":"` + b64.EncodeToString(secret) + `"}`}}
	for _, alg := range []string{"HS256", "EdDSA"} {
		token := signed(t, "HS256", secret, `{"alg":"`+alg+`","kid":"k"}`, goodPayload)
		_, err := Verify(token, keys, expectation())
		checkRefused(t, token, err, ReasonAlgorithm, "")
	}
}

func TestInspect(t *testing.T) {
	none := func([]byte) []byte { return nil }
	for name, tc := range map[string]struct {
		header, payload string
		want            *Claims
	}{
		"an unsigned token":      {`{"alg":"none","kid":"x","typ":"JWT"}`, `{"exp":1800000000.9}`, &Claims{Algorithm: "none", KeyID: "x", Type: "JWT", ExpiresAt: now}},
		"nothing but an alg":     {`{"alg":"RS256"}`, `{}`, &Claims{Algorithm: "RS256"}},
		"azp names the client":   {`{"alg":"RS256"}`, `{"azp":"cart"}`, &Claims{Algorithm: "RS256", ClientID: "cart"}},
		"client_id before azp":   {`{"alg":"RS256"}`, `{"azp":"a","client_id":"cart"}`, &Claims{Algorithm: "RS256", ClientID: "cart"}},
		"a scope that is empty":  {`{"alg":"RS256"}`, `{"scope":""}`, &Claims{Algorithm: "RS256", ScopePresent: true}},
		"a scope that is null":   {`{"alg":"RS256"}`, `{"scope":null,"scp":"a"}`, &Claims{Algorithm: "RS256", ScopePresent: true, Scopes: []string{"a"}}},
		"an expired token":       {`{"alg":"RS256"}`, `{"exp":1}`, &Claims{Algorithm: "RS256", ExpiresAt: time.Unix(1, 0).UTC()}},
		"the last second it can": {`{"alg":"RS256"}`, `{"exp":253402300799}`, &Claims{Algorithm: "RS256", ExpiresAt: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Inspect(compactJWT(tc.header, tc.payload, none))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
