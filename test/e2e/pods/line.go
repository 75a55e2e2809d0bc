// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"sync"
	"time"
)

// line is a listener that can be cut: it then refuses connections and breaks
// the existing ones, as if the server had been switched off.
type line struct {
	address string

	mu       sync.Mutex
	listener net.Listener // nil while it is cut
	mended   chan struct{}
	conns    map[net.Conn]struct{}
	closed   bool
}

func openLine(address string) (*line, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &line{address: listener.Addr().String(), listener: listener, conns: map[net.Conn]struct{}{}}, nil
}

// cutFor cuts the line, and restores it when the time is up.
func (l *line) cutFor(d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil || l.closed {
		return errors.New("the line is cut already")
	}
	_ = l.listener.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
	l.listener, l.conns, l.mended = nil, map[net.Conn]struct{}{}, make(chan struct{})
	time.AfterFunc(d, l.mend)
	return nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		time.AfterFunc(time.Second, l.mend)
		return
	}
	l.listener = listener
	close(l.mended)
}

// Accept waits for a connection; while the line is cut there is none.
func (l *line) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		listener, mended, closed := l.listener, l.mended, l.closed
		l.mu.Unlock()
		switch {
		case closed:
			return nil, net.ErrClosed
		case listener == nil:
			<-mended
			continue
		}
		conn, err := listener.Accept()
		l.mu.Lock()
		switch {
		case err == nil && l.listener == listener:
			l.conns[conn] = struct{}{}
			l.mu.Unlock()
			return &lineConn{Conn: conn, line: l}, nil
		case err == nil:
			_ = conn.Close() // cut at this moment
		case l.listener == listener:
			l.mu.Unlock()
			return nil, err
		}
		l.mu.Unlock()
	}
}

// Close closes it for good.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.listener == nil {
		close(l.mended)
		return nil
	}
	return l.listener.Close()
}

// Addr returns the address that it listens at.
func (l *line) Addr() net.Addr {
	address, err := net.ResolveTCPAddr("tcp", l.address)
	if err != nil {
		return &net.TCPAddr{}
	}
	return address
}

// lineConn removes itself from the line when it is closed.
type lineConn struct {
	net.Conn
	line *line
}

func (c *lineConn) Close() error {
	c.line.mu.Lock()
	delete(c.line.conns, c.Conn)
	c.line.mu.Unlock()
	return c.Conn.Close()
}
