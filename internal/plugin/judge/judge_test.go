// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

type signer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, key}
}

func (s signer) sign(typ string, claims map[string]any) string {
	s.t.Helper()
	o := (&jose.SignerOptions{}).WithHeader("kid", "k1")
	if typ != "" {
		o = o.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, o)
	if err != nil {
		s.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		s.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// bundle returns the files that the operator itself would render.
func (s signer) bundle(change func(*render.Bundle)) map[string]string {
	s.t.Helper()
	jwk, err := json.Marshal(jose.JSONWebKey{Key: s.key.Public(), KeyID: "k1", Algorithm: "ES256"})
	if err != nil {
		s.t.Fatal(err)
	}
	b := render.Bundle{
		Namespace: "payments", Name: "payment-api", Issuer: "https://auth.example.com", Audience: "https://payment.example.com/api", ClockSkewSeconds: 30,
		Keys:   []render.Key{{ID: "k1", Algorithm: "ES256", JWK: string(jwk)}},
		Scopes: []render.Scope{{Name: "read", Claims: []string{"scope", "scp"}}, {Name: "Admin", Claims: []string{"roles"}}, {Name: "x/.default"}},
	}
	change(&b)
	files, err := render.Verification(b, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

func TestJudge(t *testing.T) {
	s := newSigner(t)
	claims := func(change ...any) map[string]any {
		c := map[string]any{
			"iss": "https://auth.example.com", "aud": "https://payment.example.com/api", "sub": "cart", "exp": noon.Add(time.Hour).Unix(), "iat": noon.Unix(),
			"scope": "read", "roles": []string{"Admin"},
		}
		for i := 0; i < len(change); i += 2 {
			if c[change[i].(string)] = change[i+1]; change[i+1] == nil {
				delete(c, change[i].(string))
			}
		}
		return c
	}
	same := func(*render.Bundle) {}
	for name, tc := range map[string]struct {
		token  string
		bundle func(*render.Bundle)
		scopes []string
		failed string // the step
		reason string
	}{
		"accepted":                      {token: s.sign("at+jwt", claims()), scopes: []string{"read"}},
		"a scope in another claim":      {token: s.sign("", claims()), scopes: []string{"read", "Admin"}},
		"a scope that no token carries": {token: s.sign("", claims()), scopes: []string{"x/.default"}},
		"opaque":                        {token: "opaque", failed: "form", reason: "OpaqueToken"},
		"another's signature":           {token: newSigner(t).sign("", claims()), failed: "signature", reason: "BadSignature"},
		"an unknown key": {token: s.sign("", claims()), bundle: func(b *render.Bundle) {
			b.Keys[0].ID = "k2"
			b.Keys[0].JWK = strings.Replace(b.Keys[0].JWK, "k1", "k2", 1)
		}, failed: "signature", reason: "UnknownKey"},
		"an algorithm that is not allowed": {token: s.sign("", claims()), bundle: func(b *render.Bundle) { b.Algorithms = []string{"RS256"} }, failed: "signature", reason: "AlgorithmNotAllowed"},
		"another type":                     {token: s.sign("JWT", claims()), bundle: func(b *render.Bundle) { b.TokenType = "at+jwt" }, failed: "type", reason: "WrongType"},
		"another issuer":                   {token: s.sign("", claims("iss", "https://evil.example.com")), failed: "issuer", reason: "WrongIssuer"},
		"another audience":                 {token: s.sign("", claims("aud", "urn:other")), failed: "audience", reason: "WrongAudience"},
		"named by another claim": {token: s.sign("", claims("aud", nil, "client_id", "cart")), bundle: func(b *render.Bundle) {
			b.Named = render.Named{Claims: []string{"client_id"}, Values: []string{"cart"}}
		}},
		"expired":                 {token: s.sign("", claims("exp", noon.Add(-time.Minute).Unix())), failed: "time", reason: "Expired"},
		"expired within the skew": {token: s.sign("", claims("exp", noon.Add(-20*time.Second).Unix()))},
		"no exp":                  {token: s.sign("", claims("exp", nil)), failed: "time", reason: "MalformedToken"},
		"not yet valid":           {token: s.sign("", claims("nbf", noon.Add(time.Hour).Unix())), failed: "time", reason: "NotYetValid"},
		"a scope is missing":      {token: s.sign("", claims()), scopes: []string{"write"}, failed: "scopes", reason: "MissingScopes"},
		"a role is missing":       {token: s.sign("", claims("roles", []string{"User"})), scopes: []string{"Admin"}, failed: "scopes", reason: "MissingScopes"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.bundle == nil {
				tc.bundle = same
			}
			j, err := Judge(tc.token, s.bundle(tc.bundle), tc.scopes, noon)
			if err != nil {
				t.Fatal(err)
			}
			failed, after := "", false
			for _, step := range j.Steps {
				switch {
				case step.Result == Failed:
					failed, after = step.Name, true
				case (step.Result == NotChecked) != after:
					t.Errorf("step %s is %s", step.Name, step.Result)
				}
			}
			if failed != tc.failed || j.Reason != tc.reason || j.Accepted != (tc.failed == "") || len(j.Steps) != 7 {
				t.Errorf("it fails at %q with %q: %+v", failed, j.Reason, j)
			}
			b, err := json.Marshal(j)
			if err != nil || tc.token != "opaque" && strings.Contains(string(b), tc.token[strings.LastIndex(tc.token, "."):]) {
				t.Errorf("the judgement holds the token: %s", b)
			}
		})
	}
}

func TestABundleThatCannotBeUsed(t *testing.T) {
	s := newSigner(t)
	for _, file := range []string{render.FileJWKS, render.FileVerification} {
		files := s.bundle(func(*render.Bundle) {})
		delete(files, file)
		if _, err := Judge("token", files, nil, noon); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("without %s: %v", file, err)
		}
	}
}

// TestATokenCannotWriteToTheTerminal: claims are shown, and anybody may have written them.
func TestATokenCannotWriteToTheTerminal(t *testing.T) {
	s := newSigner(t)
	token := s.sign("", map[string]any{"iss": "https://auth.example.com\x1b[2J", "sub": strings.Repeat("x", 1000), "aud": []string{"a\nb"}, "scope": "\u202eread"})
	c := Inspect(token)
	if c == nil || c.Issuer != "https://auth.example.com\ufffd[2J" || len(c.Subject) > 300 || c.Audience[0] != "a\ufffdb" || c.Scopes[0] != "\ufffdread" {
		t.Errorf("the claims are %+v", c)
	}
	if Inspect("opaque") != nil {
		t.Error("an opaque token has claims")
	}
}
