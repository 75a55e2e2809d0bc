// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

const (
	// maxURL bounds a URL, in bytes.
	maxURL = 2048
	// maxRetryAfter bounds how long a server can silence us.
	maxRetryAfter = time.Hour
)

// endpoint parses an absolute http or https URL. It may have a query; it has no
// fragment, and no user information, which would be a secret in plain sight.
func endpoint(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	ok := err == nil && len(s) <= maxURL && (u.Scheme == "https" || u.Scheme == "http") &&
		u.Hostname() != "" && u.User == nil && u.Fragment == "" && !strings.Contains(s, "#")
	return u, ok
}

// shown is a URL as messages show it: without its query, which is nobody's business.
func shown(u *url.URL) string {
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

// get fetches a document and returns the response, whose body is read and
// closed, with that body. Every status but 200, and 304 to a conditional
// request, is an *Error; so is every failure to get that far. Redirects are not
// followed, whatever the client is set to.
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
			RetryAfter: retryAfter(resp.Header),
		}
	}
	// The client bounds the body; this bound is for a client that does not.
	body, err := io.ReadAll(io.LimitReader(resp.Body, egress.MaxBody+1))
	if len(body) > egress.MaxBody || errors.Is(err, egress.ErrBodyTooLarge) {
		return resp, nil, &Error{Reason: Malformed, Message: fmt.Sprintf("%s answered with more than %d bytes", shown(u), egress.MaxBody)}
	}
	if err != nil {
		return resp, nil, failure(u, err)
	}
	return resp, body, nil
}

// failure classes an error of the HTTP client. Its text is not used: it has
// ephemeral ports in it, and the present time where a certificate has expired.
func failure(u *url.URL, err error) *Error {
	what := "could not be reached"
	var (
		blocked   *egress.BlockedError
		dns       *net.DNSError
		timeout   net.Error
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		untrusted *tls.CertificateVerificationError
		plain     tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &blocked):
		return &Error{Reason: Refused, Message: shown(u) + " was not asked: " + blocked.Reason}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		what = "did not answer in time"
	case errors.Is(err, context.Canceled):
		what = "was not waited for"
	case errors.As(err, &dns):
		what = "has a host name that could not be resolved"
	case errors.As(err, &authority):
		what = "has a certificate from an unknown authority"
	case errors.As(err, &host):
		what = "has a certificate for another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		what = "has a certificate that is expired or not yet valid"
	case errors.As(err, &untrusted):
		what = "has a certificate that cannot be trusted"
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		what = "does not speak TLS"
	case errors.Is(err, syscall.ECONNREFUSED):
		what = "refused the connection"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		what = "closed the connection before its answer was complete"
	}
	return &Error{Reason: Unreachable, Message: shown(u) + " " + what}
}

// retryAfter reads Retry-After (RFC 9110 §10.2.3). A date counts from the
// response's own Date, so that clocks need not agree.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	wait := seconds(value)
	if until, err := http.ParseTime(value); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			wait = until.Sub(date)
		}
	}
	return min(max(wait, 0), maxRetryAfter)
}

// seconds reads a number of seconds as HTTP writes it (RFC 9111 §1.2.2): digits
// only, and one that is too large is as good as the largest.
func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return time.Duration(n) * time.Second
}
