// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func TestCall(t *testing.T) {
	for name, tc := range map[string]struct {
		config func(c *management.Config)
		fault  func(r *http.Request) logtotest.Fault
		want   provision.ErrorKind
		words  []string
		after  time.Duration
	}{
		"all is well":                        {},
		"the endpoint ends in a slash":       {config: func(c *management.Config) { c.Endpoint += "/" }},
		"the secret is wrong":                {config: func(c *management.Config) { c.ClientSecret = sentinel }, want: provision.Refused, words: []string{"invalid_client", "401"}},
		"the client is unknown":              {config: func(c *management.Config) { c.ClientID = "nobody" }, want: provision.Refused, words: []string{"invalid_client", "400"}},
		"the secret is missing":              {config: func(c *management.Config) { c.ClientSecret = "" }, want: provision.Refused, words: []string{"secret is empty"}},
		"the Management API is another":      {config: func(c *management.Config) { c.ManagementAPI = "https://x.logto.app/api" }, want: provision.Refused, words: []string{"invalid_target", "identifier of the Management API"}},
		"nobody listens":                     {config: func(c *management.Config) { c.Endpoint = "https://nobody.example.com" }, want: provision.Unavailable, words: []string{"check the endpoint"}},
		"the server is down":                 {fault: answer("", 500, "", nil), want: provision.Unavailable},
		"the API is down":                    {fault: answer("/api/", 500, "", nil), want: provision.Unavailable, words: []string{"status 500"}},
		"the API waited for the request":     {fault: answer("/api/", 408, "", nil), want: provision.Unavailable, words: []string{"status 408"}},
		"too many requests":                  {fault: answer("/api/", 429, "", http.Header{"Retry-After": {"7"}}), want: provision.Unavailable, after: 7 * time.Second},
		"too many requests until a date":     {fault: answer("/api/", 503, "", http.Header{"Retry-After": {"Sun, 01 Mar 2026 12:00:09 GMT"}}), want: provision.Unavailable, after: 9 * time.Second},
		"too many requests for years":        {fault: answer("/api/", 429, "", http.Header{"Retry-After": {"99999999999999"}}), want: provision.Unavailable, after: time.Hour},
		"too many requests for tokens":       {fault: answer("/oidc/token", 429, "", http.Header{"Retry-After": {"7"}}), want: provision.Unavailable, after: 7 * time.Second},
		"the token is not taken":             {fault: answer("/api/", 401, `{"code":"auth.unauthorized","message":"`+sentinel+`"}`, nil), want: provision.Refused, words: []string{"auth.unauthorized"}},
		"the API forbids":                    {fault: answer("/api/", 403, `{"code":"auth.forbidden","message":"`+sentinel+`"}`, nil), want: provision.Refused, words: []string{"auth.forbidden", "Logto Management API access"}},
		"a proxy forbids":                    {fault: answer("/api/", 403, "<html>"+sentinel, nil), want: provision.Refused, words: []string{"status 403", "Logto Management API access"}},
		"the plan is used up":                {fault: answer("/api/", 403, `{"code":"subscription.limit_exceeded"}`, nil), want: provision.Refused, words: []string{"subscription.limit_exceeded"}},
		"the code is an echo":                {fault: answer("/api/", 400, `{"code":"`+sentinel+`.value"}`, nil), want: provision.Refused, words: []string{"status 400"}},
		"the code is as long as may be":      {fault: answer("/api/", 400, `{"code":"`+word(64)+`"}`, nil), want: provision.Refused, words: []string{word(64) + " (HTTP 400)"}},
		"the code is too long":               {fault: answer("/api/", 400, `{"code":"`+word(65)+`"}`, nil), want: provision.Refused, words: []string{"status 400"}},
		"the code is no text":                {fault: answer("/api/", 400, `{"code":{"a":"`+sentinel+`"}}`, nil), want: provision.Refused, words: []string{"status 400"}},
		"the endpoint redirects":             {fault: answer("/api/", 302, "", http.Header{"Location": {"https://evil.example.com/" + sentinel}}), want: provision.Refused, words: []string{"redirect"}},
		"the token endpoint redirects":       {fault: answer("/oidc/token", 307, "", http.Header{"Location": {"https://evil.example.com"}}), want: provision.Refused, words: []string{"status 307, a redirect", "check the endpoint"}},
		"the token endpoint is not there":    {fault: answer("/oidc/token", 404, sentinel, nil), want: provision.Refused, words: []string{"404", "check the endpoint"}},
		"the endpoint is the issuer":         {config: func(c *management.Config) { c.Endpoint += "/oidc" }, want: provision.Refused, words: []string{"invalid_request (HTTP 404)", "check the endpoint"}},
		"the endpoint is the API":            {config: func(c *management.Config) { c.Endpoint += "/api" }, fault: answer("/oidc/token", 404, "Not Found", nil), want: provision.Refused, words: []string{"404", "check the endpoint"}},
		"the endpoint is a console":          {fault: answer("/oidc/token", 200, "<html>"+sentinel, nil), want: provision.Unavailable, words: []string{"status 200: answer is not JSON", "check the endpoint"}},
		"the API is not there":               {fault: answer("/api/", 404, "<html>"+sentinel, nil), want: provision.Unavailable, words: []string{"check the endpoint"}},
		"the body is another":                {fault: answer("/api/", 200, `{"secret":"`+sentinel+`"}`, nil), want: provision.Unavailable, words: []string{"not one of Logto"}},
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
			err := read(t.Context(), management.New(c))
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

// word returns a code of n bytes.
func word(n int) string { return "a." + strings.Repeat("b", n-2) }

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
		if err := read(ctx, w.api); !errors.Is(err, context.Canceled) || provision.KindOf(err) != "" {
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
	w.wantError(read(t.Context(), management.New(c)), provision.Refused, "that address is not allowed")
}
