// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve starts a server on loopback that ends with the test.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// wantError fails unless err is an *Error of that reason and, with HOST standing
// for the server's URL, that message.
func wantError(t *testing.T, err error, server *httptest.Server, reason, message string) Error {
	t.Helper()
	var got *Error
	if !errors.As(err, &got) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	if server != nil {
		message = strings.ReplaceAll(message, "HOST", server.URL)
	}
	if got.Reason != reason || got.Error() != message {
		t.Errorf("got %s: %s\nwant %s: %s", got.Reason, got.Message, reason, message)
	}
	return *got
}

const (
	oidcPath  = "/oidc/.well-known/openid-configuration"
	oauthPath = "/.well-known/oauth-authorization-server/oidc"
)

func TestDiscover(t *testing.T) {
	type answer struct {
		status int
		body   string // HOST stands for the server's URL
		retry  string
	}
	document := `{"issuer":"HOST/oidc","token_endpoint":"HOST/oidc/token","jwks_uri":"HOST/oidc/jwks"}`
	for name, tc := range map[string]struct {
		answers map[string]answer // by path; others are 404
		want    string            // the path that the metadata came from
		reason  string
		message string
		retry   time.Duration
		asked   int
	}{
		"OpenID Connect Discovery": {
			answers: map[string]answer{oidcPath: {body: document}}, want: oidcPath, asked: 1,
		},
		"RFC 8414": {
			answers: map[string]answer{oauthPath: {body: document}}, want: oauthPath, asked: 2,
		},
		"RFC 8414 where the other speaks for another issuer": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST"}`}, oauthPath: {body: document}}, want: oauthPath, asked: 2,
		},
		"RFC 8414 where the other is broken": {
			answers: map[string]answer{oidcPath: {status: 500}, oauthPath: {body: document}}, want: oauthPath, asked: 2,
		},
		"neither": {
			reason: BadStatus, message: "HOST" + oidcPath + " answered with status 404", asked: 2,
		},
		"another issuer": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST/oidc/"}`}}, asked: 2,
			reason: IssuerMismatch, message: `HOST` + oidcPath + ` names the issuer "HOST/oidc/", not "HOST/oidc"`,
		},
		"another issuer tells more than a malformed document": {
			answers: map[string]answer{oidcPath: {body: `<html>`}, oauthPath: {body: `{"issuer":"x\u0007"}`}}, asked: 2,
			reason: IssuerMismatch, message: `HOST` + oauthPath + ` names the issuer "x\a", not "HOST/oidc"`,
		},
		"a malformed document tells more than a status": {
			answers: map[string]answer{oidcPath: {status: 503, retry: "7"}, oauthPath: {body: `[]`}}, asked: 2,
			reason: Malformed, message: `HOST` + oauthPath + ` is not a JSON object, or has a duplicate member`, retry: 7 * time.Second,
		},
		"a status tells more than a 404": {
			answers: map[string]answer{oauthPath: {status: 503, retry: "7"}}, asked: 2,
			reason: BadStatus, message: `HOST` + oauthPath + ` answered with status 503`, retry: 7 * time.Second,
		},
		"of two alike the first": {
			answers: map[string]answer{oidcPath: {status: 500}, oauthPath: {status: 503}}, asked: 2,
			reason: BadStatus, message: `HOST` + oidcPath + ` answered with status 500`,
		},
		"a redirect": {
			answers: map[string]answer{oidcPath: {status: 302}, oauthPath: {status: 308}}, asked: 2,
			reason: BadStatus, message: `HOST` + oidcPath + ` answered with a redirect, which is not followed`,
		},
		"no issuer": {
			answers: map[string]answer{oidcPath: {body: `{"Issuer":"HOST/oidc"}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` names no issuer`,
		},
		"an issuer that is a list": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":["HOST/oidc"]}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` names no issuer`,
		},
		"an issuer twice": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST/oidc","issuer":"HOST/oidc"}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` is not a JSON object, or has a duplicate member`,
		},
		"a token endpoint that is a path": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST/oidc","token_endpoint":"/token","jwks_uri":"/jwks"}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` has a token_endpoint that is not an absolute http or https URL`,
		},
		"a token endpoint that is a number": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST/oidc","token_endpoint":7}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` has a token_endpoint that is not an absolute http or https URL`,
		},
		"a key set in a file": {
			answers: map[string]answer{oidcPath: {body: `{"issuer":"HOST/oidc","jwks_uri":"file:///etc/passwd"}`}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` has a jwks_uri that is not an absolute http or https URL`,
		},
		"a document beyond measure": {
			answers: map[string]answer{oidcPath: {body: strings.Repeat(" ", 1<<20) + document}}, asked: 2,
			reason: Malformed, message: `HOST` + oidcPath + ` answered with more than 524288 bytes`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			var server *httptest.Server
			server = serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				a, there := tc.answers[r.URL.Path]
				if !there {
					a.status = http.StatusNotFound
				}
				if a.status/100 == 3 {
					w.Header().Set("Location", "/elsewhere")
				}
				if a.retry != "" {
					w.Header().Set("Retry-After", a.retry)
				}
				if a.status != 0 {
					w.WriteHeader(a.status)
				}
				_, _ = fmt.Fprint(w, strings.ReplaceAll(a.body, "HOST", server.URL))
			})
			got, err := Discover(t.Context(), server.Client(), server.URL+"/oidc")
			if asked != tc.asked {
				t.Errorf("asked %d times, want %d", asked, tc.asked)
			}
			if tc.reason != "" {
				e := wantError(t, err, server, tc.reason, tc.message)
				if e.RetryAfter != tc.retry {
					t.Errorf("got RetryAfter %s, want %s", e.RetryAfter, tc.retry)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := &Metadata{
				Issuer: server.URL + "/oidc", TokenEndpoint: server.URL + "/oidc/token", JWKSURI: server.URL + "/oidc/jwks",
				Source: server.URL + tc.want,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDiscoverBuildsBothPaths(t *testing.T) {
	for name, tc := range map[string]struct {
		path string
		want []string
	}{
		"no path":        {"", []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		"a slash":        {"/", []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		"a path":         {"/a/b", []string{"/a/b/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a/b"}},
		"a slash at end": {"/a/", []string{"/a/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a"}},
		"escapes":        {"/a%2Fb%20c", []string{"/a%2Fb%20c/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a%2Fb%20c"}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.EscapedPath())
				w.WriteHeader(http.StatusNotFound)
			})
			_, err := Discover(t.Context(), server.Client(), server.URL+tc.path)
			if diff := cmp.Diff(tc.want, asked); diff != "" || err == nil {
				t.Error(diff, err)
			}
			server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL + tc.path})
			})
			if m, err := Discover(t.Context(), server.Client(), server.URL+tc.path); err != nil || m.TokenEndpoint+m.JWKSURI != "" {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

func TestDiscoverAsksNothingOfWhatIsNoIssuer(t *testing.T) {
	for name, issuer := range map[string]string{
		"nothing":      "",
		"a path":       "/oidc",
		"a bare host":  "auth.example.com",
		"another kind": "ftp://auth.example.com",
		"no host":      "https://:443/",
		"a user":       "https://user:pass@auth.example.com",
		"a query":      "https://auth.example.com?a=b",
		"a bare query": "https://auth.example.com?",
		"a fragment":   "https://auth.example.com#",
		"no URL":       "https://auth.example.com/%zz",
		"a novel":      "https://auth.example.com/" + strings.Repeat("a", 3000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Discover(t.Context(), nil, issuer)
			e := wantError(t, err, nil, Refused, "issuer "+quote(issuer)+" is not an absolute http or https URL without query and fragment")
			if len(e.Message) > 400 {
				t.Errorf("message of %d bytes", len(e.Message))
			}
		})
	}
	_, err := Discover(t.Context(), http.DefaultClient, "https://auth.example.com/"+strings.Repeat("a", 2020))
	wantError(t, err, nil, Refused, "discovery URL is longer than 2048 bytes")
}

func TestDiscoverDoesNotAskTwiceOfOneThatIsGone(t *testing.T) {
	var asked atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	})
	_, err := Discover(t.Context(), server.Client(), server.URL)
	wantError(t, err, server, Unreachable, "HOST/.well-known/openid-configuration closed the connection before its answer was complete")
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Discover(ctx, server.Client(), server.URL)
	wantError(t, err, server, Unreachable, "HOST/.well-known/openid-configuration did not answer before the request was cancelled")
}

func TestMetadataListsAreBoundedAndLenient(t *testing.T) {
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprint("s", i))
	}
	scopes, err := json.Marshal(append([]string{"", "bell\a", strings.Repeat("x", 201)}, many...))
	if err != nil {
		t.Fatal(err)
	}
	got, failed := parseMetadata([]byte(`{"issuer":"i","grant_types_supported":"client_credentials",
		"token_endpoint_auth_methods_supported":["private_key_jwt"],"scopes_supported":`+string(scopes)+`}`), "i")
	if failed != nil {
		t.Fatal(failed)
	}
	want := &Metadata{Issuer: "i", TokenEndpointAuthMethods: []string{"private_key_jwt"}, ScopesSupported: many[:100]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRegistrationEndpointConcernsOnlyThoseWhoRegister(t *testing.T) {
	for name, tc := range map[string]struct{ member, want string }{
		"one":                 {`,"registration_endpoint":"https://as.example.com/reg"`, "https://as.example.com/reg"},
		"none":                {``, ""},
		"a path":              {`,"registration_endpoint":"/reg"`, ""},
		"a number":            {`,"registration_endpoint":7`, ""},
		"null":                {`,"registration_endpoint":null`, ""},
		"one with a password": {`,"registration_endpoint":"https://me:pw@as.example.com/reg"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, failed := parseMetadata([]byte(`{"issuer":"i","token_endpoint":"https://as.example.com/token"`+tc.member+`}`), "i")
			if failed != nil {
				t.Fatal(failed)
			}
			want := &Metadata{Issuer: "i", TokenEndpoint: "https://as.example.com/token", RegistrationEndpoint: tc.want}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
