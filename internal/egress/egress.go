// SPDX-License-Identifier: Apache-2.0

// Package egress is the operator's edge towards authorization servers. Tenants supply the URLs and the servers behind
// them are not trusted, so every HTTP client that it makes is fenced: HTTPS only, no redirects, no connection to the
// operator's own host or to a cloud's metadata service, bodies and headers bounded, a time limit on every step. The
// operator's flags, gathered in Policy, relax single rules for development. Every request names the operator as its
// user agent. What all protocols share is read here once: an answer's body (ReadBody), how long the server wants to be
// left alone (RetryAfter), and why there is no answer (Why).
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Time limits of a client, from the dial to the last byte of the body.
const (
	// Timeout bounds a whole request, the body included.
	Timeout = 15 * time.Second
	// ConnectTimeout bounds the dial, and once more the TLS handshake.
	ConnectTimeout = 5 * time.Second
	// HeaderTimeout bounds the wait between the request's last byte and the answer's header.
	HeaderTimeout = 10 * time.Second
	// IdleTimeout is how long an unused connection is kept. It is below the 5 s after which some servers close their
	// end, because a request that meets such a close fails.
	IdleTimeout = 4 * time.Second
)

// Version is the operator's version. It is that of the chart.
const Version = "0.1.0"

// userAgent tells the owner of a server who asks. Many firewalls refuse requests that name a library.
const userAgent = "m2m-operator/" + Version

// maxHeaderBytes bounds an answer's header; the standard library's default is 10 MiB.
const maxHeaderBytes = 1 << 16

// BlockedError means that the policy refuses a connection. Trying again does not help.
type BlockedError struct {
	// Reason is a sentence fragment that names the operator's flag which would allow the connection. It names neither
	// address nor port, because tenants read it and must not learn what names resolve to inside the cluster.
	Reason string
}

// Error returns the reason.
func (e *BlockedError) Error() string { return e.Reason }

// Policy is the choice of connections that are allowed beyond HTTPS to ordinary unicast addresses. The zero value is
// the strict policy for production.
type Policy struct {
	// AllowHTTP permits http:// URLs: --allow-insecure-http.
	AllowHTTP bool
	// AllowLoopback permits loopback and unspecified addresses: --allow-loopback.
	AllowLoopback bool
	// AllowLinkLocal permits link-local, multicast and cloud metadata addresses: --allow-link-local.
	AllowLinkLocal bool
	// Allow, if not empty, lists the only permitted destinations: --egress-allow. It permits nothing that another rule
	// refuses.
	Allow []Allowed
	// MayAct, if not nil, is called before each request, which is not sent if it returns an error.
	MayAct func() error
}

// NewClient returns a client that enforces the policy. caPEM holds the certificates of the only authorities to trust;
// nil means the system's. The client does not follow redirects: the caller sees one as the answer. It takes proxies
// from the environment. Then the address rules apply to the proxy, and to a destination that is written as an IP
// address. The proxy resolves other destinations, and its own rules must cover them.
//
// A client is safe for concurrent use. Keep it, because it owns a pool of connections.
func (p Policy) NewClient(caPEM []byte) (*http.Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caPEM != nil {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(caPEM) {
			return nil, errors.New("CA bundle contains no PEM certificate")
		}
	}
	dialer := &net.Dialer{
		Timeout: ConnectTimeout,
		// The rule applies to the address to be dialled, not to the name: a name that resolves differently the second
		// time (DNS rebinding) gains nothing.
		ControlContext: p.control,
	}
	return &http.Client{
		Timeout:       Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &guard{policy: p, base: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ProxyConnectHeader:     http.Header{"User-Agent": {userAgent}},
			DialContext:            dialer.DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    ConnectTimeout,
			ResponseHeaderTimeout:  HeaderTimeout,
			IdleConnTimeout:        IdleTimeout,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    16,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ForceAttemptHTTP2:      true,
			// Otherwise a connection that died silently would take along every request multiplexed on it.
			HTTP2: &http.HTTP2Config{SendPingTimeout: ConnectTimeout, PingTimeout: ConnectTimeout},
		}},
	}, nil
}

// CheckURL reports why a request to raw would be refused or is impossible, without making a connection: raw must be an
// absolute https URL (or http where allowed) with a host and without user information or fragment. A refusal by the
// policy is a *BlockedError. A host name may still resolve to a refused address, which only a dial can tell.
func (p Policy) CheckURL(raw string) error {
	u, err := url.Parse(raw)
	// The parser's error would repeat the URL, which may hold a password.
	switch {
	case err != nil:
		return errors.New("URL is malformed")
	case u.Scheme == "":
		return errors.New("URL is not absolute, it must begin with https://")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("URL has an unsupported scheme, it must begin with https://")
	case u.Hostname() == "":
		return errors.New("URL has no host")
	case u.User != nil:
		return errors.New("URL must not contain user information")
	case strings.Contains(raw, "#"):
		return errors.New("URL must not contain a fragment")
	}
	return p.checkDestination(u)
}

// checkDestination applies the rules that need no name resolution.
func (p Policy) checkDestination(u *url.URL) error {
	if u.Scheme != "https" && !p.AllowHTTP {
		return &BlockedError{Reason: "http:// is not allowed, use https:// (for development the operator's flag --allow-insecure-http permits it)"}
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := p.checkAddress(addr); err != nil {
			return err
		}
	} else if !ascii(host) || numeric(host) {
		// Go maps other characters to ASCII before it dials, which turns wide digits into an address.
		return &BlockedError{Reason: "the host is neither a name in ASCII (in Punycode, if need be) nor an address in the usual notation"}
	}
	return p.checkListed(u)
}

// ascii reports whether a host has only visible characters of ASCII.
func ascii(host string) bool {
	return !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' })
}

// guard is the http.RoundTripper that enforces the policy and bounds the answers.
type guard struct {
	policy Policy
	base   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, err := g.check(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper closes the body, on errors too
		}
		return nil, err
	}
	req = req.Clone(ctx) // a RoundTripper leaves the request as it is
	req.Header.Set("User-Agent", userAgent)
	resp, err := g.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{&boundedBody{Reader: resp.Body, left: MaxBody}, resp.Body}
	return resp, nil
}

// check applies the policy to a request, as far as is possible before the dial.
func (g *guard) check(req *http.Request) (context.Context, error) {
	if g.policy.MayAct != nil {
		if err := g.policy.MayAct(); err != nil {
			return nil, err
		}
	}
	if err := g.policy.checkDestination(req.URL); err != nil {
		return nil, err
	}
	proxy, err := g.base.Proxy(req)
	if err != nil {
		return nil, err
	}
	return g.policy.settle(req.Context(), req.URL, proxy != nil)
}

// CloseIdleConnections makes http.Client.CloseIdleConnections reach the pool.
func (g *guard) CloseIdleConnections() { g.base.CloseIdleConnections() }
