// SPDX-License-Identifier: Apache-2.0

package egress

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
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWhy gives the errors that a test on loopback cannot provoke, as package net reports them.
func TestWhy(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	certificate := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for name, tc := range map[string]struct {
		err  error
		want Cause
	}{
		"blocked":                      {dial(&BlockedError{Reason: "loopback is off"}), Blocked},
		"a body that is too large":     {ErrBodyTooLarge, TooLarge},
		"nobody waits":                 {context.Canceled, Cancelled},
		"nobody waits for the dial":    {dial(context.Canceled), Cancelled},
		"the context's deadline":       {context.DeadlineExceeded, TimedOut},
		"a read's deadline":            {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, TimedOut},
		"a dial's deadline":            {dial(os.ErrDeadlineExceeded), ConnectionTimedOut},
		"a dial's own time limit":      {dial(context.DeadlineExceeded), ConnectionTimedOut},
		"the host is unknown":          {dial(&net.DNSError{Err: "no such host", Name: "x", Server: "10.0.0.1:53", IsNotFound: true}), HostUnknown},
		"the name server is slow":      {dial(&net.DNSError{Err: "i/o timeout", Name: "x", Server: "10.0.0.1:53", IsTimeout: true}), HostUnresolved},
		"the name server fails":        {&net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}, HostUnresolved},
		"no route":                     {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), HostUnreachable},
		"no network":                   {dial(os.NewSyscallError("connect", syscall.ENETUNREACH)), HostUnreachable},
		"nobody listens":               {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), ConnectionRefused},
		"a reset":                      {&net.OpError{Op: "read", Source: &net.TCPAddr{Port: 40123}, Err: os.NewSyscallError("read", syscall.ECONNRESET)}, ConnectionClosed},
		"a pipe that broke":            {os.NewSyscallError("write", syscall.EPIPE), ConnectionClosed},
		"an end in the middle":         {io.ErrUnexpectedEOF, ConnectionClosed},
		"an end before the answer":     {io.EOF, ConnectionClosed},
		"another host's certificate":   {certificate(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}), CertificateHost},
		"an expired certificate":       {certificate(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026"}), CertificateExpired},
		"an authority that is none":    {certificate(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), CertificateUntrusted},
		"an unknown authority":         {certificate(x509.UnknownAuthorityError{}), CertificateAuthority},
		"a certificate for no reason":  {certificate(errors.New("odd")), CertificateUntrusted},
		"no TLS":                       {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, NotTLS},
		"no TLS but HTTP":              {http.ErrSchemeMismatch, NotTLS},
		"an alert":                     {tls.AlertError(40), Handshake},
		"an alert over TCP":            {&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, Handshake},
		"an alert that the client had": {&net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}, Handshake},
		"anything else":                {errors.New("read tcp 10.0.0.1:40123: odd"), ConnectionFailed},
		"nothing":                      {nil, ConnectionFailed},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.err
			if err != nil {
				err = fmt.Errorf("fetch: %w", &url.Error{Op: "Get", URL: "https://auth.example.com/?key=value", Err: err})
			}
			got := Why(err)
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if s := string(got); s == "" || strings.ContainsAny(s, ":0123456789") {
				t.Errorf("%q is not fit for a message", s)
			}
		})
	}
}

func TestWhyOfRealConnections(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	plain, slow := serve(t, ok), serve(t, hang)
	stalled := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		hang(w, r)
	})
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9")
		_, _ = io.WriteString(w, "{")
	})
	secure := func(config *tls.Config) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(ok))
		s.Config.ErrorLog, s.TLS = log.New(io.Discard, "", 0), config
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	trusted := secure(nil)
	gone := httptest.NewServer(nil)
	gone.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		client *http.Client
		ctx    context.Context
		url    string
		want   Cause
	}{
		"a refused address":              {client: client(t, Policy{AllowHTTP: true}, nil), url: plain, want: Blocked},
		"a refused name":                 {client: client(t, Policy{}, nil), url: plain, want: Blocked},
		"a closed port":                  {url: gone.URL, want: ConnectionRefused},
		"a server that hangs":            {url: slow, want: TimedOut},
		"a body that stalls":             {url: stalled, want: TimedOut},
		"a body that is cut":             {url: cut, want: ConnectionClosed},
		"a server that closes":           {url: serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), want: ConnectionClosed},
		"a body that is too large":       {url: serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, MaxBody+1)) }), want: TooLarge},
		"a caller that has gone":         {ctx: ended, url: plain, want: Cancelled},
		"HTTP where TLS should be":       {url: strings.Replace(plain, "http:", "https:", 1), want: NotTLS},
		"an unknown authority":           {url: trusted.URL, want: CertificateAuthority},
		"a certificate of another host":  {client: client(t, development, caOf(trusted)), url: strings.Replace(trusted.URL, "127.0.0.1", "localhost", 1), want: CertificateHost},
		"another version of TLS":         {url: secure(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).URL, want: Handshake},
		"a client certificate is needed": {client: client(t, development, caOf(trusted)), url: secure(&tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}).URL, want: Handshake},
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx := tc.client, tc.ctx
			if c == nil {
				c = client(t, development, nil)
			}
			if ctx == nil {
				ctx = t.Context()
			}
			if tc.want == TimedOut {
				c.Timeout = 50 * time.Millisecond
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, tc.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err == nil {
				_, err = ReadBody(resp.Body)
				resp.Body.Close()
			}
			if err == nil {
				t.Fatal("there is no error")
			}
			if got := Why(err); got != tc.want {
				t.Errorf("got %q for %v, want %q", got, err, tc.want)
			}
		})
	}
}
