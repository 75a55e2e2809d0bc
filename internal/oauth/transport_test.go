// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"
)

// Failures that a test on loopback cannot provoke, as package net reports them.
func TestTransportErrorWords(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	verification := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for name, tc := range map[string]struct {
		err   error
		class Class
		want  string
	}{
		"unknown host":            {dial(&net.DNSError{Err: "no such host", Name: "x", Server: "10.0.0.1:53", IsNotFound: true}), ClassRetryable, "host name does not exist"},
		"resolver is down":        {dial(&net.DNSError{Err: "i/o timeout", Name: "x", Server: "10.0.0.1:53", IsTimeout: true}), ClassRetryable, "host name could not be resolved"},
		"dial timeout":            {dial(os.ErrDeadlineExceeded), ClassRetryable, "connection timed out"},
		"other timeout":           {os.ErrDeadlineExceeded, ClassRetryable, "no answer in time"},
		"no route":                {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), ClassRetryable, "host is unreachable"},
		"no network":              {dial(os.NewSyscallError("connect", syscall.ENETUNREACH)), ClassRetryable, "host is unreachable"},
		"refused":                 {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), ClassRetryable, "connection refused"},
		"reset":                   {&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: 40123}, Err: os.NewSyscallError("read", syscall.ECONNRESET)}, ClassRetryable, "connection was closed"},
		"wrong host":              {verification(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}), ClassSlowRetry, "TLS certificate is not valid for the host"},
		"expired certificate":     {verification(x509.CertificateInvalidError{Reason: x509.Expired}), ClassSlowRetry, "TLS certificate has expired or is not yet valid"},
		"certificate is no CA":    {verification(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), ClassSlowRetry, "TLS certificate is not trusted"},
		"unknown authority":       {verification(x509.UnknownAuthorityError{}), ClassSlowRetry, "TLS certificate is from an unknown authority"},
		"no TLS":                  {tls.RecordHeaderError{Msg: "x"}, ClassRetryable, "server does not speak TLS"},
		"alert":                   {&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, ClassRetryable, "TLS handshake failed"},
		"anything else, unquoted": {fmt.Errorf("read tcp 10.0.0.1:40123: %s", secret), ClassRetryable, "connection failed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := &url.Error{Op: "Post", URL: "https://auth.example.com/token?x=y", Err: tc.err}
			e := transportError(t.Context(), t.Context(), time.Second, err)
			if e.Class != tc.class || e.Detail != tc.want {
				t.Errorf("got %s %q, want %s %q", e.Class, e.Detail, tc.class, tc.want)
			}
			if errors.Unwrap(e) != nil {
				t.Errorf("it wraps %v", errors.Unwrap(e))
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e := transportError(t.Context(), ctx, 15*time.Second, errors.New("x")); e.Error() != "no answer within 15s" {
		t.Errorf("after the client's limit: %v", e)
	}
}
