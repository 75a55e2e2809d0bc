// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"net/netip"
	"strings"
	"syscall"
)

// prefixes parses a list of networks.
func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, 0, len(all))
	for _, s := range all {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

var (
	// thisHost is "this network" (RFC 791). To Linux, 0.0.0.0 is the own host.
	thisHost = netip.MustParsePrefix("0.0.0.0/8")

	// nat64 is the prefix whose last four bytes are the IPv4 address that a NAT64 gateway connects to (RFC 6052).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")

	// metadata are the addresses outside the link-local ranges at which clouds answer their instances, credentials
	// included: AWS (also EKS Pod Identity), Google, Alibaba, Azure, Oracle. The last is in the IETF's range for
	// protocol assignments, where nobody has a server.
	metadata = prefixes("fd00:ec2::/32", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.0/24")

	limitedBroadcast = netip.MustParseAddr("255.255.255.255")

	// unicast are the IPv6 addresses that belong to the host they name: global and unique local ones (RFC 4291, RFC
	// 4193). All others are refused: they embed an address that a translator somewhere extracts (::a.b.c.d,
	// ::ffff:0:a.b.c.d, 64:ff9b:1::/48), are withdrawn (fec0::/10) or have no meaning yet.
	unicast = prefixes("2000::/3", "fc00::/7")

	// disguises are unicast addresses that lead elsewhere, or to nothing defined: the IETF's protocol assignments with
	// Teredo (RFC 2928, RFC 4380), 6to4 (RFC 3056) and its relays, and the IPv4 addresses reserved for future use.
	disguises = prefixes("2001::/23", "2002::/16", "192.88.99.0/24", "240.0.0.0/4")
)

// control is a net.Dialer's ControlContext. It sees each resolved address just before the dial.
func (p Policy) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &BlockedError{Reason: "the destination is not an IP address and port"}
	}
	if err := p.checkAddress(ap.Addr()); err != nil {
		return err
	}
	return p.checkDialled(ctx, ap)
}

// checkAddress refuses addresses of classes that the policy does not allow.
func (p Policy) checkAddress(addr netip.Addr) error {
	addr = unwrap(addr)
	switch {
	case addr.IsLoopback() || addr.IsUnspecified() || thisHost.Contains(addr):
		if !p.AllowLoopback {
			return &BlockedError{Reason: "the host is a loopback or unspecified address, which is not allowed (the operator's flag --allow-loopback permits it)"}
		}
	case addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr == limitedBroadcast || in(metadata, addr):
		if !p.AllowLinkLocal {
			return &BlockedError{Reason: "the host is a link-local, multicast or metadata address, which is not allowed (the operator's flag --allow-link-local permits it)"}
		}
	case disguised(addr):
		return &BlockedError{Reason: "the host is a reserved address or one that stands for another, such as 6to4, Teredo or ISATAP, which is never allowed"}
	}
	return nil
}

// disguised reports whether an address leads elsewhere than it says, or is reserved.
func disguised(addr netip.Addr) bool {
	if in(disguises, addr) {
		return true
	}
	return addr.Is6() && (!in(unicast, addr) || isatap(addr))
}

// isatap reports whether the interface identifier of an IPv6 address holds the IPv4 address to which a tunnel leads
// (RFC 5214): 00-00-5E-FE, with any value of the bits "universal" and "group".
func isatap(addr netip.Addr) bool {
	b := addr.As16()
	return b[8]&^0x03 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// unwrap returns the address that a packet to addr finally reaches: without zone, and the IPv4 address if addr embeds
// one.
func unwrap(addr netip.Addr) netip.Addr {
	addr = addr.WithZone("").Unmap()
	if nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr
}

// in reports whether one of the prefixes contains addr.
func in(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// numeric reports whether a host that is not an IP address ends like one. Resolvers and proxies read such names as
// addresses in older notations: 127.1, 0x7f000001, 2130706433.
func numeric(host string) bool {
	label := strings.TrimSuffix(host, ".")
	label = strings.ToLower(label[strings.LastIndexByte(label, '.')+1:])
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, digits+"abcdef"
	}
	return strings.Trim(label, digits) == ""
}
