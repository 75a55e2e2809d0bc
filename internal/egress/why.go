// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
)

// Cause is why a request got no answer, or only the beginning of one. Its text is fit for a message: the words are our
// own, because those of package net hold addresses, ephemeral ports and times that change from one attempt to the next.
type Cause string

// The causes.
const (
	// Blocked: the policy refused the connection. The *BlockedError in the chain says why.
	Blocked Cause = "connection is not allowed"
	// TooLarge: the answer has more than MaxBody bytes.
	TooLarge Cause = "answer is too large"
	// Cancelled: whoever wanted the answer stopped waiting. This says nothing about the server.
	Cancelled Cause = "request was cancelled"
	// TimedOut: a time limit passed, the client's or the caller's.
	TimedOut Cause = "no answer in time"

	// HostUnknown: the host's name does not exist.
	HostUnknown Cause = "host name does not exist"
	// HostUnresolved: the name servers gave no address, which may pass.
	HostUnresolved Cause = "host name could not be resolved"
	// HostUnreachable: no route leads to the host.
	HostUnreachable Cause = "host is unreachable"

	// ConnectionTimedOut: nothing accepted or refused the connection in time.
	ConnectionTimedOut Cause = "connection timed out"
	// ConnectionRefused: nobody listens at the port.
	ConnectionRefused Cause = "connection refused"
	// ConnectionClosed: the other end, or something in between, closed the connection.
	ConnectionClosed Cause = "connection was closed"
	// ConnectionFailed: anything else.
	ConnectionFailed Cause = "connection failed"

	// CertificateHost: the server's certificate is valid for other hosts.
	CertificateHost Cause = "TLS certificate is not valid for the host"
	// CertificateExpired: the server's certificate has expired or is not yet valid.
	CertificateExpired Cause = "TLS certificate has expired or is not yet valid"
	// CertificateAuthority: no trusted authority issued the server's certificate.
	CertificateAuthority Cause = "TLS certificate is from an unknown authority"
	// CertificateUntrusted: the server's certificate is not trusted for another reason.
	CertificateUntrusted Cause = "TLS certificate is not trusted"
	// NotTLS: the server speaks, but not TLS.
	NotTLS Cause = "server does not speak TLS"
	// Handshake: client and server do not agree on TLS, or the server does not take the client's certificate.
	Handshake Cause = "TLS handshake failed"
)

// Why classes the error of a request, or of reading its answer's body.
func Why(err error) Cause {
	if _, ok := errors.AsType[*BlockedError](err); ok {
		return Blocked
	}
	switch {
	case errors.Is(err, ErrBodyTooLarge):
		return TooLarge
	case errors.Is(err, context.Canceled):
		return Cancelled
	}
	// The name comes before the connection's time limit: that the name servers are slow says more.
	for _, cause := range []func(error) Cause{ofCertificate, ofName, ofConnection} {
		if why := cause(err); why != "" {
			return why
		}
	}
	return ConnectionFailed
}

func ofCertificate(err error) Cause {
	var (
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
		untrusted *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &host):
		return CertificateHost
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return CertificateExpired
	case errors.As(err, &authority):
		return CertificateAuthority
	case errors.As(err, &invalid), errors.As(err, &untrusted):
		return CertificateUntrusted
	}
	return ""
}

func ofName(err error) Cause {
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return ""
	case dns.IsNotFound:
		return HostUnknown
	}
	return HostUnresolved
}

func ofConnection(err error) Cause {
	var (
		op      *net.OpError
		timeout net.Error
		record  tls.RecordHeaderError
		alert   tls.AlertError
	)
	isOp := errors.As(err, &op)
	switch {
	case isOp && op.Op == "dial" && op.Timeout():
		return ConnectionTimedOut
	case errors.As(err, &timeout) && timeout.Timeout(): // the deadline of a context is one, too
		return TimedOut
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectionRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return HostUnreachable
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return ConnectionClosed
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return NotTLS
	// An alert's own type is not exported where it comes over TCP, which its operation tells.
	case errors.As(err, &alert), isOp && (op.Op == "remote error" || op.Op == "local error"):
		return Handshake
	}
	return ""
}
