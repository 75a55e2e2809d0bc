// SPDX-License-Identifier: Apache-2.0

// Package serving serves HTTP to callers whom nobody has vouched for: any pod of
// the cluster reaches the webhook and the metrics. It bounds the connections, the
// bytes that are read and not answered yet, and the time that a caller may take,
// and shares all of it between the addresses that call, so that no caller keeps
// another out.
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
	// Connections is how many connections a server has at a time.
	Connections = 512
	// HeaderTimeout is how long a caller may take for the TLS handshake, and for
	// the header of a request.
	HeaderTimeout = 3 * time.Second
	// BodyTimeout is how long it may take for the body.
	BodyTimeout = 2 * time.Second
	// requestTimeout is how long a request may take in all.
	requestTimeout = 30 * time.Second
	// idleTimeout is how long a connection may stay without a request. Go's
	// clients, and the API server is one, give up earlier or try again.
	idleTimeout = 90 * time.Second
	// maxHeader is how long a header may be. The API server's is below 1 KiB, a
	// scraper's holds a token.
	maxHeader = 16 << 10
	// shutdownTimeout is how long requests are waited for at the end.
	shutdownTimeout = 10 * time.Second
)

// Server serves a handler at an address, on every replica.
type Server struct {
	// Address is where it listens.
	Address string
	// TLS makes the configuration when the server starts. Nil: plain HTTP.
	TLS func(context.Context) (*tls.Config, error)
	// Handler answers. A handler that reads bodies is one of Buffered.
	Handler http.Handler

	listening atomic.Bool
}

// NeedLeaderElection says that it is served on every replica.
func (*Server) NeedLeaderElection() bool { return false }

// Check is ready once the server listens.
func (s *Server) Check(*http.Request) error {
	if !s.listening.Load() {
		return errors.New("the server does not listen yet")
	}
	return nil
}

// Start serves until the context ends, and then what has been asked already.
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
		// Many requests over one connection would escape the bounds. The API
		// server calls webhooks over HTTP/1.1 anyway.
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
		ReadTimeout:       requestTimeout, // Buffered narrows it
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          stdlog.New(&fewLines{rate.NewLimiter(1, 10)}, "", 0),
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		s.listening.Store(false)
		// The context of the requests has ended, those who stay do not matter.
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

// fewLines logs what net/http says of connections, such as failed handshakes: not
// all of it, for callers decide how much there is.
type fewLines struct{ limiter *rate.Limiter }

func (f *fewLines) Write(line []byte) (int, error) {
	if f.limiter.Allow() {
		log.Log.WithName("serving").Info(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}
