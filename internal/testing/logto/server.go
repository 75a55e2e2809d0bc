// SPDX-License-Identifier: Apache-2.0

// Package logto is a double of Logto in the caller's own process, for tests: its
// Management API, token endpoint, discovery and keys, with the observed behaviour of a
// running Logto, quirks included. [Start] listens. [New] does not, and is cheap enough
// for thousands of servers, reached through [Server.Transport]. The methods that a
// console would offer ([Server.CreateResource], [Server.RenameApplication],
// [Server.RevokeScope] and so on) change the state without the API, [Server.Snapshot]
// shows it, [Server.SetFault] makes requests fail, and [Server.Count] counts them. It
// is strict: it answers with 501 to any request that it does not know, and remembers
// it, see [Server.Violations].
package logto

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// ManagementAPI is the resource indicator of the Management API.
const ManagementAPI = "https://default.logto.app/api"

// IdleTimeout is how long Logto keeps an idle connection open.
const IdleTimeout = 5 * time.Second

const tenant = "default"

// Option changes how a server behaves.
type Option func(*options)

type options struct {
	http         bool
	endpoint     string
	minor        int // of version 1.x
	seed         uint64
	now          func() time.Time
	secretPrefix string
	idle         time.Duration
	cheapKey     bool
	err          error
}

// WithHTTP serves plain HTTP instead of HTTPS.
func WithHTTP() Option { return func(o *options) { o.http = true } }

// WithEndpoint sets the scheme and host at which clients reach the server. Default: the address
// it listens at.
func WithEndpoint(endpoint string) Option { return func(o *options) { o.endpoint = endpoint } }

// WithVersion makes the server behave like another version than 1.42, such as "1.37".
func WithVersion(version string) Option {
	return func(o *options) {
		minor, ok := strings.CutPrefix(version, "1.")
		var err error
		if o.minor, err = strconv.Atoi(minor); !ok || err != nil {
			o.err = fmt.Errorf("version %q: want 1.x", version)
		}
	}
}

// WithSeed sets the seed for identifiers, secrets and the order of unordered lists.
func WithSeed(seed uint64) Option { return func(o *options) { o.seed = seed } }

// WithClock sets the clock. Default: time.Now.
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// WithSecretPrefix makes every client secret begin with this text, so that a test can recognise secrets where they
// must not be.
func WithSecretPrefix(prefix string) Option { return func(o *options) { o.secretPrefix = prefix } }

// WithCheapKey makes the server sign with ES256 until its key is rotated, unlike a
// real Logto, which signs with ES384. A signature then costs a twentieth, for tests
// with thousands of servers whose tokens are read and not verified.
func WithCheapKey() Option { return func(o *options) { o.cheapKey = true } }

// WithIdleTimeout sets how long idle connections stay open. Default: [IdleTimeout].
func WithIdleTimeout(idle time.Duration) Option { return func(o *options) { o.idle = idle } }

// Server is a Logto. All its methods are safe for concurrent use, at any time.
type Server struct {
	opts     options
	endpoint string
	caPEM    []byte
	http     *http.Server // nil unless it listens
	served   sync.WaitGroup

	record recorder

	mu         sync.Mutex // guards the fields below
	rand       *rand.Rand
	state      state
	keys       keyring
	tokens     map[string]issued // by the token itself
	down       bool
	management struct{ id, secret string }
}

// New makes a server that does not listen: reach it through [Server.Transport] or as an [http.Handler].
func New(opts ...Option) (*Server, error) {
	o := options{minor: 42, now: time.Now, idle: IdleTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	if o.err != nil {
		return nil, o.err
	}
	s := &Server{
		opts: o, endpoint: o.endpoint,
		rand: rand.New(rand.NewPCG(o.seed, 0x1067_0)), tokens: map[string]issued{}, keys: newKeyring(o.cheapKey),
	}
	if s.endpoint == "" {
		s.endpoint = s.scheme() + "://logto.example.com"
	}
	s.state = newState()
	s.bootstrap()
	return s, nil
}

// Start makes a server that listens on a free port of 127.0.0.1.
func Start(opts ...Option) (*Server, error) {
	s, err := New(opts...)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if s.opts.endpoint == "" {
		s.endpoint = s.scheme() + "://" + listener.Addr().String()
	}
	s.http = &http.Server{
		Handler: s, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute, IdleTimeout: s.opts.idle,
	}
	if !s.opts.http {
		certificate, caPEM, err := pki.ServerAt("Logto test server", s.endpoint)
		if err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("make the certificate: %w", err)
		}
		s.caPEM = caPEM
		s.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
	s.served.Go(func() {
		if s.opts.http {
			_ = s.http.Serve(listener)
		} else {
			_ = s.http.ServeTLS(listener, "", "")
		}
	})
	return s, nil
}

// Close stops the server and breaks its connections. A server that does not listen needs no
// Close.
func (s *Server) Close() {
	if s.http != nil {
		_ = s.http.Close()
		s.served.Wait()
	}
}

// Endpoint returns the server's address, without a slash at the end.
func (s *Server) Endpoint() string { return s.endpoint }

// Issuer returns the issuer identifier.
func (s *Server) Issuer() string { return s.endpoint + "/oidc" }

// TokenURL returns the address of the token endpoint.
func (s *Server) TokenURL() string { return s.Issuer() + "/token" }

// JWKSURL returns the address of the published keys.
func (s *Server) JWKSURL() string { return s.Issuer() + "/jwks" }

// CAPEM returns the certificate of the CA that signed the server's own, in PEM, and nil without TLS.
func (s *Server) CAPEM() []byte { return s.caPEM }

// ManagementClientID returns the client identifier of an application that may use the Management API.
func (s *Server) ManagementClientID() string { return s.management.id }

// ManagementClientSecret returns that application's secret.
func (s *Server) ManagementClientSecret() string { return s.management.secret }

func (s *Server) scheme() string {
	if s.opts.http {
		return "http"
	}
	return "https"
}

// now returns the time in whole milliseconds, the precision of Logto's database.
func (s *Server) now() time.Time { return s.opts.now().Truncate(time.Millisecond) }

// bootstrap creates what every Logto has: its Management API, the role for it, and an
// application with that role.
func (s *Server) bootstrap() {
	api := s.insertResource("Logto Management API", ManagementAPI, defaultTTL)
	all := s.insertScope(api.id, "all", nil)
	access := s.insertRole(managementRole, "Management API access", machineToMachine)
	access.scopes[all.id] = true
	app := s.insertApplication("operator")
	app.roles[access.id] = true
	api.builtin, access.builtin, app.builtin = true, true, true
	s.management.id, s.management.secret = app.id, app.secrets[0].value
}
