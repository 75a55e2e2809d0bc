// SPDX-License-Identifier: Apache-2.0

package oidc_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func TestFaults(t *testing.T) {
	type outcome struct {
		Status                         int
		Body, ContentType, Header, Err string
		Issued                         bool
	}
	const ok, mark = "<usual>", "mark"
	usual := outcome{Status: 200, Body: ok, ContentType: "application/json", Issued: true}
	for name, tc := range map[string]struct {
		fault oidc.Fault
		want  outcome
	}{
		"a status":                    {oidc.Fault{Status: 503}, outcome{Status: 503, ContentType: "application/json"}},
		"with a body of another type": {oidc.Fault{Status: 502, Body: "<html>", ContentType: "text/html"}, outcome{Status: 502, Body: "<html>", ContentType: "text/html"}},
		"with a header":               {oidc.Fault{Status: 429, Header: http.Header{mark: {"7"}}}, outcome{Status: 429, ContentType: "application/json", Header: "7"}},
		"a body alone":                {oidc.Fault{Body: "{}"}, outcome{Status: 200, Body: "{}", ContentType: "application/json"}},
		"a header alone":              {oidc.Fault{Header: http.Header{mark: {"7"}}}, outcome{200, ok, "application/json", "7", "", true}},
		"a redirect":                  {oidc.Fault{Redirect: "/elsewhere"}, outcome{Status: 307, ContentType: "application/json"}},
		"a redirect of another kind":  {oidc.Fault{Redirect: "/elsewhere", Status: 302}, outcome{Status: 302, ContentType: "application/json"}},
		"broken JSON":                 {oidc.Fault{Malformed: true}, outcome{Status: 200, Body: `{"access_token":"eyJ`, ContentType: "application/json"}},
		"no body":                     {oidc.Fault{Empty: true}, outcome{Status: 200, ContentType: "application/json"}},
		"another content type":        {oidc.Fault{ContentType: "text/plain"}, outcome{200, ok, "text/plain", "", "", true}},
		"members changed":             {oidc.Fault{Rewrite: func(m map[string]any) { clear(m); m[mark] = 7 }}, outcome{200, `{"mark":7}`, "application/json", "", "", true}},
		"a connection cut":            {oidc.Fault{Cut: true}, outcome{200, "<part>", "application/json", "", "unexpected EOF", true}},
		"nothing but a delay":         {oidc.Fault{Delay: time.Millisecond}, usual},
		"no end":                      {oidc.Fault{Hang: true}, outcome{Err: "context canceled"}},
		"an end to come later":        {oidc.Fault{Delay: time.Hour}, outcome{Err: "context canceled"}},
		"more than one can read":      {oidc.Fault{Huge: true}, outcome{200, "<huge>", "application/json", "", "", true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, oidc.Options{})
			for endpoint, address := range map[oidc.Endpoint]string{
				oidc.Token: s.TokenURL(), oidc.JWKS: s.JWKSURL(),
				oidc.Discovery: s.Issuer() + "/.well-known/openid-configuration",
			} {
				hangs := tc.fault.Hang || tc.fault.Delay > time.Second
				ask := func(hangs bool) (got outcome) {
					ctx, giveUp := context.WithCancel(t.Context())
					defer giveUp()
					if hangs {
						go func() {
							for s.Count(endpoint) == 0 || (endpoint == oidc.Token && len(s.TokenRequests()) == 0) {
								time.Sleep(time.Millisecond)
							}
							time.Sleep(20 * time.Millisecond) // in which it could answer
							giveUp()
						}()
					}
					method, body := http.MethodGet, ""
					if endpoint == oidc.Token {
						method, body = http.MethodPost, form("resource", payments).Encode()
					}
					r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					r.SetBasicAuth("cart%2Bshop%3A1", cart.Secret)
					reply, err := do(r)
					for cause := err; cause != nil; cause = errors.Unwrap(cause) {
						got.Err = cause.Error()
					}
					got.Status, got.Body = reply.status, reply.raw
					got.ContentType, got.Header = reply.header.Get("Content-Type"), reply.header.Get(mark)
					switch {
					case err != nil && got.Body != "" && !strings.HasSuffix(got.Body, "}"):
						got.Body = "<part>"
					case len(got.Body) > 32<<20 && reply.body != nil:
						got.Body = "<huge>"
					case reply.body["token_type"] != nil, reply.body["keys"] != nil, reply.body["issuer"] != nil:
						got.Body = ok
					}
					return got
				}
				s.ResetRequests()
				s.SetFault(endpoint, &tc.fault)
				got := ask(hangs)
				want := tc.want
				want.Issued = false
				if endpoint == oidc.Token {
					seen := s.TokenRequests()[0]
					if issued := seen.TokenHash != ""; issued != tc.want.Issued {
						t.Errorf("a token was issued: %v, want %v", issued, tc.want.Issued)
					}
					if seen.Status != tc.want.Status {
						t.Errorf("recorded status %d, want %d", seen.Status, tc.want.Status)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("endpoint %d (-want +got):\n%s", endpoint, diff)
				}
				s.SetFault(endpoint, nil)
				after := usual
				after.Issued = false
				if diff := cmp.Diff(after, ask(false)); diff != "" {
					t.Errorf("endpoint %d, when it is over (-want +got):\n%s", endpoint, diff)
				}
				if s.Count(endpoint) != 2 {
					t.Errorf("endpoint %d: counted %d requests, want 2", endpoint, s.Count(endpoint))
				}
			}
		})
	}
}

func TestFaultsAreForSomeRequests(t *testing.T) {
	s := start(t, oidc.Options{})
	other := cart
	other.ID = "other"
	set(t, s, other)
	status := func(id, scope string) int {
		return mustRequest(t, s, id, cart.Secret, form("resource", payments, "scope", scope)).status
	}
	s.AddFault(oidc.Token, &oidc.Fault{Status: 501, Times: 2, ClientID: "other"})
	s.AddFault(oidc.Token, &oidc.Fault{Status: 502, Match: func(r *http.Request) bool { return r.PostForm.Get("scope") == "" }})
	s.AddFault(oidc.Token, &oidc.Fault{Status: 503, Times: 1})
	got := []int{
		status("other", "payments:write"), status(cart.ID, ""), status(cart.ID, "payments:write"), status("other", ""),
		status("other", ""), status("other", "payments:write"), status(cart.ID, "payments:write"),
	}
	if diff := cmp.Diff([]int{501, 502, 503, 501, 502, 200, 200}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.ClearFaults()
	if got := status(cart.ID, ""); got != 200 {
		t.Errorf("cleared: answered %d", got)
	}
}

func TestClaimsOnOrderAreSignedWithTheRightKey(t *testing.T) {
	s := start(t, oidc.Options{})
	s.SetFault(oidc.Token, &oidc.Fault{Claims: func(c map[string]any) { c["aud"] = "https://evil.example.com"; delete(c, "exp") }})
	reply := asCart(t, s)
	_, claims := mustVerify(t, s, reply.token())
	if claims["aud"] != "https://evil.example.com" || claims["exp"] != nil || claims["iss"] != s.Issuer() {
		t.Errorf("claims are %v", claims)
	}
	if got := s.TokenRequests()[0]; got.TokenHash != oidc.Hash(reply.token()) || got.TokenID != claims["jti"] {
		t.Errorf("recorded %+v", got)
	}
	s.SetFault(oidc.Token, &oidc.Fault{Claims: func(c map[string]any) { c["bad"] = func() {} }})
	if reply := asCart(t, s); reply.status != http.StatusInternalServerError || reply.token() != "" {
		t.Errorf("claims that are not JSON: answered %d, %s", reply.status, reply.raw)
	}
	s.SetFault(oidc.Token, &oidc.Fault{Rewrite: func(m map[string]any) { m["bad"] = func() {} }})
	if reply := asCart(t, s); reply.status != http.StatusInternalServerError {
		t.Errorf("members that are not JSON: answered %d", reply.status)
	}
}

func TestRewrittenJWKSHasATagOfItsOwn(t *testing.T) {
	s := start(t, oidc.Options{})
	before := get(t, s.JWKSURL())
	s.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
		m["keys"] = append(m["keys"].([]any), map[string]any{"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0"})
	}})
	after := get(t, s.JWKSURL(), "If-None-Match", before.header.Get("ETag"))
	if after.status != http.StatusOK || !strings.Contains(after.raw, "symmetric") {
		t.Errorf("answered %d: %s", after.status, after.raw)
	}
}

func TestCloseLetsGoOfWhatHangs(t *testing.T) {
	s := start(t, oidc.Options{})
	s.SetFault(oidc.Token, &oidc.Fault{Hang: true})
	var done atomic.Bool
	failed := make(chan error)
	go func() {
		_, err := request(s, cart.ID, cart.Secret, form())
		done.Store(true)
		failed <- err
	}()
	for s.Count(oidc.Token) == 0 || len(s.TokenRequests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if got := s.TokenRequests()[0]; got.Status != 0 || got.ClientID != cart.ID || done.Load() {
		t.Errorf("while it hangs, recorded %+v", got)
	}
	s.Close()
	if err := <-failed; !errors.Is(err, io.EOF) {
		t.Errorf("the client got %v", err)
	}
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "oidc.faulty("); {
		if time.Now().After(deadline) {
			t.Fatal("the request still hangs in the server")
		}
		time.Sleep(time.Millisecond)
	}
	s.Close() // once more does no harm
	if _, err := request(s, cart.ID, cart.Secret, form()); err == nil {
		t.Error("a closed server answered")
	}
}

func TestRecord(t *testing.T) {
	s := start(t, oidc.Options{})
	before := time.Now()
	first := asCart(t, s)
	mustRequest(t, s, cart.ID, "guess", form("audience", "a", "scope", "x y"))
	s.SetFault(oidc.Token, &oidc.Fault{Status: 400, Body: `{"error":"invalid_scope"}`})
	mustRequest(t, s, "", "", form())
	got := s.TokenRequests()
	_, claims := mustVerify(t, s, first.token())
	want := []oidc.Request{{
		ClientID: cart.ID, Method: oidc.SecretBasic, CredentialID: oidc.Hash(cart.Secret), GrantType: "client_credentials",
		Resource: payments, Scope: "payments:write", Status: 200, TokenHash: oidc.Hash(first.token()), TokenID: claims["jti"].(string),
	}, {
		ClientID: cart.ID, Method: oidc.SecretBasic, CredentialID: oidc.Hash("guess"), GrantType: "client_credentials",
		Audience: "a", Scope: "x y", Status: 401, Error: "invalid_client",
	}, {
		GrantType: "client_credentials", Status: 400, Error: "invalid_scope",
	}}
	for i := range got {
		if got[i].At.Before(before) || got[i].At.After(time.Now()) || (i > 0 && got[i].At.Before(got[i-1].At)) {
			t.Errorf("request %d arrived at %v", i, got[i].At)
		}
		got[i].At = time.Time{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.ResetRequests()
	if len(s.TokenRequests()) != 0 || s.Count(oidc.Token) != 0 {
		t.Error("the requests are still there")
	}
}
