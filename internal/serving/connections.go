// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// receiveBuffer bounds what the kernel keeps of a connection that nobody reads,
// which counts against the container's memory. The kernel doubles it.
const receiveBuffer = 32 << 10

// listener accepts so many connections, shared between the addresses that they
// come from.
type listener struct {
	net.Listener
	shares *Shares
}

// connection is one of the listener's.
type connection struct {
	net.Conn
	share *Share
}

// Accept never waits for a connection to end: one more than there may be takes the
// place of another, or is closed.
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

// host is the address without the port.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

type contextKey struct{}

// connectionOf returns the listener's connection below what net/http knows.
func connectionOf(c net.Conn) *connection {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*connection)
	return own
}

// withConnection has the handler find its connection.
func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, connectionOf(c))
}

// connState has the time count from the last answer that a connection waits.
func connState(c net.Conn, state http.ConnState) {
	if own := connectionOf(c); own != nil && state == http.StateIdle {
		own.share.Settle(false)
	}
}

// settle reports whether the connection of a request waits for us and not for its
// caller.
func settle(ctx context.Context, settled bool) {
	if own, _ := ctx.Value(contextKey{}).(*connection); own != nil {
		own.share.Settle(settled)
	}
}

// closeOf returns what closes the connection of a request.
func closeOf(ctx context.Context) func() {
	own, _ := ctx.Value(contextKey{}).(*connection)
	return sync.OnceFunc(func() {
		if own != nil {
			_ = own.Close()
		}
	})
}
