// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// hang waits until the client gives up, which a server notices once it has read the request's body.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestTransportFailures(t *testing.T) {
	cut := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(body))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	raw := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = c.Write([]byte(answer))
			_ = c.Close()
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   Error
		text   string
	}{
		"a hang":                       {hang, Error{Class: ClassRetryable, Detail: "no answer within 200ms"}, "no answer within 200ms"},
		"a cut before the header":      {raw(""), Error{Class: ClassRetryable, Detail: "connection was closed"}, "no answer: connection was closed"},
		"a header that is not HTTP":    {raw("SSH-2.0-OpenSSH\r\n\r\n"), Error{Class: ClassRetryable, Detail: "connection failed"}, "no answer: connection failed"},
		"a huge header":                {reply(200, `{}`, "X", strings.Repeat("x", 1<<18)), Error{Class: ClassRetryable, Detail: "connection failed"}, ""},
		"a cut in the body":            {func(w http.ResponseWriter, _ *http.Request) { cut(w, `{"access_token":"t"`) }, Error{Class: ClassRetryable, Status: 200, Detail: "answer broke off: connection was closed"}, "HTTP 200: answer broke off: connection was closed"},
		"a cut after the whole object": {func(w http.ResponseWriter, _ *http.Request) { cut(w, `{"access_token":"t"}`) }, Error{Class: ClassRetryable, Status: 200, Detail: "answer broke off: connection was closed"}, ""},
		"a hang in the body": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(401)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, Error{Class: ClassSlowRetry, Status: 401, RetryAfter: 3 * time.Second, Detail: "answer did not end within 200ms"}, "HTTP 401: answer did not end within 200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := exchange(t, tc.answer, 200*time.Millisecond, TokenRequest{})
			got := asError(t, err)
			if diff := cmp.Diff(tc.want, *got, ignoreCause); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tc.text != "" && got.Error() != tc.text {
				t.Errorf("Error() = %q, want %q", got, tc.text)
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	secure := httptest.NewTLSServer(reply(200, `{"access_token":"t"}`))
	defer secure.Close()
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	insecure := httptest.NewServer(reply(200, `{"access_token":"t"}`))
	defer insecure.Close()
	strict, err := egress.Policy{}.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}

	for name, tc := range map[string]struct {
		client   *http.Client
		endpoint string
		want     Error
		text     string
	}{
		"a closed port":         {nil, "http://" + refused.Addr().String(), Error{Class: ClassRetryable, Detail: "connection refused"}, "no answer: connection refused"},
		"an unknown authority":  {nil, secure.URL, Error{Class: ClassSlowRetry, Detail: "TLS certificate is from an unknown authority"}, "no answer: TLS certificate is from an unknown authority"},
		"a server without TLS":  {nil, strings.Replace(insecure.URL, "http:", "https:", 1), Error{Class: ClassRetryable, Detail: "server does not speak TLS"}, ""},
		"http where forbidden":  {strict, "http://auth.example.com", Error{Class: ClassTerminal, Detail: "http:// is not allowed, use https:// (for development the operator's flag --allow-insecure-http permits it)"}, "http:// is not allowed, use https:// (for development the operator's flag --allow-insecure-http permits it)"},
		"a refused address":     {strict, "https://localhost:1", Error{Class: ClassTerminal, Detail: "the host is a loopback or unspecified address, which is not allowed (the operator's flag --allow-loopback permits it)"}, ""},
		"a relative endpoint":   {nil, "/token", Error{Class: ClassTerminal, Detail: "token endpoint: URL is not absolute, it must begin with https://"}, "token endpoint: URL is not absolute, it must begin with https://"},
		"an endpoint with user": {nil, "https://u:" + "pw@auth.example.com", Error{Class: ClassTerminal, Detail: "token endpoint: URL must not contain user information"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.client == nil {
				tc.client = client(t, time.Second)
			}
			req := TokenRequest{Endpoint: tc.endpoint, Authentication: auth, Now: now}
			_, err := Exchange(t.Context(), tc.client, req)
			got := asError(t, err)
			if diff := cmp.Diff(tc.want, *got, ignoreCause); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tc.text != "" && got.Error() != tc.text {
				t.Errorf("Error() = %q, want %q", got, tc.text)
			}
			if _, again := Exchange(t.Context(), tc.client, req); again.Error() != err.Error() {
				t.Errorf("the same failure reads %q, then %q", err, again)
			}
			var blocked *egress.BlockedError
			if errors.As(err, &blocked) != (tc.client == strict) {
				t.Errorf("errors.As finds a BlockedError in %v: %t", err, blocked != nil)
			}
		})
	}
}

func TestEndedByContext(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(hang))
	defer s.Close()
	req := TokenRequest{Endpoint: s.URL, Authentication: auth, Now: now}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Exchange(ctx, client(t, time.Minute), req)
	if e := asError(t, err); !errors.Is(err, context.DeadlineExceeded) || e.Class != ClassRetryable || e.Error() != "no answer before the deadline" {
		t.Errorf("after the deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = Exchange(ctx, client(t, time.Minute), req)
	if e := asError(t, err); !errors.Is(err, context.Canceled) || e.Error() != "no answer: request was cancelled" {
		t.Errorf("after cancelling: %v", err)
	}
}

// Other clients may follow redirects and leave bodies unbounded. Exchange prevents both.
func TestForeignClient(t *testing.T) {
	hits := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		if r.URL.Path == "/huge" {
			reply(200, `{"access_token":"`+strings.Repeat("x", 2*egress.MaxBody)+`"}`)(w, r)
			return
		}
		http.Redirect(w, r, "/huge", http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	_, err := Exchange(t.Context(), &http.Client{}, TokenRequest{Endpoint: s.URL, Authentication: auth, Now: now})
	if e := asError(t, err); e.Class != ClassTerminal || e.Status != 307 || hits != 1 {
		t.Errorf("redirect: %v after %d requests", err, hits)
	}
	_, err = Exchange(t.Context(), &http.Client{}, TokenRequest{Endpoint: s.URL + "/huge", Authentication: auth, Now: now})
	if e := asError(t, err); e.Detail != egress.ErrBodyTooLarge.Error() {
		t.Errorf("huge body: %v", err)
	}
}
