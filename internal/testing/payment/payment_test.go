// SPDX-License-Identifier: Apache-2.0

package payment

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	testIssuer   = "https://auth.example.com"
	testAudience = "https://payment.example.com/api"
)

// signer is a key of an authorization server.
type signer struct{ key jose.JSONWebKey }

func newSigner(t *testing.T, alg, kid string) signer {
	t.Helper()
	_, private, _, err := oidc.NewKeyPair(alg)
	if err != nil {
		t.Fatal(err)
	}
	var s signer
	if err := json.Unmarshal(private, &s.key); err != nil {
		t.Fatal(err)
	}
	s.key.KeyID = kid
	return s
}

func (s signer) sign(t *testing.T, typ string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	signs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.key.Algorithm), Key: s.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signs.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bundleFiles returns a verification bundle with these keys.
func bundleFiles(t *testing.T, rules map[string]any, keys ...signer) map[string][]byte {
	t.Helper()
	all := map[string]any{
		"issuer": testIssuer, "audience": testAudience, "algorithms": []string{"ES256", "RS256"}, "clockSkewSeconds": 30,
		"scopes": []map[string]any{
			{"name": "payments:read", "claims": []string{"scope", "scp"}}, {"name": "payments:write", "claims": []string{"scope", "scp"}},
		},
	}
	for name, value := range rules {
		all[name] = value
	}
	var set jose.JSONWebKeySet
	for _, s := range keys {
		set.Keys = append(set.Keys, s.key.Public())
	}
	files := map[string][]byte{}
	for name, value := range map[string]any{"verification.json": all, "jwks.json": set} {
		content, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = content
	}
	return files
}

// show replaces the content of a directory with the files the way a kubelet does: all at once.
func show(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, dataLink)
	if err := errors.Join(os.Symlink(filepath.Base(fresh), link+"_tmp"), os.Rename(link+"_tmp", link)); err != nil {
		t.Fatal(err)
	}
}

func newVerifier(t *testing.T, files map[string][]byte) *Verifier {
	t.Helper()
	v := &Verifier{Dir: t.TempDir(), Now: func() time.Time { return noon }}
	show(t, v.Dir, files)
	return v
}

// goodClaims are the claims of a token that the payment API accepts.
func goodClaims() map[string]any {
	return map[string]any{
		"iss": testIssuer, "aud": testAudience, "exp": noon.Add(time.Minute).Unix(), "iat": noon.Unix(),
		"client_id": "cart", "scope": "payments:write",
	}
}

func TestPayment(t *testing.T) {
	current, other, rsa := newSigner(t, "ES256", "k1"), newSigner(t, "ES256", "k1"), newSigner(t, "RS256", "k1")
	second := newSigner(t, "RS256", "k2") // allowed, as is PS256, but not both for one key
	misused := second
	misused.key.Algorithm = "PS256"
	with := func(name string, value any) map[string]any {
		c := goodClaims()
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	both := func(scope, scp any) map[string]any {
		c := with("scope", scope)
		c["scp"] = scp
		return c
	}
	signed := func(claims map[string]any) string { return current.sign(t, "at+jwt", claims) }
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	hmac := signer{jose.JSONWebKey{Key: []byte(strings.Repeat("k", 32)), KeyID: "k1", Algorithm: "HS256"}}
	parts := strings.Split(signed(goodClaims()), ".")
	none := "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ." + parts[1] + "."

	tests := map[string]struct {
		method, token string
		want          int
	}{
		"a token with the scope":                     {token: signed(goodClaims()), want: 200},
		"the scope among others":                     {token: signed(with("scope", "a payments:write b")), want: 200},
		"a list of audiences":                        {token: signed(with("aud", []string{"x", testAudience})), want: 200},
		"expired within the skew":                    {token: signed(with("exp", at(-29*time.Second))), want: 200},
		"the other scope for the other method":       {method: http.MethodGet, token: signed(with("scope", "payments:read")), want: 200},
		"a token without the scope":                  {token: signed(with("scope", "payments:read")), want: 403},
		"a scope that only has the same beginning":   {token: signed(with("scope", "payments:write.all")), want: 403},
		"no scope at all":                            {token: signed(with("scope", nil)), want: 403},
		"the scope in scp, a list":                   {token: signed(both(nil, []string{"a", "payments:write"})), want: 200},
		"the scope in scp, a string":                 {token: signed(both(nil, "a payments:write")), want: 200},
		"another scope in scp":                       {token: signed(both(nil, []string{"payments:read"})), want: 403},
		"scp where there is a scope":                 {token: signed(both("payments:read", "payments:write")), want: 403},
		"a scope claim that is a number":             {token: signed(with("scope", 7)), want: 403},
		"no token":                                   {want: 401},
		"not a JWT":                                  {token: "opaque", want: 401},
		"a forged signature under a known kid":       {token: other.sign(t, "at+jwt", goodClaims()), want: 401},
		"claims that were changed":                   {token: parts[0] + "." + strings.Split(signed(with("scope", "x")), ".")[1] + "." + parts[2], want: 401},
		"an unknown kid":                             {token: newSigner(t, "ES256", "k9").sign(t, "at+jwt", goodClaims()), want: 401},
		"an allowed algorithm that is not the key's": {token: rsa.sign(t, "at+jwt", goodClaims()), want: 401},
		"another algorithm than the key says":        {token: misused.sign(t, "at+jwt", goodClaims()), want: 401},
		"the algorithm that the key says":            {token: second.sign(t, "at+jwt", goodClaims()), want: 200},
		"no signature":                               {token: none, want: 401},
		"HMAC":                                       {token: hmac.sign(t, "at+jwt", goodClaims()), want: 401},
		"another issuer":                             {token: signed(with("iss", testIssuer+"/")), want: 401},
		"no issuer":                                  {token: signed(with("iss", nil)), want: 401},
		"another audience":                           {token: signed(with("aud", testAudience+"/v2")), want: 401},
		"no audience":                                {token: signed(with("aud", nil)), want: 401},
		"expired":                                    {token: signed(with("exp", at(-31*time.Second))), want: 401},
		"no expiry":                                  {token: signed(with("exp", nil)), want: 401},
		"not valid yet":                              {token: signed(with("nbf", at(time.Minute))), want: 401},
		"another type":                               {token: current.sign(t, "JWT", goodClaims()), want: 401},
		"the type in full":                           {token: current.sign(t, "application/AT+jwt", goodClaims()), want: 200},
	}
	rules := map[string]any{"tokenType": "at+jwt", "algorithms": []string{"ES256", "RS256", "PS256"}}
	api := httptest.NewServer(API(newVerifier(t, bundleFiles(t, rules, current, second))))
	defer api.Close()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.method == "" {
				tc.method = http.MethodPost
			}
			if got := Request(tc.method, api.URL, tc.token); got.Status != tc.want {
				t.Errorf("answered %s, want %d", got, tc.want)
			}
		})
	}
}

// TestPaymentThatIsNamedOtherwise: tokens without aud, as Amazon Cognito issues them,
// are accepted only if they name the API in the way that its bundle says.
func TestPaymentThatIsNamedOtherwise(t *testing.T) {
	key := newSigner(t, "ES256", "k1")
	byClaim := map[string]any{"claims": []string{"apis"}, "values": []string{"till", "cart"}}
	byScope := map[string]any{"claims": []string{"scope", "scp"}, "prefix": "payments:"}
	for name, tc := range map[string]struct {
		in     map[string]any
		claims map[string]any // in place of aud
		ok     bool
	}{
		"one of the values":               {byClaim, map[string]any{"apis": "cart"}, true},
		"a list with one of the values":   {byClaim, map[string]any{"apis": []string{"x", "cart"}}, true},
		"another value":                   {byClaim, map[string]any{"apis": "bill"}, false},
		"a value with an additional word": {byClaim, map[string]any{"apis": "cart evil"}, false},
		"a number":                        {byClaim, map[string]any{"apis": 7}, false},
		"no claim":                        {byClaim, map[string]any{"apis": nil}, false},
		"no claim, and the right aud":     {byClaim, map[string]any{"apis": nil, "aud": testAudience}, false},
		"a scope with the prefix":         {byScope, map[string]any{"scope": "x payments:write"}, true},
		"a scope with the prefix in scp":  {byScope, map[string]any{"scope": nil, "scp": []string{"payments:write"}}, true},
		"no scope with the prefix":        {byScope, map[string]any{"scope": "ledger:payments:write"}, false},
		"a rule that says nothing":        {map[string]any{}, map[string]any{"aud": testAudience}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, bundleFiles(t, map[string]any{"audienceIn": tc.in}, key))
			token := goodClaims()
			delete(token, "aud")
			for claim, value := range tc.claims {
				if token[claim] = value; value == nil {
					delete(token, claim)
				}
			}
			if _, err := v.Verify(key.sign(t, "at+jwt", token)); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPaymentChallenges(t *testing.T) {
	key := newSigner(t, "ES256", "k1")
	api := httptest.NewServer(API(newVerifier(t, bundleFiles(t, nil, key))))
	defer api.Close()
	reads := goodClaims()
	reads["scope"] = "payments:read"
	got := map[string]string{}
	for name, token := range map[string]string{"none": "", "bad": "x", "weak": key.sign(t, "JWT", reads)} {
		req := httptest.NewRequest(http.MethodPost, "/payments", nil)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		api.Config.Handler.ServeHTTP(w, req)
		got[name] = w.Header().Get("WWW-Authenticate")
	}
	want := map[string]string{
		"none": `Bearer`, "bad": `Bearer error="invalid_token"`, "weak": `Bearer error="insufficient_scope", scope="payments:write"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("challenges (-want +got):\n%s", diff)
	}
}

func TestPaymentWithABundleThatAllowsNothing(t *testing.T) {
	key := newSigner(t, "ES256", "k1")
	v := newVerifier(t, bundleFiles(t, map[string]any{"algorithms": []string{}}, key))
	if _, err := v.Verify(key.sign(t, "at+jwt", goodClaims())); err == nil {
		t.Error("an empty list of algorithms was taken for any algorithm")
	}
}

func TestPaymentFollowsItsBundle(t *testing.T) {
	first, second := newSigner(t, "ES256", "k1"), newSigner(t, "ES256", "k2")
	v := newVerifier(t, bundleFiles(t, nil, first))
	accepts := func(s signer) bool {
		_, err := v.Verify(s.sign(t, "at+jwt", goodClaims()))
		return err == nil
	}
	for _, step := range []struct {
		keys []signer
		want []bool
	}{
		{[]signer{first}, []bool{true, false}},
		{[]signer{second, first}, []bool{true, true}},
		{[]signer{second}, []bool{false, true}},
		{nil, []bool{false, false}},
	} {
		show(t, v.Dir, bundleFiles(t, nil, step.keys...))
		if diff := cmp.Diff(step.want, []bool{accepts(first), accepts(second)}); diff != "" {
			t.Errorf("with %d keys (-want +got):\n%s", len(step.keys), diff)
		}
	}
}

func TestPaymentWithoutAUsableBundle(t *testing.T) {
	key := newSigner(t, "ES256", "k1")
	whole := bundleFiles(t, nil, key)
	tests := map[string]func() *Verifier{
		"no directory": func() *Verifier { return &Verifier{Dir: filepath.Join(t.TempDir(), "none"), Now: time.Now} },
		"no keys": func() *Verifier {
			return newVerifier(t, map[string][]byte{"verification.json": whole["verification.json"]})
		},
		"no rules": func() *Verifier { return newVerifier(t, map[string][]byte{"jwks.json": whole["jwks.json"]}) },
		"malformed rules": func() *Verifier {
			return newVerifier(t, map[string][]byte{"jwks.json": whole["jwks.json"], "verification.json": []byte("{")})
		},
		"no issuer":   func() *Verifier { return newVerifier(t, bundleFiles(t, map[string]any{"issuer": ""}, key)) },
		"no audience": func() *Verifier { return newVerifier(t, bundleFiles(t, map[string]any{"audience": ""}, key)) },
	}
	for name, broken := range tests {
		t.Run(name, func(t *testing.T) {
			v := broken()
			if _, err := v.Verify(key.sign(t, "at+jwt", goodClaims())); !errors.Is(err, ErrBundle) {
				t.Errorf("got %v, want that the bundle cannot be used", err)
			}
			api := httptest.NewServer(API(v))
			defer api.Close()
			if got := Request(http.MethodPost, api.URL, "x"); got.Status != http.StatusServiceUnavailable {
				t.Errorf("answered %s, want 503", got)
			}
		})
	}
}

func TestPay(t *testing.T) {
	key := newSigner(t, "ES256", "k1")
	api := httptest.NewServer(API(newVerifier(t, bundleFiles(t, nil, key))))
	defer api.Close()
	token := filepath.Join(t.TempDir(), "payment-api")
	if got := Pay(api.URL, token); got.Status != 0 || !strings.HasPrefix(got.Result, "there is no token") {
		t.Errorf("without a token: %v", got)
	}
	if err := os.WriteFile(token, []byte(key.sign(t, "at+jwt", goodClaims())), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Call{Status: 200, Result: "paid", Detail: "for cart"}, Pay(api.URL, token)); diff != "" {
		t.Errorf("with a token (-want +got):\n%s", diff)
	}
	api.Close()
	if got := Pay(api.URL, token); got.Status != 0 {
		t.Errorf("without an API: %v", got)
	}
}
