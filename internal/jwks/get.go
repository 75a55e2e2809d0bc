// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// maxURL bounds a URL, in bytes.
const maxURL = 2048

// endpoint parses an absolute http or https URL. It may have a query but neither a
// fragment nor user information, which would be a secret in plain sight.
func endpoint(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	ok := err == nil && len(s) <= maxURL && (u.Scheme == "https" || u.Scheme == "http") &&
		u.Hostname() != "" && u.User == nil && u.Fragment == "" && !strings.Contains(s, "#")
	return u, ok
}

// shown returns a URL as messages show it: without its query, which may be private.
func shown(u *url.URL) string {
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

// get fetches a document and returns the response and its body, which it has read
// and closed. Every status but 200, and 304 to a conditional request, is an *Error,
// as is every failure before that. It never follows redirects, whatever the client
// is set to.
func get(ctx context.Context, hc *http.Client, u *url.URL, header http.Header) (*http.Response, []byte, *Error) {
	client := *hc
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req := (&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: header}).WithContext(ctx)
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, failure(u, err)
	}
	defer func() { _ = resp.Body.Close() }()
	conditional := header.Get("If-None-Match") != "" || header.Get("If-Modified-Since") != ""
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusNotModified && conditional:
		return resp, nil, nil
	case resp.StatusCode/100 == 3 && resp.StatusCode != http.StatusNotModified:
		return resp, nil, &Error{Reason: BadStatus, Message: shown(u) + " answered with a redirect, which is not followed"}
	default:
		return resp, nil, &Error{
			Reason:     BadStatus,
			Message:    fmt.Sprintf("%s answered with status %d", shown(u), resp.StatusCode),
			RetryAfter: egress.RetryAfter(resp.Header, time.Time{}),
		}
	}
	body, err := egress.ReadBody(resp.Body)
	if err != nil {
		return resp, nil, failure(u, err)
	}
	return resp, body, nil
}

// failures are the causes in words that follow the URL that was asked.
var failures = map[egress.Cause]string{
	egress.Cancelled:            "did not answer before the request was cancelled",
	egress.TimedOut:             "did not answer in time",
	egress.ConnectionTimedOut:   "did not answer in time",
	egress.HostUnknown:          "has a host name that could not be resolved",
	egress.HostUnresolved:       "has a host name that could not be resolved",
	egress.CertificateAuthority: "has a certificate from an unknown authority",
	egress.CertificateHost:      "has a certificate for another host",
	egress.CertificateExpired:   "has a certificate that is expired or not yet valid",
	egress.CertificateUntrusted: "has a certificate that cannot be trusted",
	egress.NotTLS:               "does not speak TLS",
	egress.Handshake:            "failed the TLS handshake",
	egress.ConnectionRefused:    "refused the connection",
	egress.ConnectionClosed:     "closed the connection before its answer was complete",
}

// failure classes an error of the HTTP client, or of reading the body.
func failure(u *url.URL, err error) *Error {
	if blocked, ok := errors.AsType[*egress.BlockedError](err); ok {
		return &Error{Reason: Refused, Message: shown(u) + " was not contacted: " + blocked.Reason}
	}
	why := egress.Why(err)
	if why == egress.TooLarge {
		return &Error{Reason: Malformed, Message: fmt.Sprintf("%s answered with more than %d bytes", shown(u), egress.MaxBody)}
	}
	return &Error{Reason: Unreachable, Cause: why, Message: shown(u) + " " + cmp.Or(failures[why], "could not be reached")}
}

// seconds reads a number of seconds as HTTP writes it (RFC 9111 §1.2.2): digits
// only. A number that is too large counts as the largest.
func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return time.Duration(n) * time.Second
}
