// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// receiveBuffer limits the kernel's buffer for a connection that is not being read: it
// counts as the container's memory. The kernel doubles the value.
const receiveBuffer = 32 << 10

// listener limits the connections it accepts, and shares them between the calling
// addresses.
type listener struct {
	net.Listener
	shares *Shares
}

// connection is one that a listener accepted.
type connection struct {
	net.Conn
	share *Share
}

// Accept never waits for a connection to end: at the limit a new connection replaces
// another or is closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(receiveBuffer)
		}
		if share := l.shares.Take(host(c.RemoteAddr().String()), 1, func() { _ = c.Close() }); share != nil {
			return &connection{Conn: c, share: share}, nil
		}
		_ = c.Close()
	}
}

func (c *connection) Close() error {
	c.share.Release()
	return c.Conn.Close()
}

// host returns an address without its port.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

type contextKey struct{}

// connectionOf returns the listener's connection below the one that net/http has.
func connectionOf(c net.Conn) *connection {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*connection)
	return own
}

// withConnection puts the connection into the context of its requests.
func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, connectionOf(c))
}

// connState marks idle connections as waiting for their caller, from the last answer on.
func connState(c net.Conn, state http.ConnState) {
	if own := connectionOf(c); own != nil && state == http.StateIdle {
		own.share.Settle(false)
	}
}

// settle records whether the connection of a request waits for us (settled) or for its
// caller.
func settle(ctx context.Context, settled bool) {
	if own, _ := ctx.Value(contextKey{}).(*connection); own != nil {
		own.share.Settle(settled)
	}
}

// closeOf returns a function that closes the connection of a request.
func closeOf(ctx context.Context) func() {
	own, _ := ctx.Value(contextKey{}).(*connection)
	return sync.OnceFunc(func() {
		if own != nil {
			_ = own.Close()
		}
	})
}
