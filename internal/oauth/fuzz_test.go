// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func FuzzTokenResponse(f *testing.F) {
	const sentinel = "S3ntinel-Secret-0123456789"
	for _, body := range []string{
		"", "{}", "null", `{"access_token":"t","token_type":"Bearer","expires_in":3600,"scope":"a b"}`,
		`{"access_token":"t","expires_in":"1e400"}`, `{"error":"invalid_client","error_description":"got ` + sentinel + `"}`,
		`{"error":"` + sentinel + `"}`, `{"access_token":"t","token_type":"` + sentinel + `"}`, "access_token=t&expires_in=9&scope=a",
		`{"error":"x","error_description":"S3ntinel-\u0000Secret-0123456789"}`, "<html>" + sentinel,
	} {
		for _, status := range []int{200, 302, 400, 401, 429, 503} {
			f.Add(status, "application/json", "7", []byte(body))
			f.Add(status, "text/plain", now.Format(http.TimeFormat), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, contentType, retry string, body []byte) {
		if status < 100 || status > 999 { // net/http reads three digits
			return
		}
		requests := 0
		hc := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			requests++
			return &http.Response{
				StatusCode: status,
				Header:     http.Header{"Content-Type": {contentType}, "Retry-After": {retry}, "Location": {retry}},
				Body:       io.NopCloser(bytes.NewReader(body)),
			}, nil
		})}
		token, err := Exchange(t.Context(), hc, TokenRequest{Endpoint: "https://auth.example.com", Authentication: ClientSecretPost("cart", sentinel), Now: now})
		if requests != 1 {
			t.Errorf("%d requests", requests)
		}
		if err == nil {
			if token.Value == "" || len(token.Value) > maxTokenBytes || strings.ContainsFunc(token.Value, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("token value %q", token.Value)
			}
			if token.Type != "Bearer" || !token.RequestedAt.Equal(now) || token.ExpiresIn < 0 || token.ExpiresIn > maxLifetime || status/100 != 2 {
				t.Errorf("HTTP %d gave %v", status, token)
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) || token != nil {
			t.Fatalf("got %v, %T", token, err)
		}
		if e.Class != ClassRetryable && e.Class != ClassSlowRetry && e.Class != ClassTerminal || e.Status != status || e.RetryAfter < 0 || e.RetryAfter > time.Hour {
			t.Errorf("error %+v", *e)
		}
		text := e.Error()
		if strings.Contains(text, sentinel) {
			t.Errorf("%q holds the secret", text)
		}
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(text) > 700 {
			t.Errorf("%q is not fit to be shown", text)
		}
	})
}
