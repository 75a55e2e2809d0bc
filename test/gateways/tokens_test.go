// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

type claims = map[string]any

// goodClaims are those of a token for reading, without what the server adds. A changed claim
// that is nil is left out.
func goodClaims(change claims) claims {
	c := claims{"aud": audience, "sub": "cart", "client_id": "cart", "scope": readScope}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, value any) bool { return value == nil })
	return c
}

// signed returns a token of the authorization server, with some claims changed.
func signed(t *testing.T, s *oidc.Server, change claims) string {
	t.Helper()
	token, err := s.SignToken(goodClaims(change))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// goodTokens are tokens that allow reading, by what is special about them.
func goodTokens(t *testing.T, s *oidc.Server) map[string]string {
	t.Helper()
	return map[string]string{
		"a usual token":                      signed(t, s, nil),
		"a token for several APIs":           signed(t, s, claims{"aud": []string{"https://other.example.com", audience}}),
		"a token with more scopes":           signed(t, s, claims{"scope": writeScope + " " + readScope}),
		"a token with a list of scopes":      signed(t, s, claims{"scope": nil, "scp": []string{readScope}}),
		"a token with scopes as text in scp": signed(t, s, claims{"scope": nil, "scp": writeScope + " " + readScope}),
	}
}

// refusal is a token that no gateway may let pass, and the status with which Envoy answers.
type refusal struct {
	token  string
	status int
}

// badTokens are refused by every gateway, by what is wrong with them.
func badTokens(t *testing.T, s *oidc.Server) map[string]refusal {
	t.Helper()
	now := time.Now().Unix()
	good := signed(t, s, nil)
	forged, err := s.ForgeToken(goodClaims(nil))
	if err != nil {
		t.Fatal(err)
	}
	header, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	unsigned := encode(t, claims{"alg": "none", "typ": "at+jwt"}) + "." + payload
	more := encode(t, goodClaims(claims{"iss": s.Issuer(), "exp": now + 300, "scope": readScope + " " + writeScope}))
	all := map[string]refusal{}
	for what, change := range map[string]claims{
		"another API": {"aud": "https://other.example.com/api"}, "a longer audience": {"aud": audience + "/v2"}, "no audience": {"aud": nil},
		"the audience with http": {"aud": strings.Replace(audience, "https:", "http:", 1)}, "the audience with a slash": {"aud": []string{audience + "/"}},
	} {
		all[what] = refusal{signed(t, s, change), http.StatusForbidden}
	}
	for what, token := range map[string]string{
		"another issuer":                    signed(t, s, claims{"iss": "https://auth.example.com"}),
		"the issuer with a slash":           signed(t, s, claims{"iss": s.Issuer() + "/"}),
		"no issuer":                         issuedWithout(t, s, "iss"),
		"expired":                           signed(t, s, claims{"iat": now - 900, "exp": now - 300}),
		"not valid yet":                     signed(t, s, claims{"nbf": now + 300}),
		"a key that the server never had":   forged,
		"algorithm none":                    unsigned + ".",
		"algorithm none with its signature": unsigned + "." + signature,
		"HS256 with the public key":         symmetric(t, s),
		"another payload":                   header + "." + more + "." + signature,
		"no signature":                      header + "." + payload + ".",
		"not a JWT":                         "opaque-token",
	} {
		all[what] = refusal{token, http.StatusUnauthorized}
	}
	return all
}

func encode(t *testing.T, value any) string {
	t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// issuedWithout returns a token of the server without a claim that the server always adds.
func issuedWithout(t *testing.T, s *oidc.Server, claim string) string {
	t.Helper()
	const id, secret = "other", "a-secret-of-the-test"
	if err := s.SetClient(oidc.Client{ID: id, Secret: secret, Scopes: map[string][]string{audience: {readScope}}}); err != nil {
		t.Fatal(err)
	}
	s.SetFault(oidc.Token, &oidc.Fault{Claims: func(c map[string]any) { delete(c, claim) }})
	defer s.SetFault(oidc.Token, nil)
	form := "grant_type=client_credentials&scope=" + readScope + "&resource=" + audience
	r, err := http.NewRequest(http.MethodPost, s.TokenURL(), strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(id, secret)
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(fetch(t, r), &answer); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(answer.Token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	content, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || len(content) == 0 || strings.Contains(string(content), `"`+claim+`"`) {
		t.Fatalf("this is not a token without %s: %s (%v)", claim, content, err)
	}
	return answer.Token
}

func fetch(t *testing.T, r *http.Request) []byte {
	t.Helper()
	resp, err := caller.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %d: %s (%v)", r.URL, resp.StatusCode, content, err)
	}
	return content
}

// published returns the server's keys as it publishes them.
func published(t *testing.T, s *oidc.Server) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.JWKSURL(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return string(fetch(t, r))
}

// merged returns the keys of two sets in one.
func merged(t *testing.T, one, other string) string {
	t.Helper()
	var a, b jose.JSONWebKeySet
	if err := errors.Join(json.Unmarshal([]byte(one), &a), json.Unmarshal([]byte(other), &b)); err != nil {
		t.Fatal(err)
	}
	a.Keys = append(a.Keys, b.Keys...)
	content, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// unusable returns a key set with a public key whose private half nobody knows: a point of P-256
// made of a hash. Every gateway refuses all tokens with it, and takes it for a key set.
func unusable(t *testing.T) string {
	t.Helper()
	for i := range byte(255) {
		hash := sha256.Sum256([]byte{'n', 'o', 'n', 'e', i})
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), append([]byte{2}, hash[:]...))
		if x == nil {
			continue
		}
		point := append(append([]byte{4}, x.FillBytes(make([]byte, 32))...), y.FillBytes(make([]byte, 32))...)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			t.Fatal(err)
		}
		set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "none", Algorithm: "ES256", Use: "sig"}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(set)
	}
	t.Fatal("no hash is a point")
	return ""
}

// symmetric returns a token whose MAC has the public key, in PEM, as its secret.
func symmetric(t *testing.T, s *oidc.Server) string {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(published(t, s)), &set); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(set.Keys, func(k jose.JSONWebKey) bool { return k.KeyID == s.KeyID() })
	if i < 0 {
		t.Fatal("the server does not publish its key")
	}
	der, err := x509.MarshalPKIXPublicKey(set.Keys[i].Key)
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret},
		(&jose.SignerOptions{}).WithHeader("kid", s.KeyID()).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(goodClaims(claims{"iss": s.Issuer(), "exp": time.Now().Unix() + 300}))
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign(content)
	if err != nil {
		t.Fatal(err)
	}
	token, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
