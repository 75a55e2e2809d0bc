// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Allowed is a destination that the platform allows: a host by name or the addresses of a network, with one port or
// all.
type Allowed struct {
	name      string       // in lower case; "" for a network
	subdomain bool         // name stands for all names below it, and not for itself
	network   netip.Prefix // the zero value for a name
	port      uint16       // 0 for every port
}

// hostName matches DNS names, including the underscores that some have.
var hostName = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?)*$`)

// ParseAllowed reads a destination: auth.example.com, *.example.com, auth.example.com:8443, 10.1.0.0/16, 10.1.2.3 or
// [2001:db8::1]:8443. *.example.com stands for all names below example.com, at any depth, and not for example.com.
func ParseAllowed(s string) (Allowed, error) {
	if network, err := netip.ParsePrefix(s); err == nil {
		if network != network.Masked() {
			return Allowed{}, fmt.Errorf("%q has bits beyond its prefix, write %q", s, network.Masked())
		}
		if network.Addr().Is4In6() {
			return Allowed{}, fmt.Errorf("%q is an IPv4 network in IPv6 notation, write it as IPv4", s)
		}
		return Allowed{network: network}, nil
	}
	host, port, err := splitPort(s)
	if err != nil {
		return Allowed{}, fmt.Errorf("%q: %w", s, err)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.WithZone("").Unmap()
		return Allowed{network: netip.PrefixFrom(addr, addr.BitLen()), port: port}, nil
	}
	a := Allowed{name: canonical(host), port: port}
	a.name, a.subdomain = strings.CutPrefix(a.name, "*.")
	if len(a.name) > 253 || !hostName.MatchString(a.name) || numeric(a.name) {
		return Allowed{}, fmt.Errorf("%q is neither a host, such as auth.example.com, *.example.com or auth.example.com:8443, nor a network, such as 10.1.0.0/16", s)
	}
	return a, nil
}

// splitPort splits a host from its port, if it has one. An IPv6 address with a port is in brackets.
func splitPort(s string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return s, 0, nil
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, errors.New("is neither a host with a port nor an address")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, errors.New("the port is not a number from 1 to 65535")
	}
	return host, uint16(n), nil
}

// canonical returns a host name in the form to compare: neither case nor the root's dot makes a difference.
func canonical(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

func (a Allowed) hasName(host string, port uint16) bool {
	if a.name == "" || a.port != 0 && a.port != port {
		return false
	}
	if a.subdomain {
		return strings.HasSuffix(host, "."+a.name)
	}
	return host == a.name
}

func (a Allowed) hasAddress(addr netip.Addr, port uint16) bool {
	return a.name == "" && (a.port == 0 || a.port == port) && a.network.Contains(addr)
}

// errNotAllowed returns the same error whatever the list says and whatever a name resolves to.
func errNotAllowed() error {
	return &BlockedError{Reason: "the host is not among those that the platform allows (the operator's flag --egress-allow lists them)"}
}

// named reports whether the list allows a URL's host as written, by name or as an address.
func (p Policy) named(u *url.URL) bool {
	port, host := portOf(u), canonical(u.Hostname())
	addr, err := netip.ParseAddr(host)
	for _, a := range p.Allow {
		if err == nil && a.hasAddress(unwrap(addr), port) || err != nil && a.hasName(host, port) {
			return true
		}
	}
	return false
}

// mayResolve reports whether the list may allow a host by the address that its name resolves to.
func (p Policy) mayResolve(u *url.URL) bool {
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return false
	}
	for _, a := range p.Allow {
		if a.name == "" && (a.port == 0 || a.port == portOf(u)) {
			return true
		}
	}
	return false
}

// portOf returns the port of a request to u, 0 if there is none.
func portOf(u *url.URL) uint16 {
	text := u.Port()
	if text == "" {
		text = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// checkListed refuses what the list cannot allow, before any name is resolved.
func (p Policy) checkListed(u *url.URL) error {
	if len(p.Allow) == 0 || p.named(u) || p.mayResolve(u) {
		return nil
	}
	return errNotAllowed()
}

// settled marks the context of a request whose destination the list allows, whatever address is dialled.
type settled struct{}

// settle decides what can be decided about a request before the dial. Connections are pooled by scheme, host, port and
// proxy, so a decision about the request that dials holds for all requests on the connection.
func (p Policy) settle(ctx context.Context, u *url.URL, proxied bool) (context.Context, error) {
	switch {
	case len(p.Allow) == 0:
		return ctx, nil
	case p.named(u):
		return context.WithValue(ctx, settled{}, true), nil
	case proxied:
		// The proxy resolves the name, so control will not see its address.
		return nil, errNotAllowed()
	}
	return ctx, nil
}

// checkDialled applies the list to the address to be dialled.
func (p Policy) checkDialled(ctx context.Context, to netip.AddrPort) error {
	if len(p.Allow) == 0 || ctx.Value(settled{}) != nil {
		return nil
	}
	for _, a := range p.Allow {
		if a.hasAddress(unwrap(to.Addr()), to.Port()) {
			return nil
		}
	}
	return errNotAllowed()
}
