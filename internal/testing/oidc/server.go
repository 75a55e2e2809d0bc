// SPDX-License-Identifier: Apache-2.0

// Package oidc is an OAuth 2.0 authorization server in the caller's own process, for
// tests, the demo and the benchmark. Start one with [Start] and stop it with
// [Server.Close]. Declare its APIs with [Server.SetResource] and the applications with
// [Server.SetClient], each with only the scopes it is granted. Rotate its signing keys
// with [Server.RotateKey] and related methods, make it misbehave with
// [Server.SetFault], and read its requests from [Server.TokenRequests] and
// [Server.Count].
//
// The protocol is go-oidc's: it judges the grant type and private_key_jwt, and makes
// and signs the tokens. This package adds what would be slow there (secrets), what
// go-oidc does not know (assertions of a foreign issuer), and what differs between
// real servers: which parameter names the API, what happens to scopes that are not
// granted, odd answers.
package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/luikyv/go-oidc/pkg/goidc"
	"github.com/luikyv/go-oidc/pkg/provider"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// Options say how a server behaves for all its clients. The zero value is a well-behaved server on plain HTTP.
type Options struct {
	// Issuer is the issuer identifier. Default: URL, followed by PathPrefix. The endpoints always stay at URL, but an
	// assertion for the token endpoint must then name Issuer + "/token".
	Issuer string
	// URL is the address at which clients reach the server: scheme, host and port, without a slash at the end.
	// Default: the address it listens at. Behind a Kubernetes Service it is the Service's.
	URL string
	// PathPrefix goes before every path, e.g. "/oidc"; it begins with a slash and does not end with one.
	PathPrefix string
	// TLS serves HTTPS with a certificate for 127.0.0.1, ::1, localhost and the hosts of Issuer and URL, from a CA that
	// [Server.CAPEM] returns.
	TLS bool
	// Addr is the address to listen at. Default: 127.0.0.1:0, any free port.
	Addr string
	// Listener is used instead of a new one at Addr, and closed with the server.
	Listener net.Listener
	// Now is the clock for the tokens' iat and exp, and for judging assertions. Default: time.Now.
	Now func() time.Time

	// TokenLifetime is how long a token lives, in whole seconds. Default: 5 minutes.
	TokenLifetime time.Duration
	// TokenType is the typ of the tokens' JOSE header. Default: "at+jwt" (RFC 9068).
	TokenType string
	// ClientIDInAudience puts the client's own id into aud, after the resource.
	ClientIDInAudience bool

	// Algorithm is the algorithm of new signing keys: RS256, PS256, ES256, ES384 or EdDSA. Default:
	// ES256. [Server.SetAlgorithm] changes it for keys made later.
	Algorithm string
	// OmitKeyAlgorithm publishes keys without their "alg".
	OmitKeyAlgorithm bool
	// LooseKeys publishes keys as some servers do although RFC 7518 does not allow it:
	// numbers in standard base64 with padding, EC coordinates without leading zeros, and
	// "Ed25519" (RFC 9864) for "EdDSA".
	LooseKeys bool
	// JWKSMaxAge is the max-age of JWKS answers. Default: none, they say no-cache.
	JWKSMaxAge time.Duration

	// AudienceParameter is the request parameter that names the API: "resource" (RFC 8707; the default) or
	// "audience". The server ignores the other one.
	AudienceParameter string
	// DropUngrantedScopes silently omits scopes that are not granted from the token, and
	// also the scope member if none is left. Default: such a request fails with
	// invalid_scope.
	DropUngrantedScopes bool
	// OmitScope omits scope from the answer, OmitExpiresIn omits expires_in,
	// ExpiresInString sends it as a string.
	OmitScope, OmitExpiresIn, ExpiresInString bool

	// IssuerAudienceOnly refuses client assertions whose aud is anything but the issuer identifier alone
	// (rfc7523bis). Default: the token endpoint is accepted as well.
	IssuerAudienceOnly bool

	// DynamicRegistration lets clients register themselves. Default: they cannot.
	DynamicRegistration *DynamicRegistration

	// RecordLimit is how many token requests the server remembers at least; it may forget older ones. Default:
	// 200,000.
	RecordLimit int
}

// Server is a running authorization server. All its methods are safe for concurrent use, at any time; the next
// request sees their effect.
type Server struct {
	opts   Options
	base   string // scheme, host and path prefix of the endpoints
	issuer string
	caPEM  []byte

	op       http.Handler // go-oidc
	keys     keyring
	registry registry
	faults   [endpoints]faults // by Endpoint
	record   recorder
	seenJTIs replayGuard

	http   *http.Server
	served sync.WaitGroup
}

// Endpoint is one of the addresses at which the server answers.
type Endpoint int

// The endpoints. Discovery stands for both of its well-known paths, Registration for the endpoint and everything
// registered there.
const (
	Token Endpoint = iota
	Discovery
	JWKS
	Registration
	endpoints // how many there are
)

const (
	defaultTokenLifetime = 5 * time.Minute
	defaultTokenType     = "at+jwt"
	defaultRecordLimit   = 200_000
	requestLimit         = 1 << 20 // bytes of a request body
)

// Start makes a server with one fresh signing key and listens.
func Start(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.TokenLifetime == 0 {
		o.TokenLifetime = defaultTokenLifetime
	}
	o.TokenType = orDefault(o.TokenType, defaultTokenType)
	o.AudienceParameter = orDefault(o.AudienceParameter, "resource")
	if o.RecordLimit == 0 {
		o.RecordLimit = defaultRecordLimit
	}
	if o.AudienceParameter != "resource" && o.AudienceParameter != "audience" {
		return nil, fmt.Errorf("audience parameter %q: want resource or audience", o.AudienceParameter)
	}
	if o.PathPrefix != "" && (!strings.HasPrefix(o.PathPrefix, "/") || strings.HasSuffix(o.PathPrefix, "/")) {
		return nil, fmt.Errorf("path prefix %q: want a slash before and none after", o.PathPrefix)
	}
	s := &Server{opts: o}
	s.record.limit = o.RecordLimit
	s.keys.alg = orDefault(o.Algorithm, string(jose.ES256))
	if err := s.RotateKeyHard(); err != nil {
		return nil, fmt.Errorf("make the first signing key: %w", err)
	}

	listener := o.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", orDefault(o.Addr, "127.0.0.1:0")); err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	scheme := "http://"
	if o.TLS {
		scheme = "https://"
	}
	s.base = orDefault(o.URL, scheme+listener.Addr().String()) + o.PathPrefix
	s.issuer = orDefault(o.Issuer, s.base)
	s.http = &http.Server{
		Handler: s.routes(),
		// In many tests clients disconnect in the middle of a handshake.
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute,
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s.served.Go(func() {
		if o.TLS {
			_ = s.http.ServeTLS(listener, "", "")
		} else {
			_ = s.http.Serve(listener)
		}
	})
	return s, nil
}

// prepare makes what depends on the address: the certificate and go-oidc's provider.
func (s *Server) prepare() (err error) {
	if s.opts.TLS {
		var certificate tls.Certificate
		if certificate, s.caPEM, err = pki.ServerAt("test authorization server", s.base, s.issuer); err != nil {
			return fmt.Errorf("make the certificate: %w", err)
		}
		s.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
	if s.op, err = s.provider(); err != nil {
		return fmt.Errorf("set up go-oidc: %w", err)
	}
	return nil
}

// Close stops the server and breaks its connections, including those of hanging requests. It returns once the server
// no longer listens.
func (s *Server) Close() {
	_ = s.http.Close() // which ends the requests' contexts
	s.served.Wait()
}

// Issuer returns the issuer identifier.
func (s *Server) Issuer() string { return s.issuer }

// TokenURL returns the address of the token endpoint.
func (s *Server) TokenURL() string { return s.base + "/token" }

// JWKSURL returns the address of the published keys.
func (s *Server) JWKSURL() string { return s.base + "/jwks" }

// CAPEM returns the certificate of the CA that signed the server's own, in PEM, and nil without TLS.
func (s *Server) CAPEM() []byte { return s.caPEM }

// provider returns go-oidc, configured to look up what can change while the server
// runs (clients, keys, resources) in the request's context. [Server.serveToken] puts
// it there, so that one request sees one state of the server from beginning to end.
func (s *Server) provider() (http.Handler, error) {
	// go-oidc has no clock hook. Its own check of an assertion's times always passes; ours, in
	// [Server.assertionTimes], judges them by Options.Now. [Server.grant] sets the tokens' times.
	const century = 100 * 365 * 24 * 60 * 60
	options := []provider.Option{
		provider.WithClientCredentialsGrant(),
		provider.WithTokenAuthnMethods(goidc.ClientAuthnSecretBasic, goidc.ClientAuthnSecretPost, goidc.ClientAuthnPrivateKeyJWT),
		provider.WithPrivateKeyJWTSignatureAlgs(pki.Algorithms[0], pki.Algorithms[1:]...),
		provider.WithJWTLifetime(century),
		provider.WithJWTLeewayTime(century),
		provider.WithCheckJTIFunc(s.seenJTIs.check),
		// Pointers: go-oidc takes a zero value for "not set".
		provider.WithClientStorage(&clientStorage{}),
		provider.WithGrantSessionStorage(&grantStorage{}),
		provider.WithScopes(anyScope),
		provider.WithHandleGrantFunc(s.grant),
		provider.WithTokenOptions(tokenOptions),
	}
	op, err := provider.New(goidc.ProfileOpenID, s.issuer, s.jwks, append(options, s.registration()...)...)
	if err != nil {
		return nil, err
	}
	return op.Handler(), nil
}

// jwks answers go-oidc's two questions: which key signs a token, and which keys to
// publish.
func (s *Server) jwks(ctx context.Context) (goidc.JSONWebKeySet, error) {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return goidc.JSONWebKeySet{Keys: []jose.JSONWebKey{e.key}}, nil
	}
	published := s.keys.now().published
	if s.opts.OmitKeyAlgorithm {
		for i := range published {
			published[i].Algorithm = ""
		}
	}
	return goidc.JSONWebKeySet{Keys: published}, nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	prefix := s.opts.PathPrefix
	mux.HandleFunc(prefix+"/token", s.serveToken)
	mux.HandleFunc(prefix+"/jwks", s.serveJWKS)
	if s.opts.DynamicRegistration != nil {
		mux.HandleFunc(prefix+registrationPath, s.serveRegistration)
		mux.HandleFunc(prefix+registrationPath+"/{id}", s.serveRegistration)
	}
	// OpenID Connect Discovery appends its path to the issuer's, RFC 8414 §3.1 inserts it before.
	mux.HandleFunc(prefix+"/.well-known/openid-configuration", s.serveDiscovery)
	mux.HandleFunc("/.well-known/oauth-authorization-server"+prefix, s.serveDiscovery)
	return mux
}

func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	s.record.counts[Discovery].Add(1)
	f := s.faults[Discovery].next(r, "")
	a := faulty(r, f)
	if a == nil {
		a = s.ask(r, "/.well-known/openid-configuration")
		a.edit(func(doc map[string]any) {
			doc["token_endpoint"], doc["jwks_uri"] = s.TokenURL(), s.JWKSURL()
			doc["scopes_supported"] = s.registry.scopes()
			// go-oidc always names these two; this server has neither.
			delete(doc, "authorization_endpoint")
			delete(doc, "userinfo_endpoint")
			if s.opts.DynamicRegistration != nil {
				doc["registration_endpoint"] = s.RegistrationURL()
				doc["token_endpoint_auth_methods_supported"] = []string{SecretBasic, SecretPost, PrivateKeyJWT}
			}
		})
		a.rewrite(f)
	}
	a.send(w, f)
}

func (s *Server) serveJWKS(w http.ResponseWriter, r *http.Request) {
	s.record.jwksRequested(time.Now())
	f := s.faults[JWKS].next(r, "")
	a := faulty(r, f)
	if a == nil {
		a = s.ask(r, "/jwks")
		if s.opts.LooseKeys {
			a.rewrite(&Fault{Rewrite: loosen})
		}
		a.rewrite(f)
		s.conditional(r, a)
	}
	a.send(w, f)
}

// conditional adds caching headers to a JWKS answer, and omits its body if the client has it (RFC 9110 §13.1.2).
func (s *Server) conditional(r *http.Request, a *answer) {
	etag := `"` + Hash(a.body.String()) + `"`
	a.header.Set("ETag", etag)
	a.header.Del("Pragma")
	a.header.Set("Cache-Control", "no-cache")
	if s.opts.JWKSMaxAge > 0 {
		a.header.Set("Cache-Control", fmt.Sprintf("max-age=%d", int(s.opts.JWKSMaxAge.Seconds())))
	}
	if a.status == http.StatusOK && strings.Contains(r.Header.Get("If-None-Match"), etag) {
		s.record.notModified.Add(1)
		a.status = http.StatusNotModified
		a.header.Del("Content-Type")
		a.body.Reset()
	}
}

// ask lets go-oidc answer the request as if it had come for path.
func (s *Server) ask(r *http.Request, path string) *answer {
	q := *r
	q.URL = &url.URL{Path: path}
	a := &answer{header: http.Header{}, status: http.StatusOK}
	s.op.ServeHTTP(a, &q)
	return a
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
