// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func TestManagementAPI(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://auth.example.com":      "https://default.logto.app/api",
		"https://auth.example.com:3001": "https://default.logto.app/api",
		"https://t4x7.logto.app":        "https://t4x7.logto.app/api",
		"https://T4X7.logto.app./":      "https://t4x7.logto.app/api",
		"https://logto.app":             "https://default.logto.app/api",
		"https://logto.app.example.com": "https://default.logto.app/api",
		"::":                            "https://default.logto.app/api",
	} {
		if got := logto.ManagementAPI(endpoint); got != want {
			t.Errorf("of %s it is %s, want %s", endpoint, got, want)
		}
	}
}

// Whoever could ask for tokens of the Management API would own the server.
func TestManagementAPIIsForbidden(t *testing.T) {
	w := newWorld(t)
	for _, identifier := range []string{
		logtotest.ManagementAPI, "https://default.logto.app/api/", "HTTPS://Default.Logto.App/api", "https://default.logto.app:443/api",
		"https://default.logto.app./api", "https://t4x7.logto.app/api", "http://t4x7.logto.app/api//", "https://default.logto.app/%61pi", " https://default.logto.app/api",
	} {
		api := provision.API{Owner: apiOwner, Identifier: identifier, Adopt: true}
		_, err := w.syncAPI(api)
		w.wantError(err, provision.Forbidden)
		api.Observe = true
		_, err = w.syncAPI(api)
		w.wantError(err, provision.Forbidden)
		_, err = w.syncClient(provision.Client{Owner: clientOwner, Access: []provision.Access{
			{Resource: payment, Scopes: []string{"read"}}, {Resource: identifier, Scopes: []string{"all"}},
		}})
		w.wantError(err, provision.Forbidden)
		if err := w.driver.RemoveAPI(t.Context(), api, &w.api, w.keep); err != nil {
			t.Errorf("removal: %v", err)
		}
	}
	if n := w.server.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
	for _, identifier := range []string{"https://default.logto.app/apis", "https://logto.app.example.com/api", "urn:payment", "payment"} {
		if _, err := w.syncAPI(provision.API{Owner: apiOwner, Identifier: identifier}); err != nil {
			t.Errorf("%s: %v", identifier, err)
		}
		w.api = provision.APIState{}
	}
	c := w.config()
	c.ManagementAPI = "https://admin.example.com/api"
	_, err := logto.New(c).SyncAPI(t.Context(), provision.API{Owner: apiOwner, Identifier: "https://ADMIN.example.com/api/"}, &w.api, w.keep)
	w.wantError(err, provision.Forbidden)
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		config func(c *logto.Config)
		fault  func(r *http.Request) logtotest.Fault
		want   provision.ErrorKind
		words  []string
		after  time.Duration
	}{
		"all is well":                        {},
		"the endpoint ends in a slash":       {config: func(c *logto.Config) { c.Endpoint += "/" }},
		"the secret is wrong":                {config: func(c *logto.Config) { c.ClientSecret = sentinel }, want: provision.Refused, words: []string{"invalid_client", "401"}},
		"the client is unknown":              {config: func(c *logto.Config) { c.ClientID = "nobody" }, want: provision.Refused, words: []string{"invalid_client", "400"}},
		"the secret is missing":              {config: func(c *logto.Config) { c.ClientSecret = "" }, want: provision.Refused, words: []string{"secret is empty"}},
		"the Management API is another":      {config: func(c *logto.Config) { c.ManagementAPI = "https://x.logto.app/api" }, want: provision.Refused, words: []string{"invalid_target", "identifier of the Management API"}},
		"nobody listens":                     {config: func(c *logto.Config) { c.Endpoint = "https://nobody.example.com" }, want: provision.Unavailable, words: []string{"check the endpoint"}},
		"the server is down":                 {fault: answer("", 500, "", nil), want: provision.Unavailable},
		"too many requests":                  {fault: answer("/api/", 429, "", http.Header{"Retry-After": {"7"}}), want: provision.Unavailable, after: 7 * time.Second},
		"too many requests until a date":     {fault: answer("/api/", 503, "", http.Header{"Retry-After": {"Sun, 01 Mar 2026 12:00:09 GMT"}}), want: provision.Unavailable, after: 9 * time.Second},
		"too many requests for years":        {fault: answer("/api/", 429, "", http.Header{"Retry-After": {"99999999999999"}}), want: provision.Unavailable, after: time.Hour},
		"too many requests for tokens":       {fault: answer("/oidc/token", 429, "", http.Header{"Retry-After": {"7"}}), want: provision.Unavailable, after: 7 * time.Second},
		"the token is not taken":             {fault: answer("/api/", 401, `{"code":"auth.unauthorized","message":"`+sentinel+`"}`, nil), want: provision.Refused, words: []string{"auth.unauthorized"}},
		"the API forbids":                    {fault: answer("/api/", 403, `{"code":"auth.forbidden","message":"`+sentinel+`"}`, nil), want: provision.Refused, words: []string{"auth.forbidden", "Logto Management API access"}},
		"the plan is used up":                {fault: answer("/api/", 403, `{"code":"subscription.limit_exceeded"}`, nil), want: provision.Refused, words: []string{"subscription.limit_exceeded"}},
		"the code is an echo":                {fault: answer("/api/", 400, `{"code":"`+sentinel+`.value"}`, nil), want: provision.Refused, words: []string{"status 400"}},
		"the code is no text":                {fault: answer("/api/", 400, `{"code":{"a":"`+sentinel+`"}}`, nil), want: provision.Refused, words: []string{"status 400"}},
		"the endpoint redirects":             {fault: answer("/api/", 302, "", http.Header{"Location": {"https://evil.example.com/" + sentinel}}), want: provision.Refused, words: []string{"redirect"}},
		"the token endpoint redirects":       {fault: answer("/oidc/token", 307, "", http.Header{"Location": {"https://evil.example.com"}}), want: provision.Refused, words: []string{"307", "a redirect", "check the endpoint"}},
		"the token endpoint is not there":    {fault: answer("/oidc/token", 404, sentinel, nil), want: provision.Refused, words: []string{"404", "check the endpoint"}},
		"the endpoint is the issuer":         {config: func(c *logto.Config) { c.Endpoint += "/oidc" }, want: provision.Refused, words: []string{"invalid_request (HTTP 404)", "check the endpoint"}},
		"the endpoint is the API":            {config: func(c *logto.Config) { c.Endpoint += "/api" }, fault: answer("/oidc/token", 404, "Not Found", nil), want: provision.Refused, words: []string{"404", "check the endpoint"}},
		"the endpoint is a console":          {fault: answer("/oidc/token", 200, "<html>"+sentinel, nil), want: provision.Unavailable, words: []string{"status 200: answer is not JSON", "check the endpoint"}},
		"the API is not there":               {fault: answer("/api/", 404, "<html>"+sentinel, nil), want: provision.Unavailable, words: []string{"check the endpoint"}},
		"the body is another":                {fault: answer("/api/", 200, `{"secret":"`+sentinel+`"}`, nil), want: provision.Unavailable, words: []string{"not what Logto"}},
		"the body is no JSON":                {fault: answer("/api/", 200, sentinel, nil), want: provision.Unavailable},
		"the body is too large":              {fault: answer("/api/", 200, `["`+strings.Repeat(sentinel, egress.MaxBody/8)+`"]`, nil), want: provision.Unavailable, words: []string{"larger than"}},
		"the connection breaks":              {fault: func(*http.Request) logtotest.Fault { return logtotest.Fault{Drop: true} }, want: provision.Unavailable},
		"the connection breaks at the API":   {fault: onPath("/api/", logtotest.Fault{Drop: true}), want: provision.Unavailable, words: []string{"Logto gave no complete answer: connection was closed"}},
		"the token has not the scope":        {fault: answer("/oidc/token", 200, `{"access_token":"`+sentinel+`","expires_in":3600,"token_type":"Bearer"}`, nil), want: provision.Refused, words: []string{"Logto Management API access"}},
		"the secret of the operator expired": {fault: answer("/oidc/token", 400, `{"error":"invalid_request","error_description":"client secret has expired"}`, nil), want: provision.Refused, words: []string{"invalid_request", "may have expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.config()
			if tc.config != nil {
				tc.config(&c)
			}
			if tc.fault != nil {
				w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault { return tc.fault(r) })
			}
			err := logto.New(c).Check(t.Context())
			if tc.want == "" {
				if err != nil || w.server.Count() != 2 {
					t.Errorf("%v after %d requests", err, w.server.Count())
				}
				return
			}
			w.wantError(err, tc.want, tc.words...)
			var e *provision.Error
			if errors.As(err, &e); e.RetryAfter != tc.after {
				t.Errorf("retry after %s, want %s", e.RetryAfter, tc.after)
			}
		})
	}
}

func onPath(part string, f logtotest.Fault) func(*http.Request) logtotest.Fault {
	return func(r *http.Request) logtotest.Fault {
		if strings.Contains(r.URL.Path, part) {
			return f
		}
		return logtotest.Fault{}
	}
}

func answer(part string, status int, body string, header http.Header) func(*http.Request) logtotest.Fault {
	return onPath(part, logtotest.Fault{Status: status, Body: body, ContentType: "application/json", Header: header})
}

// Every answer repeats everything that was sent and everything that the server knows. None of it comes out.
func TestNoSecretInErrors(t *testing.T) {
	for status := 200; status < 600; status += 100 {
		for _, body := range []string{`{"code":"%s","message":"%s"}`, `{"code":"entity.not_found","id":"%s","data":"%s"}`, `%s %s`, `[{"value":"%s%s"}]`} {
			body := fmt.Sprintf(body, sentinel, sentinel)
			for n := 1; n <= 14; n++ {
				w := newWorld(t)
				if err := withAPI(w); err != nil {
					t.Fatal(err)
				}
				w.restart()
				w.server.ResetRequests()
				w.server.SetFault(func(_ *http.Request, i int) logtotest.Fault {
					if i < n {
						return logtotest.Fault{}
					}
					return logtotest.Fault{Status: status, Body: body, ContentType: "application/json"}
				})
				_, err := w.syncClient(cart("read"))
				if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), sentinel) {
					t.Errorf("status %d from request %d on: %v", status, n, err)
				}
			}
		}
	}
}

func TestContextEndsARequest(t *testing.T) {
	for _, part := range []string{"/oidc/token", "/api/"} {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
			if strings.Contains(r.URL.Path, part) {
				cancel()
				return logtotest.Fault{Drop: true}
			}
			return logtotest.Fault{}
		})
		if err := w.driver.Check(ctx); !errors.Is(err, context.Canceled) || provision.KindOf(err) != "" {
			t.Errorf("%s: %v of kind %q", part, err, provision.KindOf(err))
		}
	}
}

// blocked is a transport that the operator's policy holds back.
type blocked struct{}

func (blocked) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &egress.BlockedError{Reason: "that address is not allowed"}
}

func TestBlockedEndpoint(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.HTTP = &http.Client{Transport: blocked{}}
	w.wantError(logto.New(c).Check(t.Context()), provision.Refused, "that address is not allowed")
}

func TestToken(t *testing.T) {
	w := newWorld(t)
	tokens := func(want int) {
		t.Helper()
		if err := w.driver.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.server.Requests()["POST /oidc/token"]; got != want {
			t.Errorf("%d requests for a token, want %d", got, want)
		}
	}
	tokens(1)
	w.now = w.now.Add(58 * time.Minute)
	tokens(1)
	w.now = w.now.Add(time.Minute) // a minute before it expires
	tokens(2)
	w.fault("GET", "/api/applications", 1, logtotest.Fault{Status: 401, Body: `{"code":"auth.unauthorized"}`, ContentType: "application/json"})
	tokens(3)
	w.fault("GET", "/api/applications", 2, logtotest.Fault{Status: 401})
	w.wantError(w.driver.Check(t.Context()), provision.Refused)
	w.fault("GET", "/api/applications", 1, logtotest.Fault{Status: 403, Body: `{"code":"auth.forbidden"}`, ContentType: "application/json"})
	w.wantError(w.driver.Check(t.Context()), provision.Refused, "Logto Management API access")
	before := w.server.Requests()["POST /oidc/token"]
	tokens(before + 1) // the role may have been given meanwhile
}

// rewriting changes the answers of the double into others that Logto may give.
type rewriting struct {
	base   http.RoundTripper
	change func(r *http.Request, body string) string
}

func (t rewriting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(t.change(r, string(body))))
	return resp, err
}

func (w *world) rewrite(change func(r *http.Request, body string) string) {
	c := w.config()
	c.HTTP = &http.Client{Transport: rewriting{w.server.Transport(), change}}
	w.driver = logto.New(c)
}

func TestApplicationOfAnotherTypeIsNotAdopted(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	want := cart("read")
	want.Adopt = w.server.CreateApplication("The shop", "")
	w.rewrite(func(_ *http.Request, body string) string {
		return strings.ReplaceAll(body, `"type":"MachineToMachine"`, `"type":"Traditional"`)
	})
	_, err := w.syncClient(want)
	w.wantError(err, provision.Refused, "machine-to-machine")
}

// A member that nobody expects in that form does not keep the operator from reading the rest.
func TestOddCustomData(t *testing.T) {
	for _, odd := range []string{`null`, `[]`, `{"m2m-operator":"x"}`, `{"m2m-operator":{"uid":7}}`} {
		w := newWorld(t)
		if err := withClient(w); err != nil {
			t.Fatal(err)
		}
		want := w.onlyApplication()
		if err := w.server.SetCustomData(want.ID, map[string]any{"odd": 1}); err != nil {
			t.Fatal(err)
		}
		w.rewrite(func(_ *http.Request, body string) string { return strings.ReplaceAll(body, `{"odd":1}`, odd) })
		w.mustSyncClient(cart("read"))
		got := w.onlyApplication()
		delete(got.CustomData, "odd") // of others: it stays
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", odd, diff)
		}
	}
}

// The key of the driver's own token is dropped by two quick rotations: it gets
// another token at once, and nobody notices.
func TestManagementTokenOfADroppedKey(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	w.server.RotateKeys(logtotest.Rotation{})
	w.server.RotateKeys(logtotest.Rotation{})
	if drift := w.mustSyncAPI(readWrite(payment)); drift != nil {
		t.Errorf("drift: %q", drift)
	}
}
