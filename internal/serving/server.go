// SPDX-License-Identifier: Apache-2.0

// Package serving serves HTTP to untrusted callers: any pod of the cluster can reach
// the webhook and the metrics. It limits the connections, the bytes of unanswered
// requests and the time a caller may take, and shares these between the calling
// addresses, so that no caller keeps another out.
package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// Connections limits the open connections of a server.
	Connections = 512
	// HeaderTimeout limits the time for the TLS handshake, and the time for the header
	// of a request.
	HeaderTimeout = 3 * time.Second
	// BodyTimeout limits the time for the body.
	BodyTimeout = 2 * time.Second
	// requestTimeout limits the time of a whole request.
	requestTimeout = 30 * time.Second
	// idleTimeout closes connections without a request. Go's clients, the API server
	// among them, close theirs earlier or retry.
	idleTimeout = 90 * time.Second
	// maxHeader is the longest header in bytes. The API server's is below 1 KiB; a
	// scraper's contains a token.
	maxHeader = 16 << 10
	// shutdownTimeout limits how long a shutdown waits for requests.
	shutdownTimeout = 10 * time.Second
)

// Server serves a handler at an address, on every replica.
type Server struct {
	// Address is the host and port to listen on.
	Address string
	// TLS returns the configuration when the server starts. Nil: plain HTTP.
	TLS func(context.Context) (*tls.Config, error)
	// Handler answers requests. If it reads bodies, make it with Buffered.
	Handler http.Handler

	listening atomic.Bool
}

// NeedLeaderElection returns false: every replica serves.
func (*Server) NeedLeaderElection() bool { return false }

// Check is ready once the server listens.
func (s *Server) Check(*http.Request) error {
	if !s.listening.Load() {
		return errors.New("the server does not listen yet")
	}
	return nil
}

// Start serves until the context ends, and then finishes the requests in progress.
func (s *Server) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return s.serve(ctx, l)
}

func (s *Server) serve(ctx context.Context, l net.Listener) error {
	defer func() { _ = l.Close() }()
	l = &listener{Listener: l, shares: NewShares(Connections, 0, clock.RealClock{})}
	if s.TLS != nil {
		c, err := s.TLS(ctx)
		if err != nil {
			return err
		}
		// HTTP/2 puts many requests on one connection, past the limits. The API server
		// calls webhooks over HTTP/1.1 anyway.
		c.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, c)
	}
	server := &http.Server{
		Handler:           s.Handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConnection,
		ConnState:         connState,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: HeaderTimeout,
		ReadTimeout:       requestTimeout, // Buffered shortens it
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          stdlog.New(&fewLines{rate.NewLimiter(1, 10)}, "", 0),
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		s.listening.Store(false)
		// The requests' own context has ended; a caller who stays has only this long.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	s.listening.Store(true)
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	if err := <-stopped; err != nil {
		_ = server.Close()
	}
	return nil
}

// fewLines logs net/http's messages on connections, such as failed handshakes. It drops
// what exceeds its limit, because callers determine how many there are.
type fewLines struct{ limiter *rate.Limiter }

func (f *fewLines) Write(line []byte) (int, error) {
	if f.limiter.Allow() {
		log.Log.WithName("serving").Info(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}
