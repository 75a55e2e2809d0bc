// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// How a client authenticates at the token endpoint.
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt"
	// ServiceAccount is a client assertion (RFC 7523) from a foreign issuer, such as a Kubernetes API server,
	// about a subject of its own. It does not contain the client's id.
	ServiceAccount = "serviceaccount"
)

// Client is an application at the authorization server.
type Client struct {
	// ID is the client_id. Method is one of the constants above (default: SecretBasic); the server accepts no other.
	ID, Method string
	// Secret is for SecretBasic and SecretPost.
	Secret string

	// PublicJWKS verifies the assertions: the client's own keys for PrivateKeyJWT, the issuer's for ServiceAccount.
	PublicJWKS []byte
	// AssertionAlg is the only algorithm accepted of a PrivateKeyJWT. Default: any that [NewKeyPair] knows.
	AssertionAlg string
	// AssertionIssuer and AssertionSubject are the iss and sub that a ServiceAccount assertion must have.
	// AssertionAudience must be in its aud (default: the server's issuer identifier).
	AssertionIssuer, AssertionSubject, AssertionAudience string

	// Scopes are the granted scopes by resource; those of "" are for requests that name no resource.
	Scopes map[string][]string
	// DefaultResource becomes the token's aud if a request names none. Default: the token then has no aud.
	DefaultResource string
	// TokenLifetime overrides the server's.
	TokenLifetime time.Duration
	// Opaque gives the client opaque tokens instead of JWTs.
	Opaque bool
}

// registered is a client with everything derived from it. It does not change.
type registered struct {
	Client
	jwks goidc.JSONWebKeySet
	// accepted is the client as go-oidc sees it: go-oidc judges private_key_jwt itself and trusts us for the other
	// methods. Its own check of secrets is bcrypt, a thousand times the cost of the rest of a request.
	accepted *goidc.Client
	// refused is the client with a method that go-oidc answers with invalid_client.
	refused *goidc.Client
	// dynamic is set for a client that registered itself.
	dynamic *dynamic
}

type registry struct {
	mu        sync.RWMutex
	clients   map[string]*registered
	subjects  map[subject]*registered // clients known by ServiceAccount assertions
	resources map[string][]string     // their scopes
	sequence  int                     // of registrations
}

// subject is what a foreign assertion is about.
type subject struct{ iss, sub string }

var anyScope = goidc.NewDynamicScope("any", func(string) bool { return true })

// SetClient registers a client, or replaces it as a whole; another Secret is then a rotation without overlap. It
// fails if PublicJWKS is needed and cannot be read.
func (s *Server) SetClient(c Client) error {
	if c.ID == "" {
		return errors.New("a client needs an id")
	}
	c.Method = orDefault(c.Method, SecretBasic)
	c.AssertionAudience = orDefault(c.AssertionAudience, s.issuer)
	r, err := newRegistered(c, goidc.GrantClientCredentials)
	if err != nil {
		return err
	}
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	s.registry.set(r)
	return nil
}

// newRegistered derives from a client what the server needs of it. Its method must be set.
func newRegistered(c Client, grants ...goidc.GrantType) (*registered, error) {
	r := &registered{Client: c}
	meta := goidc.ClientMeta{
		GrantTypes: grants, ScopeIDs: anyScope.ID, TokenAuthnMethod: "refused",
	}
	r.refused = &goidc.Client{ID: c.ID, ClientMeta: meta}
	meta.TokenAuthnMethod = goidc.ClientAuthnNone
	switch c.Method {
	case SecretBasic, SecretPost:
	case PrivateKeyJWT, ServiceAccount:
		if err := json.Unmarshal(c.PublicJWKS, &r.jwks); err != nil {
			return nil, fmt.Errorf("client %q: read its public keys: %w", c.ID, err)
		}
	default:
		return nil, fmt.Errorf("client %q: unknown method %q", c.ID, c.Method)
	}
	if c.Method == ServiceAccount && (c.AssertionIssuer == "" || c.AssertionSubject == "") {
		return nil, fmt.Errorf("client %q: an assertion needs an issuer and a subject", c.ID)
	}
	if c.Method == PrivateKeyJWT {
		meta.TokenAuthnMethod = goidc.ClientAuthnPrivateKeyJWT
		meta.TokenAuthnSigAlg = jose.SignatureAlgorithm(c.AssertionAlg)
		meta.PublicJWKS = &r.jwks
	}
	r.accepted = &goidc.Client{ID: c.ID, ClientMeta: meta}
	return r, nil
}

// set replaces the client with the same id, or adds it. The caller must hold the registry's
// lock.
func (g *registry) set(r *registered) {
	if g.clients == nil {
		g.clients, g.subjects = map[string]*registered{}, map[subject]*registered{}
	}
	g.remove(r.ID)
	g.clients[r.ID] = r
	if r.Method == ServiceAccount {
		g.subjects[subject{r.AssertionIssuer, r.AssertionSubject}] = r
	}
}

// RemoveClient removes a client: the server answers its next request with invalid_client.
func (s *Server) RemoveClient(id string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	s.registry.remove(id)
}

func (g *registry) remove(id string) {
	c, ok := g.clients[id]
	if !ok {
		return
	}
	delete(g.clients, id)
	if of := (subject{c.AssertionIssuer, c.AssertionSubject}); g.subjects[of] == c {
		delete(g.subjects, of)
	}
}

// SetResource declares an API and its scopes, or replaces its scopes.
func (s *Server) SetResource(id string, scopes ...string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.registry.resources == nil {
		s.registry.resources = map[string][]string{}
	}
	s.registry.resources[id] = slices.Clone(scopes)
}

// RemoveResource removes an API: the server answers a request that names it with
// invalid_target.
func (s *Server) RemoveResource(id string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	delete(s.registry.resources, id)
}

// scopes returns the scopes of all resources.
func (g *registry) scopes() []string {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := []string{}
	for _, scopes := range g.resources {
		all = append(all, scopes...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// scopesAt returns the scopes of a resource, and reports whether the resource exists.
func (g *registry) scopesAt(resource string) ([]string, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	scopes, ok := g.resources[resource]
	return scopes, ok
}

// credentials are what a request authenticates with.
type credentials struct {
	method, id, secret string
	assertion          *jwt.JSONWebToken
	claims             jwt.Claims
	allClaims          map[string]any
	// client is the client that they claim to be from; nil if there is none.
	client *registered
}

// credentialsOf reads a request's credentials without judging them. The form must already be parsed.
func (g *registry) credentialsOf(r *http.Request) credentials {
	c := credentials{id: r.PostForm.Get("client_id"), secret: r.PostForm.Get("client_secret")}
	presented := 0
	if c.secret != "" {
		c.method = SecretPost
		presented++
	}
	if id, secret, ok := r.BasicAuth(); ok {
		c.method = SecretBasic
		presented++
		// RFC 6749 §2.3.1: both are form-encoded. What cannot be decoded belongs to no client.
		var idErr, secretErr error
		c.id, idErr = url.QueryUnescape(id)
		c.secret, secretErr = url.QueryUnescape(secret)
		if errors.Join(idErr, secretErr) != nil {
			c.id = ""
		}
	}
	if raw := r.PostForm.Get("client_assertion"); raw != "" {
		c.method = PrivateKeyJWT
		presented++
		c.read(raw)
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if presented > 1 { // RFC 6749 §2.3: not more than one method in a request
		c.method = "several"
		return c
	}
	if c.assertion != nil {
		about := g.subjects[subject{c.claims.Issuer, c.claims.Subject}]
		if about != nil && (c.id == "" || c.id == about.ID) {
			c.method, c.id = ServiceAccount, about.ID
		}
		c.id = orDefault(c.id, c.claims.Issuer)
	}
	c.client = g.clients[c.id]
	return c
}

// read parses an assertion without verifying it. It leaves one that it cannot parse for go-oidc to refuse.
func (c *credentials) read(raw string) {
	assertion, err := jwt.ParseSigned(raw, pki.Algorithms)
	if err != nil || assertion.UnsafeClaimsWithoutVerification(&c.claims, &c.allClaims) != nil {
		c.claims = jwt.Claims{}
		return
	}
	c.assertion = assertion
}

// accepted judges the credentials. Of private_key_jwt it checks only what go-oidc does not: the times and the strict
// audience.
func (s *Server) accepted(c credentials) bool {
	if c.client == nil || c.client.Method != c.method {
		return false
	}
	switch c.method {
	case SecretBasic, SecretPost:
		return subtle.ConstantTimeCompare([]byte(c.secret), []byte(c.client.Secret)) == 1
	case PrivateKeyJWT:
		strict := len(c.claims.Audience) == 1 && c.claims.Audience[0] == s.issuer
		return s.assertionTimes(c.claims, assertionLifetime) && (strict || !s.opts.IssuerAudienceOnly)
	}
	key := c.client.jwks.Keys[0]
	if kid := c.assertion.Headers[0].KeyID; kid != "" {
		var err error
		if key, err = c.client.jwks.Key(kid); err != nil {
			return false
		}
	}
	var claims jwt.Claims
	return c.assertion.Claims(key.Key, &claims) == nil &&
		claims.Audience.Contains(c.client.AssertionAudience) && s.assertionTimes(claims, serviceAccountLifetime)
}

const (
	assertionLifetime      = 10 * time.Minute
	serviceAccountLifetime = 100 * 365 * 24 * time.Hour // the foreign issuer decides
	leeway                 = 30 * time.Second
)

// assertionTimes checks exp, nbf and iat by the server's clock. exp must be present and no further off than longest.
func (s *Server) assertionTimes(claims jwt.Claims, longest time.Duration) bool {
	now := s.opts.Now()
	return claims.Expiry != nil && !claims.Expiry.Time().After(now.Add(longest+leeway)) &&
		claims.ValidateWithLeeway(jwt.Expected{Time: now}, leeway) == nil
}

// clientStorage is go-oidc's view of the clients: the one that sends the token request, or the registered ones if the
// request manages one of them.
type clientStorage struct{}

var errNone = errors.New("none here")

func (clientStorage) Client(ctx context.Context, id string) (*goidc.Client, error) {
	if e, ok := ctx.Value(registeringKey{}).(*registering); ok {
		return e.load(id)
	}
	e, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok || e.as == nil || e.as.ID != id {
		return nil, errNone
	}
	return e.as, nil
}

func (clientStorage) Save(ctx context.Context, c *goidc.Client) error {
	if e, ok := ctx.Value(registeringKey{}).(*registering); ok {
		return e.save(c)
	}
	return errNone
}

func (clientStorage) Delete(ctx context.Context, id string) error {
	if e, ok := ctx.Value(registeringKey{}).(*registering); ok {
		e.remove(id)
		return nil
	}
	return errNone
}

// replayGuard refuses a jti that it has seen before. It forgets everything when it is full: no test replays an
// assertion that late.
type replayGuard struct {
	mu   sync.Mutex
	seen map[string]struct{}
}

const replayLimit = 200_000

func (g *replayGuard) check(_ context.Context, jti string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, seen := g.seen[jti]; seen {
		return errors.New("the assertion was used before")
	}
	if g.seen == nil || len(g.seen) >= replayLimit {
		g.seen = map[string]struct{}{}
	}
	g.seen[jti] = struct{}{}
	return nil
}

// NewSecret makes a client secret that contains characters which a form must encode.
func NewSecret() string { return rand.Text() + "+/%& :=end" }
