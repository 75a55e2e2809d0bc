// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2/clientcredentials"
)

// verify checks a JWT's signature by the standard library alone and returns header and claims.
func verify(t *testing.T, public crypto.PublicKey, token string) (header, claims map[string]any) {
	t.Helper()
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("not a compact JWS: %q", token)
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := json.Unmarshal(decode(part[0]), &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(decode(part[1]), &claims); err != nil {
		t.Fatal(err)
	}
	input, signature := []byte(part[0]+"."+part[1]), decode(part[2])
	digest := sha256.Sum256(input)
	half := len(signature) / 2
	r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
	valid := false
	switch header["alg"] {
	case "RS256":
		valid = rsa.VerifyPKCS1v15(public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature) == nil
	case "PS256":
		valid = rsa.VerifyPSS(public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: sha256.Size}) == nil
	case "ES256":
		valid = len(signature) == 64 && ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], r, s)
	case "ES384":
		digest := sha512.Sum384(input)
		valid = len(signature) == 96 && ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], r, s)
	case "EdDSA":
		valid = ed25519.Verify(public.(ed25519.PublicKey), input, signature)
	}
	if !valid {
		t.Fatalf("the %v signature is not valid", header["alg"])
	}
	return header, claims
}

func TestPrivateKeyJWT(t *testing.T) {
	for _, alg := range algorithms {
		for _, kid := range []string{"", "key-1"} {
			t.Run(alg+" "+kid, func(t *testing.T) {
				private := privateKey(t, alg)
				key, err := ParseSigningKey(pkcs8(t, private), alg, kid)
				if err != nil {
					t.Fatal(err)
				}
				if key.algorithm != alg || key.keyID != kid {
					t.Errorf("the key is %v", key)
				}
				a := PrivateKeyJWT("cart", key, "https://auth.example.com/oidc")
				var tokens []string
				for range 2 {
					_, err := exchange(t, func(w http.ResponseWriter, r *http.Request) {
						_ = r.ParseForm()
						tokens = append(tokens, r.PostForm.Get("client_assertion"))
						r.PostForm.Del("client_assertion")
						want := url.Values{"grant_type": {"client_credentials"}, "client_id": {"cart"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
						if diff := cmp.Diff(want, r.PostForm); diff != "" || r.Header.Get("Authorization") != "" {
							t.Errorf("Authorization %q, form (-want +got):\n%s", r.Header.Get("Authorization"), diff)
						}
						reply(200, `{"access_token":"t"}`)(w, r)
					}, time.Second, TokenRequest{Authentication: a})
					if err != nil {
						t.Fatal(err)
					}
				}
				var ids []any
				for _, token := range tokens {
					header, claims := verify(t, private.Public(), token)
					wantHeader := map[string]any{"alg": alg, "typ": "client-authentication+jwt"}
					if kid != "" {
						wantHeader["kid"] = kid
					}
					if diff := cmp.Diff(wantHeader, header); diff != "" {
						t.Errorf("header (-want +got):\n%s", diff)
					}
					ids = append(ids, claims["jti"])
					delete(claims, "jti")
					wantClaims := map[string]any{
						"iss": "cart", "sub": "cart", "aud": "https://auth.example.com/oidc",
						"iat": float64(now.Unix() - 10), "exp": float64(now.Unix() + 60),
					}
					if diff := cmp.Diff(wantClaims, claims); diff != "" {
						t.Errorf("claims (-want +got):\n%s", diff)
					}
				}
				if ids[0] == ids[1] || len(ids[0].(string)) < 20 {
					t.Errorf("jti %q and %q are not fresh", ids[0], ids[1])
				}
			})
		}
	}
}

func TestIncompleteCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		auth Authentication
		want string
	}{
		"basic without id":           {ClientSecretBasic("", secret), "client id is empty"},
		"basic without secret":       {ClientSecretBasic("cart", ""), "client secret is empty"},
		"post without id":            {ClientSecretPost("", secret), "client id is empty"},
		"post without secret":        {ClientSecretPost("cart", ""), "client secret is empty"},
		"private key without id":     {PrivateKeyJWT("", signingKey(t, "ES256"), "a"), "client id is empty"},
		"private key of no use":      {PrivateKeyJWT("cart", &SigningKey{signer: brokenSigner{}}, "a"), "client assertion cannot be signed"},
		"assertion without anything": {JWTBearerAssertion("cart", ""), "client assertion is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Exchange(t.Context(), client(t, time.Second), TokenRequest{Endpoint: "http://127.0.0.1:1", Authentication: tc.auth, Now: now})
			if e := asError(t, err); e.Class != ClassTerminal || e.Error() != tc.want {
				t.Errorf("got %s %q, want %q", e.Class, e, tc.want)
			}
		})
	}
}

func TestCredentialsDoNotShow(t *testing.T) {
	key := signingKey(t, "ES256")
	for want, a := range map[string]any{
		`client_secret_basic of client "cart"`:  ClientSecretBasic("cart", "S3ntinel"),
		`client_secret_post of client "cart"`:   ClientSecretPost("cart", "S3ntinel"),
		`private_key_jwt of client "cart"`:      PrivateKeyJWT("cart", key, "S3ntinel"),
		`jwt_bearer_assertion of client "cart"`: JWTBearerAssertion("cart", "S3ntinel"),
		`ES256 key ""`:                          key,
	} {
		marshalled, _ := json.Marshal(a)
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "a", a)
		all := fmt.Sprintf("%v|%+v|%#v|%s|%x", a, a, a, a, a) + string(marshalled) + log.String()
		if got := fmt.Sprint(a); got != want || strings.Contains(all, "S3ntinel") {
			t.Errorf("prints as %s", all)
		}
	}
	if got := fmt.Sprintf("%#v %v", *key, struct{ K SigningKey }{*key}); got != `ES256 key "" {ES256 key ""}` {
		t.Errorf("a key by value prints as %s", got)
	}
}

// Auto-detection would send a second request with the secret in another place.
func TestAuthStyleIsExplicit(t *testing.T) {
	for _, a := range []Authentication{auth, ClientSecretPost("cart", secret), JWTBearerAssertion("", "e.y.J"), PrivateKeyJWT("cart", signingKey(t, "ES256"), "a")} {
		cfg := clientcredentials.Config{EndpointParams: url.Values{}}
		if _, err := a.apply(&cfg, now); err != nil || cfg.AuthStyle == 0 {
			t.Errorf("%v: auth style %d, %v", a, cfg.AuthStyle, err)
		}
	}
}
