// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"net/netip"
	"syscall"
)

var (
	// thisHost is "this network" (RFC 791); Linux takes 0.0.0.0 for the own host.
	thisHost = netip.MustParsePrefix("0.0.0.0/8")

	// embedding are the prefixes whose last four bytes are an IPv4 address that a NAT64 gateway connects to:
	// the well-known one (RFC 6052) and the one for local use (RFC 8215).
	embedding = []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"),
		netip.MustParsePrefix("64:ff9b:1::/48"),
	}

	// metadata are the addresses outside the link-local ranges at which clouds answer their instances, credentials
	// included: AWS (also EKS Pod Identity), Google, Alibaba, Azure.
	metadata = []netip.Prefix{
		netip.MustParsePrefix("fd00:ec2::/32"),
		netip.MustParsePrefix("fd20:ce::254/128"),
		netip.MustParsePrefix("100.100.100.200/32"),
		netip.MustParsePrefix("168.63.129.16/32"),
	}

	limitedBroadcast = netip.MustParseAddr("255.255.255.255")
)

// control is a net.Dialer's ControlContext: it sees each resolved address just before the connection is made.
func (p Policy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &BlockedError{Reason: "the destination is not an IP address and port"}
	}
	return p.checkAddress(ap.Addr())
}

// checkAddress refuses the classes of addresses that the policy does not allow.
func (p Policy) checkAddress(addr netip.Addr) error {
	addr = unwrap(addr)
	switch {
	case !p.AllowLoopback && (addr.IsLoopback() || addr.IsUnspecified() || thisHost.Contains(addr)):
		return &BlockedError{Reason: "the host is a loopback or unspecified address, which is not allowed (the operator's flag --allow-loopback permits it)"}
	case !p.AllowLinkLocal && (addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr == limitedBroadcast || in(metadata, addr)):
		return &BlockedError{Reason: "the host is a link-local, multicast or metadata address, which is not allowed (the operator's flag --allow-link-local permits it)"}
	}
	return nil
}

// unwrap returns the address that a packet to addr reaches in the end: without zone, and the IPv4 address where addr
// embeds one.
func unwrap(addr netip.Addr) netip.Addr {
	addr = addr.WithZone("").Unmap()
	if in(embedding, addr) {
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
