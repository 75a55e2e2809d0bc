// SPDX-License-Identifier: Apache-2.0

package oidc_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func TestSecrets(t *testing.T) {
	const id = "cart+shop:1"
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	secret := oidc.NewSecret()
	encodedID, encoded := url.QueryEscape(id), url.QueryEscape(secret)
	for name, tc := range map[string]struct {
		method     string
		form       url.Values
		header     func(*http.Request)
		want       int
		wantMethod string
	}{
		"basic with id and secret form-encoded": {oidc.SecretBasic, form(), basic(encodedID, encoded), 200, oidc.SecretBasic},
		"basic without the encoding":            {oidc.SecretBasic, form(), basic(id, secret), 401, oidc.SecretBasic},
		"basic with an invalid encoding":        {oidc.SecretBasic, form(), basic(encodedID, "%zz"), 401, oidc.SecretBasic},
		"basic with another secret":             {oidc.SecretBasic, form(), basic(encodedID, "guess"), 401, oidc.SecretBasic},
		"basic with no secret":                  {oidc.SecretBasic, form(), basic(encodedID, ""), 401, oidc.SecretBasic},
		"basic for another client":              {oidc.SecretBasic, form(), basic("nobody", encoded), 401, oidc.SecretBasic},
		"post":                                  {oidc.SecretPost, form("client_id", id, "client_secret", secret), nil, 200, oidc.SecretPost},
		"post with another secret":              {oidc.SecretPost, form("client_id", id, "client_secret", "guess"), nil, 401, oidc.SecretPost},
		"post where basic is registered":        {oidc.SecretBasic, form("client_id", id, "client_secret", secret), nil, 401, oidc.SecretPost},
		"basic where post is registered":        {oidc.SecretPost, form(), basic(encodedID, encoded), 401, oidc.SecretBasic},
		"both at once":                          {oidc.SecretBasic, form("client_secret", secret), basic(encodedID, encoded), 401, "several"},
		"the id alone":                          {oidc.SecretBasic, form("client_id", id), nil, 401, ""},
		"nothing":                               {oidc.SecretBasic, form(), nil, 401, ""},
		"a secret in place of an assertion":     {oidc.PrivateKeyJWT, form(), basic(encodedID, encoded), 401, oidc.SecretBasic},
		"a malformed assertion in its place":    {oidc.SecretBasic, form("client_id", id, "client_assertion", "x"), nil, 401, oidc.PrivateKeyJWT},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, oidc.Options{})
			_, _, jwks, err := oidc.NewKeyPair("ES256")
			if err != nil {
				t.Fatal(err)
			}
			set(t, s, oidc.Client{ID: id, Secret: secret, Method: tc.method, PublicJWKS: jwks})
			r, err := http.NewRequest(http.MethodPost, s.TokenURL(), strings.NewReader(tc.form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if tc.header != nil {
				tc.header(r)
			}
			got, err := do(r)
			if err != nil {
				t.Fatal(err)
			}
			if got.status != tc.want {
				t.Errorf("answered %d, want %d: %s", got.status, tc.want, got.raw)
			}
			if tc.want == 401 && got.body["error"] != "invalid_client" {
				t.Errorf("error is %v", got.body["error"])
			}
			challenge := got.header.Get("WWW-Authenticate")
			if wanted := tc.want == 401 && tc.wantMethod == oidc.SecretBasic; wanted != (challenge == "Basic") {
				t.Errorf("WWW-Authenticate is %q", challenge)
			}
			if seen := s.TokenRequests()[0]; seen.Method != tc.wantMethod || seen.Status != tc.want {
				t.Errorf("recorded %q with status %d, want %q with %d", seen.Method, seen.Status, tc.wantMethod, tc.want)
			}
		})
	}
}

// signed is an assertion, made without any of the server's own code.
func signed(t *testing.T, jwk []byte, kid bool, claims map[string]any) string {
	t.Helper()
	var key jose.JSONWebKey
	if err := json.Unmarshal(jwk, &key); err != nil {
		t.Fatal(err)
	}
	if !kid {
		key.KeyID = ""
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType("client-authentication+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func asserting(assertion string, pairs ...string) url.Values {
	v := form(pairs...)
	v.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	v.Set("client_assertion", assertion)
	return v
}

type claims = map[string]any

func TestAssertionsOfTheClientsOwn(t *testing.T) {
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, tc := range map[string]struct {
		alg      string // of the key; ES256
		accepted string // AssertionAlg
		strict   bool
		noKid    bool
		other    bool // signed with a key that the client does not have
		change   func(s *oidc.Server, c claims)
		clientID string
		refused  bool
	}{
		"RS256":                          {alg: "RS256"},
		"PS256":                          {alg: "PS256"},
		"ES256":                          {alg: "ES256"},
		"ES384":                          {alg: "ES384"},
		"EdDSA":                          {alg: "EdDSA"},
		"the algorithm agreed on":        {accepted: "ES256"},
		"another algorithm":              {accepted: "RS256", refused: true},
		"no kid":                         {noKid: true},
		"the client's id beside it":      {clientID: "payroll"},
		"another client's id beside it":  {clientID: cart.ID, refused: true},
		"another key under the same kid": {other: true, refused: true},
		"for the issuer alone, strictly": {strict: true},
		"for the token endpoint":         {change: func(s *oidc.Server, c claims) { c["aud"] = s.TokenURL() }},
		"for the token endpoint, if that is forbidden": {strict: true, change: func(s *oidc.Server, c claims) { c["aud"] = []string{s.Issuer(), s.TokenURL()} }, refused: true},
		"for another server":                           {change: func(_ *oidc.Server, c claims) { c["aud"] = "https://other.example.com" }, refused: true},
		"about another client":                         {change: func(_ *oidc.Server, c claims) { c["sub"] = cart.ID }, refused: true},
		"without an id":                                {change: func(_ *oidc.Server, c claims) { delete(c, "jti") }, refused: true},
		"without an expiry":                            {change: func(_ *oidc.Server, c claims) { delete(c, "exp") }, refused: true},
		"expired":                                      {change: func(_ *oidc.Server, c claims) { c["iat"], c["exp"] = at(-2*time.Minute), at(-time.Minute) }, refused: true},
		"from the future":                              {change: func(_ *oidc.Server, c claims) { c["iat"] = at(time.Minute) }, refused: true},
		"living too long":                              {change: func(_ *oidc.Server, c claims) { c["exp"] = at(time.Hour) }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.alg == "" {
				tc.alg = "ES256"
			}
			s := start(t, oidc.Options{Now: func() time.Time { return now }, IssuerAudienceOnly: tc.strict})
			pemKey, jwk, jwks, err := oidc.NewKeyPair(tc.alg)
			if err != nil {
				t.Fatal(err)
			}
			if block, _ := pem.Decode(pemKey); block == nil {
				t.Error("the private key is not PEM")
			} else if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
				t.Errorf("the private key is not PKCS #8: %v", err)
			}
			set(t, s, oidc.Client{ID: "payroll", Method: oidc.PrivateKeyJWT, PublicJWKS: jwks, AssertionAlg: tc.accepted})
			c := claims{"iss": "payroll", "sub": "payroll", "aud": s.Issuer(), "jti": "1", "iat": at(-10 * time.Second), "exp": at(time.Minute)}
			if tc.change != nil {
				tc.change(s, c)
			}
			var own, foreign jose.JSONWebKey
			if err := json.Unmarshal(jwk, &own); err != nil {
				t.Fatal(err)
			}
			if tc.other {
				_, otherJWK, _, err := oidc.NewKeyPair(tc.alg)
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(otherJWK, &foreign); err != nil {
					t.Fatal(err)
				}
				foreign.KeyID = own.KeyID
				if jwk, err = json.Marshal(foreign); err != nil {
					t.Fatal(err)
				}
			}
			v := asserting(signed(t, jwk, !tc.noKid, c))
			if tc.clientID != "" {
				v.Set("client_id", tc.clientID)
			}
			got := mustRequest(t, s, "", "", v)
			if want := map[bool]int{false: 200, true: 401}[tc.refused]; got.status != want {
				t.Fatalf("answered %d, want %d: %s", got.status, want, got.raw)
			}
			if tc.refused {
				return
			}
			if replay := mustRequest(t, s, "", "", v); replay.status != 401 {
				t.Errorf("the same assertion again was answered with %d", replay.status)
			}
			header := claims{"alg": tc.alg, "typ": "client-authentication+jwt", "kid": own.KeyID}
			if tc.noKid {
				delete(header, "kid")
			}
			seen := s.TokenRequests()[0]
			if seen.ClientID != "payroll" || seen.Method != oidc.PrivateKeyJWT || seen.CredentialID != oidc.Hash("payroll payroll") {
				t.Errorf("recorded %+v", seen)
			}
			if diff := cmp.Diff(header, seen.AssertionHeader); diff != "" {
				t.Errorf("recorded header (-want +got):\n%s", diff)
			}
			if seen.AssertionClaims["jti"] != "1" {
				t.Errorf("recorded claims %v", seen.AssertionClaims)
			}
		})
	}
}

func TestAssertionsOfAForeignIssuer(t *testing.T) {
	const cluster, account = "https://kubernetes.default.svc", "system:serviceaccount:shop:cart"
	_, jwk, jwks, err := oidc.NewKeyPair("RS256")
	if err != nil {
		t.Fatal(err)
	}
	_, strange, _, err := oidc.NewKeyPair("RS256")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	for name, tc := range map[string]struct {
		key     []byte
		noKid   bool
		change  claims
		form    []string
		want    int
		wantID  string
		wantWay string
	}{
		"a ServiceAccount's token":           {want: 200, wantID: "sa", wantWay: oidc.ServiceAccount},
		"with the client's id beside it":     {form: []string{"client_id", "sa"}, want: 200, wantID: "sa", wantWay: oidc.ServiceAccount},
		"without a kid":                      {noKid: true, want: 200, wantID: "sa", wantWay: oidc.ServiceAccount},
		"with another client's id beside it": {form: []string{"client_id", cart.ID}, want: 401, wantID: cart.ID, wantWay: oidc.PrivateKeyJWT},
		"of another account":                 {change: claims{"sub": "system:serviceaccount:evil:cart"}, want: 401, wantID: cluster, wantWay: oidc.PrivateKeyJWT},
		"of another cluster":                 {change: claims{"iss": "https://evil.example.com"}, want: 401, wantID: "https://evil.example.com", wantWay: oidc.PrivateKeyJWT},
		"for another audience":               {change: claims{"aud": []string{"vault"}}, want: 401, wantID: "sa", wantWay: oidc.ServiceAccount},
		"expired":                            {change: claims{"exp": now - 60}, want: 401, wantID: "sa", wantWay: oidc.ServiceAccount},
		"signed with an unpublished key":     {key: strange, want: 401, wantID: "sa", wantWay: oidc.ServiceAccount},
		"that key and no kid":                {key: strange, noKid: true, want: 401, wantID: "sa", wantWay: oidc.ServiceAccount},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, oidc.Options{})
			sa := oidc.Client{
				ID: "sa", Method: oidc.ServiceAccount, PublicJWKS: jwks,
				AssertionIssuer: cluster, AssertionSubject: account, AssertionAudience: "m2m",
				Scopes: map[string][]string{payments: {"payments:read"}},
			}
			set(t, s, sa)
			c := claims{"iss": cluster, "sub": account, "aud": []string{"m2m", "x"}, "iat": now, "exp": now + 3600}
			maps.Copy(c, tc.change)
			if tc.key == nil {
				tc.key = jwk
			}
			v := asserting(signed(t, tc.key, !tc.noKid, c), append(tc.form, "resource", payments, "scope", "payments:read")...)
			for range 2 { // the same token is good for more than one request
				got := mustRequest(t, s, "", "", v)
				if got.status != tc.want {
					t.Fatalf("answered %d, want %d: %s", got.status, tc.want, got.raw)
				}
				if tc.want == 200 {
					if _, token := mustVerify(t, s, got.token()); token["sub"] != "sa" || token["scope"] != "payments:read" {
						t.Errorf("the token says %v", token)
					}
				}
			}
			seen := s.TokenRequests()[0]
			if seen.ClientID != tc.wantID || seen.Method != tc.wantWay || seen.CredentialID != oidc.Hash(c["iss"].(string)+" "+c["sub"].(string)) {
				t.Errorf("recorded %+v", seen)
			}
			sa.AssertionSubject += "-2"
			set(t, s, sa)
			if got := mustRequest(t, s, "", "", v); got.status != 401 {
				t.Errorf("the client now belongs to another account, but the old one was answered with %d", got.status)
			}
			sa.AssertionSubject = account
			set(t, s, sa)
			s.RemoveClient("sa")
			if got := mustRequest(t, s, "", "", v); got.status != 401 {
				t.Errorf("the removed client was answered with %d", got.status)
			}
		})
	}
}

func TestClientsAndResourcesChangeWhileItRuns(t *testing.T) {
	s := start(t, oidc.Options{})
	steps := []struct {
		does   string
		change func()
		secret string
		want   int
	}{
		{"as registered", func() {}, "s3cr3t", 200},
		{"the secret is rotated: the old one", func() { c := cart; c.Secret = "new"; set(t, s, c) }, "s3cr3t", 401},
		{"and the new one", func() {}, "new", 200},
		{"the grant is withdrawn", func() { set(t, s, oidc.Client{ID: cart.ID, Secret: "new"}) }, "new", 400},
		{"and given back", func() { c := cart; c.Secret = "new"; set(t, s, c) }, "new", 200},
		{"the API loses the scope", func() { s.SetResource(payments, "payments:read") }, "new", 400},
		{"the API is gone", func() { s.RemoveResource(payments) }, "new", 400},
		{"and back", func() { s.SetResource(payments, "payments:write") }, "new", 200},
		{"the client is gone", func() { s.RemoveClient(cart.ID) }, "new", 401},
		{"and is nobody twice", func() { s.RemoveClient(cart.ID) }, "new", 401},
	}
	for _, step := range steps {
		step.change()
		got := mustRequest(t, s, cart.ID, step.secret, form("resource", payments, "scope", "payments:write"))
		if got.status != step.want {
			t.Errorf("%s: answered %d, want %d: %s", step.does, got.status, step.want, got.raw)
		}
		requests := s.TokenRequests()
		if last := requests[len(requests)-1]; last.CredentialID != oidc.Hash(step.secret) {
			t.Errorf("%s: recorded another secret", step.does)
		}
	}
}

func TestSetClientRefusesWhatCannotAuthenticate(t *testing.T) {
	s := start(t, oidc.Options{})
	for name, c := range map[string]oidc.Client{
		"no id":                         {Secret: "s"},
		"an unknown method":             {ID: "c", Method: "tls_client_auth"},
		"no keys":                       {ID: "c", Method: oidc.PrivateKeyJWT},
		"keys that are null":            {ID: "c", Method: oidc.PrivateKeyJWT, PublicJWKS: []byte("null")},
		"an issuer without a subject":   {ID: "c", Method: oidc.ServiceAccount, PublicJWKS: []byte(`{"keys":[{"kty":"oct","k":"AA"}]}`), AssertionIssuer: "i"},
		"a foreign issuer without keys": {ID: "c", Method: oidc.ServiceAccount, AssertionIssuer: "i", AssertionSubject: "s"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.SetClient(c); err == nil {
				t.Error("it was registered")
			}
		})
	}
}
