// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

func TestFetch(t *testing.T) {
	good := publicJWK(t, edKey(), "k", "")
	keys := parsed(t, good)
	for name, tc := range map[string]struct {
		etag, modified string // sent
		status         int
		header         map[string]string
		body           string
		want           *Fetched
		reason         string
		message        string
		retry          time.Duration
	}{
		"a set with all that goes with it": {
			header: map[string]string{"ETag": `"1"`, "Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT", "Cache-Control": "public, max-age=300"},
			body:   string(set(good, `{"kty":"oct","kid":"s","k":"AA"}`)),
			want: &Fetched{
				Keys: keys, Skipped: []Skipped{{ID: "s", Reason: "is symmetric", OtherUse: true}},
				ETag: `"1"`, LastModified: "Sun, 01 Mar 2026 12:00:00 GMT", MaxAge: 5 * time.Minute,
			},
		},
		"a bare set": {body: string(set(good)), want: &Fetched{Keys: keys}},
		"not modified, with a new validator": {
			etag: `"1"`, status: 304, header: map[string]string{"ETag": `"2"`, "Cache-Control": "max-age=1"},
			want: &Fetched{NotModified: true, ETag: `"2"`, MaxAge: time.Second},
		},
		"not modified, and no more said": {
			etag: `"1"`, modified: "Sun, 01 Mar 2026 12:00:00 GMT", status: 304,
			want: &Fetched{NotModified: true, ETag: `"1"`, LastModified: "Sun, 01 Mar 2026 12:00:00 GMT"},
		},
		"not modified since a date": {
			modified: "Sun, 01 Mar 2026 12:00:00 GMT", status: 304,
			want: &Fetched{NotModified: true, LastModified: "Sun, 01 Mar 2026 12:00:00 GMT"},
		},
		"a validator beyond measure is not kept": {
			header: map[string]string{"ETag": `"` + strings.Repeat("e", 255) + `"`}, body: string(set(good)), want: &Fetched{Keys: keys},
		},
		"a validator of the largest size is kept": {
			header: map[string]string{"ETag": `"` + strings.Repeat("e", 254) + `"`}, body: string(set(good)), want: &Fetched{Keys: keys, ETag: `"` + strings.Repeat("e", 254) + `"`},
		},
		"not modified, though we know nothing": {status: 304, reason: BadStatus, message: "HOST/jwks answered with status 304"},
		"nothing, and that is success":         {status: 204, reason: BadStatus, message: "HOST/jwks answered with status 204"},
		"a redirect": {
			status: 301, header: map[string]string{"Location": "/elsewhere"}, reason: BadStatus,
			message: "HOST/jwks answered with a redirect, which is not followed",
		},
		"too many requests": {
			status: 429, header: map[string]string{"Retry-After": "12"}, body: "secret", reason: BadStatus,
			message: "HOST/jwks answered with status 429", retry: 12 * time.Second,
		},
		"unavailable until a date": {
			status: 503, header: map[string]string{"Date": "Sun, 01 Mar 2026 12:00:00 GMT", "Retry-After": "Sun, 01 Mar 2026 12:01:30 GMT"},
			reason: BadStatus, message: "HOST/jwks answered with status 503", retry: 90 * time.Second,
		},
		"unavailable until a date that has passed": {
			status: 503, header: map[string]string{"Date": "Sun, 01 Mar 2026 12:00:00 GMT", "Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"},
			reason: BadStatus, message: "HOST/jwks answered with status 503",
		},
		"unavailable for ever": {
			status: 503, header: map[string]string{"Retry-After": "99999999999999999999"}, reason: BadStatus,
			message: "HOST/jwks answered with status 503", retry: time.Hour,
		},
		"unavailable for a riddle": {
			status: 503, header: map[string]string{"Retry-After": "-5 soon"}, reason: BadStatus, message: "HOST/jwks answered with status 503",
		},
		"an empty body":  {reason: Malformed, message: `HOST/jwks: key set is not a JSON object with an array "keys"`},
		"HTML":           {body: "<html>secret", reason: Malformed, message: `HOST/jwks: key set is not a JSON object with an array "keys"`},
		"an empty set":   {body: `{"keys":[]}`, reason: NoKeys, message: "HOST/jwks has no keys"},
		"a useless set":  {body: `{"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"}]}`, reason: NoKeys, message: `HOST/jwks has no usable key: the first, "s", is symmetric`},
		"a flood":        {body: `{"keys":[` + strings.Repeat(" ", egress.MaxBody), reason: Malformed, message: "HOST/jwks answered with more than 524288 bytes"},
		"a cut-off body": {header: map[string]string{"Content-Length": "1000"}, body: `{"keys":[]}`, reason: Unreachable, message: "HOST/jwks closed the connection before its answer was complete"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("If-None-Match") != tc.etag || r.Header.Get("If-Modified-Since") != tc.modified || r.URL.RawQuery != "v=1" {
					t.Errorf("asked for %s with %v", r.URL, r.Header)
				}
				for name, value := range tc.header {
					w.Header().Set(name, value)
				}
				if tc.status != 0 {
					w.WriteHeader(tc.status)
				}
				_, _ = fmt.Fprint(w, tc.body)
			})
			got, err := Fetch(t.Context(), server.Client(), server.URL+"/jwks?v=1", tc.etag, tc.modified)
			if tc.reason != "" {
				if e := wantError(t, err, server, tc.reason, tc.message); e.RetryAfter != tc.retry {
					t.Errorf("got RetryAfter %s, want %s", e.RetryAfter, tc.retry)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFetchOfWhatIsNoURL(t *testing.T) {
	_, err := Fetch(t.Context(), http.DefaultClient, "jwks.json", "", "")
	wantError(t, err, nil, Refused, `key set URL "jwks.json" is not an absolute http or https URL`)
}

func TestAURLIsBounded(t *testing.T) {
	longest := "https://auth.example.com/" + strings.Repeat("a", maxURL-len("https://auth.example.com/"))
	for url, want := range map[string]bool{longest: true, longest + "a": false} {
		if _, ok := endpoint(url); ok != want {
			t.Errorf("a URL of %d bytes is an endpoint: %t", len(url), ok)
		}
	}
}

// TestFetchBehindTheFence uses the client that the operator uses.
func TestFetchBehindTheFence(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, strings.Repeat(" ", egress.MaxBody+1))
	})
	strict, err := egress.Policy{AllowHTTP: true}.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Fetch(t.Context(), strict, server.URL, "", "")
	var refused *Error
	if !errors.As(err, &refused) || refused.Reason != Refused || !strings.HasPrefix(refused.Message, server.URL+" was not contacted: ") {
		t.Errorf("got %v", err)
	}
	open, err := egress.Policy{AllowHTTP: true, AllowLoopback: true}.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Fetch(t.Context(), open, server.URL, "", "")
	wantError(t, err, server, Malformed, "HOST answered with more than 524288 bytes")
}

func TestMaxAge(t *testing.T) {
	for name, tc := range map[string]struct {
		fields []string
		want   time.Duration
	}{
		"nothing said":           {nil, 0},
		"an age":                 {[]string{"max-age=60"}, time.Minute},
		"among others":           {[]string{"public", `MAX-AGE="60", immutable`}, time.Minute},
		"not to be kept":         {[]string{"max-age=60, no-store"}, 0},
		"to be asked every time": {[]string{"no-cache"}, 0},
		"for shared caches only": {[]string{"s-maxage=60"}, 0},
		"a negative one":         {[]string{"max-age=-1"}, 0},
		"a word":                 {[]string{"max-age=long"}, 0},
		"a year":                 {[]string{"max-age=31536000"}, 24 * time.Hour},
		"beyond all numbers":     {[]string{"max-age=99999999999999999999"}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			if got := maxAge(tc.fields); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestFailuresHaveStableMessages gives the errors that a transport gives, some
// of which have ephemeral ports or the time of day in their text.
func TestFailuresHaveStableMessages(t *testing.T) {
	for name, tc := range map[string]struct {
		err     error
		reason  string
		message string
	}{
		"blocked":             {&egress.BlockedError{Reason: "loopback is off"}, Refused, "was not contacted: loopback is off"},
		"a name unknown":      {&net.DNSError{Name: "h", Err: "no such host", Server: "10.0.0.1:53"}, Unreachable, "has a host name that could not be resolved"},
		"a slow name server":  {&net.DNSError{Name: "h", IsTimeout: true}, Unreachable, "has a host name that could not be resolved"},
		"a deadline":          {context.DeadlineExceeded, Unreachable, "did not answer in time"},
		"an expired one":      {verification(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026"}), Unreachable, "has a certificate that is expired or not yet valid"},
		"an odd certificate":  {verification(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), Unreachable, "has a certificate that cannot be trusted"},
		"another's":           {verification(x509.HostnameError{Host: "h", Certificate: &x509.Certificate{}}), Unreachable, "has a certificate for another host"},
		"an unknown one":      {verification(x509.UnknownAuthorityError{}), Unreachable, "has a certificate from an unknown authority"},
		"HTTP instead of TLS": {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, Unreachable, "does not speak TLS"},
		"an alert":            {&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, Unreachable, "failed the TLS handshake"},
		"anything else":       {errors.New("read tcp 10.0.0.1:51234: odd"), Unreachable, "could not be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, tc.err })}
			_, err := Fetch(t.Context(), client, "https://auth.example.com/jwks?key=value", "", "")
			wantError(t, err, nil, tc.reason, "https://auth.example.com/jwks "+tc.message)
		})
	}
}

func verification(err error) error { return &tls.CertificateVerificationError{Err: err} }

func TestFailuresOfRealConnections(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	_, err := Fetch(t.Context(), http.DefaultClient, gone.URL, "", "")
	wantError(t, err, gone, Unreachable, "HOST refused the connection")

	hangs := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err = Fetch(t.Context(), &http.Client{Timeout: 50 * time.Millisecond}, hangs.URL, "", "")
	wantError(t, err, hangs, Unreachable, "HOST did not answer in time")

	stalls := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, `{"keys":`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	_, err = Fetch(t.Context(), &http.Client{Timeout: 50 * time.Millisecond}, stalls.URL, "", "")
	wantError(t, err, stalls, Unreachable, "HOST did not answer in time")

	secure := httptest.NewUnstartedServer(nil)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	_, err = Fetch(t.Context(), &http.Client{Transport: &http.Transport{}}, secure.URL, "", "")
	wantError(t, err, secure, Unreachable, "HOST has a certificate from an unknown authority")

	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	u, parseErr := url.Parse(plain.URL)
	if parseErr != nil {
		t.Fatal(parseErr)
	}
	_, err = Fetch(t.Context(), http.DefaultClient, "https://"+u.Host, "", "")
	wantError(t, err, nil, Unreachable, "https://"+u.Host+" does not speak TLS")
}
