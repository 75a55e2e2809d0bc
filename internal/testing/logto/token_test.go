// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// granted is a world whose application may write payments, with its secret.
func newGranted(t *testing.T, opts ...logto.Option) (w *world, secret string) {
	t.Helper()
	w = newWorld(t, opts...)
	w.grant(w.write)
	w.assign()
	return w, w.SecretValue(w.app, "Default secret")
}

func (w *world) keys() (set jose.JSONWebKeySet) {
	w.t.Helper()
	got := w.do("GET", "/oidc/jwks", nil)
	if err := json.Unmarshal([]byte(got.raw), &set); err != nil {
		w.t.Fatalf("%d %s: %v", got.status, got.raw, err)
	}
	return set
}

// verify checks a token against the published keys and returns its header and claims.
func (w *world) verify(token string) (header jose.Header, claims map[string]any) {
	w.t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES384, jose.RS256})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := parsed.Claims(w.keys(), &claims); err != nil {
		w.t.Errorf("the published keys do not verify the token: %v", err)
	}
	return parsed.Headers[0], claims
}

func TestTheTokenIsAnAccessTokenJWT(t *testing.T) {
	w, secret := newGranted(t)
	got := w.token(w.app, secret, "resource", payments, "scope", "payments:write")
	body := got.object()
	wantKeys(t, body, "access_token", "expires_in", "scope", "token_type")
	header, claims := w.verify(body["access_token"].(string))
	if header.Algorithm != "ES384" || header.ExtraHeaders["typ"] != "at+jwt" || header.KeyID != w.keys().Keys[0].KeyID {
		t.Errorf("header: %+v", header)
	}
	now := float64(w.clock.now().Unix())
	want := map[string]any{
		"jti": claims["jti"], "sub": w.app, "client_id": w.app, "iss": w.Issuer(), "aud": payments,
		"scope": "payments:write", "iat": now, "exp": now + 3600,
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if body["expires_in"] != 3600.0 || body["token_type"] != "Bearer" {
		t.Errorf("body: %v", body)
	}
}

func TestTokenRequests(t *testing.T) {
	type outcome struct {
		status      int
		err         string // of RFC 6749
		scope       any
		expires     float64
		description string // part of it
	}
	for name, tc := range map[string]struct {
		version string
		change  func(*world)
		send    func(w *world, secret string) result
		want    outcome
	}{
		"A granted scope": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "scope", "payments:write")
			},
			want: outcome{status: 200, scope: "payments:write", expires: 3600},
		},
		"Scopes that are not granted or unknown are dropped": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "scope", "payments:read nothing payments:write payments:write")
			},
			want: outcome{status: 200, scope: "payments:write", expires: 3600},
		},
		"If none remains, there is no scope": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "scope", "payments:read")
			},
			want: outcome{status: 200, expires: 3600},
		},
		"No scope parameter, no scopes": {
			send: func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments) },
			want: outcome{status: 200, expires: 3600},
		},
		"An application with no role still gets a token": {
			change: func(w *world) { must(w.t, w.UnassignRole(w.role, w.app)) },
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "scope", "payments:write")
			},
			want: outcome{status: 200, expires: 3600},
		},
		"client_secret_post": {
			send: func(w *world, secret string) result {
				return w.token("", "", "client_id", w.app, "client_secret", secret, "resource", payments, "scope", "payments:write")
			},
			want: outcome{status: 200, scope: "payments:write", expires: 3600},
		},
		"Basic and post together": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "client_secret", secret, "resource", payments)
			},
			want: outcome{status: 400, err: "invalid_request"},
		},
		"No client": {
			send: func(w *world, secret string) result { return w.token("", "", "resource", payments) },
			want: outcome{status: 400, err: "invalid_request"},
		},
		"No resource": {
			send: func(w *world, secret string) result { return w.token(w.app, secret) },
			want: outcome{status: 400, err: "invalid_target"},
		},
		"An unknown resource": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", "https://x.example.com")
			},
			want: outcome{status: 400, err: "invalid_target"},
		},
		"A trailing slash": {
			send: func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments+"/") },
			want: outcome{status: 400, err: "invalid_target"},
		},
		"Two resources": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "resource", logto.ManagementAPI)
			},
			want: outcome{status: 400, err: "invalid_target"},
		},
		"An indicator that is not a URI": {
			change: func(w *world) { w.do("POST", "/api/resources", object{"name": "x", "indicator": "not a uri"}) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", "not a uri") },
			want:   outcome{status: 400, err: "invalid_target"},
		},
		"An indicator with a fragment": {
			change: func(w *world) { w.do("POST", "/api/resources", object{"name": "x", "indicator": "https://x#y"}) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", "https://x#y") },
			want:   outcome{status: 400, err: "invalid_target"},
		},
		"An audience parameter is ignored": {
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "audience", "x", "resource", payments)
			},
			want: outcome{status: 200, expires: 3600},
		},
		"A wrong secret": {
			send: func(w *world, _ string) result { return w.token(w.app, "wrong", "resource", payments) },
			want: outcome{status: 401, err: "invalid_client"},
		},
		"A deleted secret": {
			change: func(w *world) { w.do("DELETE", w.at("applications", w.app, "secrets", "Default%20secret"), nil) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments) },
			want:   outcome{status: 401, err: "invalid_client"},
		},
		"A deleted application": {
			change: func(w *world) { w.do("DELETE", w.at("applications", w.app), nil) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments) },
			want:   outcome{status: 400, err: "invalid_client"},
		},
		"A second secret beside the first": {
			send: func(w *world, _ string) result {
				value, err := w.AddSecret(w.app, "second", w.clock.now().Add(time.Hour))
				must(w.t, err)
				return w.token(w.app, value, "resource", payments)
			},
			want: outcome{status: 200, expires: 3600},
		},
		"An expired secret": {
			send: func(w *world, _ string) result {
				value, err := w.AddSecret(w.app, "second", w.clock.now().Add(time.Hour))
				must(w.t, err)
				w.clock.advance(time.Hour)
				return w.token(w.app, value, "resource", payments)
			},
			want: outcome{status: 400, err: "invalid_request", description: "client secret has expired"},
		},
		"A client assertion": {
			send: func(w *world, _ string) result {
				return w.token("", "", "client_id", w.app, "client_assertion", "x", "client_assertion_type", "y", "resource", payments)
			},
			want: outcome{status: 401, err: "invalid_client"},
		},
		"A lifetime of 0": {
			change: func(w *world) { must(w.t, w.SetResourceTTL(payments, 0)) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments) },
			want:   outcome{status: 200, expires: 600},
		},
		"A negative lifetime": {
			change: func(w *world) { must(w.t, w.SetResourceTTL(payments, -5)) },
			send:   func(w *world, secret string) result { return w.token(w.app, secret, "resource", payments) },
			want:   outcome{status: 200, expires: -5},
		},
		"A revoked scope is missing in the next token": {
			change: func(w *world) { must(w.t, w.RevokeScope(w.role, payments, "payments:write")) },
			send: func(w *world, secret string) result {
				return w.token(w.app, secret, "resource", payments, "scope", "payments:write")
			},
			want: outcome{status: 200, expires: 3600},
		},
		"Not a member of the organization": {
			send: func(w *world, secret string) result { return w.token(w.app, secret, "organization_id", "org") },
			want: outcome{status: 403, err: "access_denied"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, secret := newGranted(t)
			if tc.change != nil {
				tc.change(w)
			}
			got := tc.send(w, secret)
			body := got.object()
			code, _ := body["error"].(string)
			description, _ := body["error_description"].(string)
			expires, _ := body["expires_in"].(float64)
			if !strings.Contains(description, tc.want.description) {
				t.Errorf("error_description %q, want %q in it", description, tc.want.description)
			}
			tc.want.description = ""
			if diff := cmp.Diff(tc.want, outcome{got.status, code, body["scope"], expires, ""}, cmp.AllowUnexported(outcome{})); diff != "" {
				t.Errorf("(-want +got):\n%s%s", diff, got.raw)
			}
			if tc.want.err != "" {
				wantKeys(t, body, "code", "message", "error", "error_description")
				if body["code"] != "oidc."+tc.want.err {
					t.Errorf("code %v", body["code"])
				}
			} else {
				_, claims := w.verify(body["access_token"].(string))
				if claims["aud"] != payments || claims["scope"] != tc.want.scope ||
					claims["exp"].(float64)-claims["iat"].(float64) != tc.want.expires {
					t.Errorf("claims: %v", claims)
				}
			}
			w.wantNoViolations()
		})
	}
}

func TestOrganizationTokens(t *testing.T) {
	w, secret := newGranted(t)
	must(t, w.JoinOrganization("org", w.app))
	_, claims := w.verify(w.token(w.app, secret, "organization_id", "org").member("access_token").(string))
	if claims["aud"] != "urn:logto:organization:org" || claims["organization_id"] != nil {
		t.Errorf("without a resource: %v", claims)
	}
	_, claims = w.verify(w.token(w.app, secret, "organization_id", "org", "resource", payments).member("access_token").(string))
	if claims["aud"] != payments || claims["organization_id"] != "org" {
		t.Errorf("with a resource: %v", claims)
	}
	w.wantNoViolations()
}

func TestTheManagementAPINeedsItsToken(t *testing.T) {
	list := func(w *world, header string) result {
		w.t.Helper()
		r := w.request("GET", "/api/roles", "")
		r.Header.Set("Authorization", header)
		if header == "" {
			r.Header.Del("Authorization")
		}
		got, err := w.send(r)
		must(w.t, err)
		return got
	}
	own := func(w *world, pairs ...string) string {
		token, _ := w.token(w.ManagementClientID(), w.ManagementClientSecret(), pairs...).member("access_token").(string)
		return "Bearer " + token
	}
	for name, tc := range map[string]struct {
		header func(*world) string
		status int
		code   string
		echo   bool
	}{
		"none":          {func(*world) string { return "" }, 401, "auth.authorization_header_missing", false},
		"Basic":         {func(*world) string { return "Basic eDp5" }, 401, "auth.authorization_token_type_not_supported", false},
		"not a token":   {func(*world) string { return "Bearer x" }, 401, "auth.unauthorized", false},
		"without scope": {func(w *world) string { return own(w, "resource", logto.ManagementAPI) }, 403, "auth.forbidden", false},
		"of an application without the role": {func(w *world) string {
			secret := w.SecretValue(w.app, "Default secret")
			token := w.token(w.app, secret, "resource", logto.ManagementAPI, "scope", "all").member("access_token").(string)
			return "Bearer " + token
		}, 403, "auth.forbidden", false},
		"for another API": {func(w *world) string { return own(w, "resource", payments) }, 401, "auth.unauthorized", true},
		"expired": {func(w *world) string {
			w.clock.advance(time.Hour)
			return "Bearer " + w.bearer
		}, 401, "auth.unauthorized", true},
		"of another server": {func(w *world) string {
			return "Bearer " + setUp(w.t, logto.WithEndpoint("https://other.example.com")).bearer
		}, 401, "auth.unauthorized", true},
		"signed with a key that is gone": {func(w *world) string {
			w.RotateKeys(logto.Rotation{})
			w.RotateKeys(logto.Rotation{})
			return "Bearer " + w.bearer
		}, 401, "auth.unauthorized", true},
		"signed with the previous key": {func(w *world) string {
			w.RotateKeys(logto.Rotation{})
			return "Bearer " + w.bearer
		}, 200, "", false},
		"right": {func(w *world) string { return own(w, "resource", logto.ManagementAPI, "scope", "all") }, 200, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			got := list(w, tc.header(w))
			if got.status != tc.status || got.code() != tc.code {
				t.Errorf("got %d %s, want %d %s", got.status, got.raw, tc.status, tc.code)
			}
			if echoed := strings.Contains(got.raw, `"client_id"`); echoed != tc.echo {
				t.Errorf("the claims are echoed: %v, want %v: %s", echoed, tc.echo, got.raw)
			}
			w.wantNoViolations()
		})
	}
}

func TestKeyRotation(t *testing.T) {
	ids := func(w *world) (ids []string) {
		for _, k := range w.keys().Keys {
			ids = append(ids, k.KeyID)
		}
		return ids
	}
	signer := func(w *world) string {
		token := w.token(w.ManagementClientID(), w.ManagementClientSecret(), "resource", logto.ManagementAPI).member("access_token")
		header, _ := w.verify(token.(string))
		return header.KeyID
	}
	rotate := func(w *world, body object) {
		w.t.Helper()
		if got := w.do("POST", "/api/configs/oidc/private-keys/rotate", body); got.status != http.StatusOK {
			w.t.Fatalf("rotate: %d %s", got.status, got.raw)
		}
	}
	t.Run("The answer lists the keys", func(t *testing.T) {
		w := newWorld(t)
		first := signer(w)
		got := w.do("POST", "/api/configs/oidc/private-keys/rotate", object{})
		for _, want := range []string{`"status":"Current"`, `"id":"` + first + `","status":"Previous"`, `"effectiveAt":`} {
			if !strings.Contains(got.raw, want) {
				t.Errorf("the answer lacks %s: %s", want, got.raw)
			}
		}
	})
	t.Run("A management token of a key that was dropped", func(t *testing.T) {
		w := newWorld(t)
		token := w.token(w.ManagementClientID(), w.ManagementClientSecret(), "resource", logto.ManagementAPI, "scope", "all").member("access_token").(string)
		w.RotateKeys(logto.Rotation{})
		w.RotateKeys(logto.Rotation{})
		r := httptest.NewRequest(http.MethodGet, w.Endpoint()+"/api/applications", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		r.RequestURI = ""
		resp, err := w.Transport().RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), "ERR_JWKS_NO_MATCHING_KEY") {
			t.Errorf("answered with %d %s", resp.StatusCode, body)
		}
	})
	t.Run("The new key signs at once, and one previous key is kept", func(t *testing.T) {
		w := newWorld(t)
		first := signer(w)
		rotate(w, object{})
		second := signer(w)
		if diff := cmp.Diff([]string{second, first}, ids(w)); diff != "" || first == second {
			t.Errorf("after one rotation (-want +got):\n%s", diff)
		}
		rotate(w, object{})
		if diff := cmp.Diff([]string{signer(w), second}, ids(w)); diff != "" {
			t.Errorf("after two (-want +got):\n%s", diff)
		}
		w.wantNoViolations()
	})
	t.Run("With a grace period the next key is published first", func(t *testing.T) {
		w := newWorld(t)
		first := signer(w)
		rotate(w, object{"rotationGracePeriod": 60})
		published := ids(w)
		w.clock.advance(59 * time.Second)
		if len(published) != 2 || published[1] != first || signer(w) != first {
			t.Errorf("published %q, signing %s, first %s", published, signer(w), first)
		}
		w.clock.advance(time.Second)
		if diff := cmp.Diff(published, ids(w)); diff != "" || signer(w) != published[0] {
			t.Errorf("after the period %s signs (-want +got):\n%s", signer(w), diff)
		}
		w.wantNoViolations()
	})
	t.Run("In 1.37 a rotation shows after a restart", func(t *testing.T) {
		w := newWorld(t, logto.WithVersion("1.37"))
		first := signer(w)
		rotate(w, object{})
		if diff := cmp.Diff([]string{first}, ids(w)); diff != "" {
			t.Errorf("before the restart (-want +got):\n%s", diff)
		}
		w.Restart()
		if diff := cmp.Diff([]string{signer(w), first}, ids(w)); diff != "" {
			t.Errorf("after the restart (-want +got):\n%s", diff)
		}
		w.wantNoViolations()
	})
	t.Run("EC keys carry alg, RSA keys do not", func(t *testing.T) {
		w := newWorld(t)
		w.RotateKeys(logto.Rotation{RSA: true})
		token := w.token(w.ManagementClientID(), w.ManagementClientSecret(), "resource", logto.ManagementAPI).member("access_token")
		if header, _ := w.verify(token.(string)); header.Algorithm != "RS256" {
			t.Errorf("signed by %s", header.Algorithm)
		}
		keys := w.keys().Keys
		if keys[0].Algorithm != "" || keys[1].Algorithm != "ES384" {
			t.Errorf("algorithms %q and %q", keys[0].Algorithm, keys[1].Algorithm)
		}
	})
}

func TestJWKSAndDiscovery(t *testing.T) {
	w := newWorld(t)
	got := w.do("GET", "/oidc/jwks", nil)
	etag := got.header.Get("ETag")
	if got.header.Get("Cache-Control") != "no-cache" || etag == "" {
		t.Errorf("headers: %v", got.header)
	}
	r := w.request("GET", "/oidc/jwks", "")
	r.Header.Set("If-None-Match", etag)
	again, err := w.send(r)
	must(t, err)
	if again.status != http.StatusNotModified || again.raw != "" {
		t.Errorf("with the ETag: %d %q", again.status, again.raw)
	}

	r = w.request("GET", "/oidc/.well-known/openid-configuration", "")
	r.Host = "elsewhere.example.com"
	got, err = w.send(r)
	must(t, err)
	if got.member("issuer") != w.Issuer() || got.member("token_endpoint") != "https://elsewhere.example.com/oidc/token" ||
		got.member("jwks_uri") != "https://elsewhere.example.com/oidc/jwks" {
		t.Errorf("discovery: %s", got.raw)
	}
	if !strings.Contains(got.raw, "private_key_jwt") {
		t.Error("discovery does not list private_key_jwt")
	}
	for version, want := range map[string]int{"1.42": 200, "1.37": 404} {
		w := newWorld(t, logto.WithVersion(version))
		if got := w.do("GET", "/oidc/.well-known/oauth-authorization-server", nil); got.status != want {
			t.Errorf("%s: RFC 8414 metadata: %d, want %d", version, got.status, want)
		}
		for _, path := range []string{"/.well-known/oauth-authorization-server/oidc", "/.well-known/openid-configuration/oidc"} {
			if got := w.do("GET", path, nil); got.status != 404 || got.raw != "Not Found" {
				t.Errorf("%s: %s: %d %q", version, path, got.status, got.raw)
			}
		}
		w.wantNoViolations()
	}
	w.wantNoViolations()
}
