// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/luikyv/go-oidc/pkg/goidc"
	"github.com/luikyv/go-oidc/pkg/provider"
)

// DynamicRegistration lets clients register themselves (RFC 7591) and manage their
// registrations (RFC 7592). Such a client has the scopes of its registration at every
// resource: at one of [Server.SetResource] those that exist there, at any other all of
// them.
type DynamicRegistration struct {
	// InitialAccessToken is required to register. Default: no token is.
	InitialAccessToken string
	// RotateTokens returns another registration access token with each update.
	RotateTokens bool
}

// RegisteredClient is a client that registered itself.
type RegisteredClient struct {
	ID, Name string
	// Scopes are sorted.
	Scopes []string
	// Method is how it authenticates at the token endpoint: SecretBasic or SecretPost.
	Method string
}

// RegisteredClients returns the clients that registered themselves, in the order in which they did.
func (s *Server) RegisteredClients() []RegisteredClient {
	s.registry.mu.RLock()
	defer s.registry.mu.RUnlock()
	var all []*registered
	for _, c := range s.registry.clients {
		if c.dynamic != nil {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *registered) int { return a.dynamic.number - b.dynamic.number })
	list := make([]RegisteredClient, len(all))
	for i, c := range all {
		list[i] = c.asRegistered()
	}
	return list
}

func (c *registered) asRegistered() RegisteredClient {
	scopes := strings.Fields(c.dynamic.scope)
	slices.Sort(scopes)
	return RegisteredClient{ID: c.ID, Name: c.dynamic.stored.Name, Scopes: scopes, Method: c.Method}
}

// ChangeRegisteredClient changes the name and the scopes of a client that registered itself, as an
// administrator would at the server's console. It reports whether a client of that id exists.
// [Server.RemoveClient] deletes one.
func (s *Server) ChangeRegisteredClient(id string, change func(*RegisteredClient)) bool {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	former := s.registry.clients[id]
	if former == nil || former.dynamic == nil {
		return false
	}
	c := former.asRegistered()
	change(&c)
	changed, dynamic := *former, *former.dynamic
	dynamic.stored.Name, dynamic.scope = c.Name, strings.Join(c.Scopes, " ")
	changed.dynamic = &dynamic
	s.registry.clients[id] = &changed
	return true
}

// dynamic is what only a registered client has.
type dynamic struct {
	number int
	scope  string
	stored goidc.Client // as go-oidc last saved it
}

// registering is a request to the registration endpoint while go-oidc handles it, carried in the request's context.
type registering struct {
	server        *Server
	scope, method string // what the request asks for
}

type registeringKey struct{}

// secretJWT is the method that go-oidc sees for registered clients: it would hash the secrets of other methods with
// bcrypt.
const secretJWT = goidc.ClientAuthnSecretJWT

// registration returns go-oidc's options for it.
func (s *Server) registration() []provider.Option {
	o := s.opts.DynamicRegistration
	if o == nil {
		return nil
	}
	initial := func(_ *http.Request, token string) error {
		if o.InitialAccessToken != "" && subtle.ConstantTimeCompare([]byte(token), []byte(o.InitialAccessToken)) != 1 {
			return errors.New("not the initial access token")
		}
		return nil
	}
	options := []provider.Option{
		provider.WithDCR(nil, initial),
		provider.WithTokenAuthnMethods(goidc.ClientAuthnSecretBasic, goidc.ClientAuthnSecretPost, goidc.ClientAuthnPrivateKeyJWT, secretJWT),
	}
	if o.RotateTokens {
		options = append(options, provider.WithDCRTokenRotation())
	}
	return options
}

const registrationPath = "/register"

// RegistrationURL returns the address of the registration endpoint, which exists with [Options.DynamicRegistration].
func (s *Server) RegistrationURL() string { return s.base + registrationPath }

func (s *Server) serveRegistration(w http.ResponseWriter, r *http.Request) {
	s.record.counts[Registration].Add(1)
	id := r.PathValue("id")
	f := s.faults[Registration].next(r, id)
	a := faulty(r, f)
	if a == nil {
		a = s.register(w, r, id)
		a.rewrite(f)
	}
	a.send(w, f)
}

// register lets go-oidc answer and adds what go-oidc does not do: it allows any scope,
// and holds an update to RFC 7592 §2.2.
func (s *Server) register(w http.ResponseWriter, r *http.Request, id string) *answer {
	e := &registering{server: s}
	q := r.WithContext(context.WithValue(r.Context(), registeringKey{}, e))
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestLimit))
		var members map[string]any
		if err != nil || json.Unmarshal(body, &members) != nil {
			members = nil
		}
		if r.Method == http.MethodPut && members != nil && !s.updates(members, id) {
			return invalidRequest()
		}
		if members != nil {
			body = e.forGoOIDC(members)
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
	}
	path := registrationPath
	if id != "" {
		path += "/" + id
	}
	a := s.ask(q, path)
	if a.status/100 == 2 {
		a.edit(s.finishRegistration)
	}
	return a
}

// updates reports whether an update names its client, names no wrong secret, and omits what it must omit.
func (s *Server) updates(members map[string]any, id string) bool {
	for _, forbidden := range []string{
		"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at",
	} {
		if _, ok := members[forbidden]; ok {
			return false
		}
	}
	s.registry.mu.RLock()
	defer s.registry.mu.RUnlock()
	c := s.registry.clients[id]
	secret, there := members["client_secret"]
	return members["client_id"] == id && (!there || c == nil || secret == c.Secret)
}

// forGoOIDC changes the body to what go-oidc accepts.
func (e *registering) forGoOIDC(members map[string]any) []byte {
	e.scope, _ = members["scope"].(string)
	delete(members, "scope")
	delete(members, "client_id")
	delete(members, "client_secret")
	switch method, _ := members["token_endpoint_auth_method"].(string); method {
	case "", SecretBasic, SecretPost:
		e.method = orDefault(method, SecretBasic)
		members["token_endpoint_auth_method"] = secretJWT
	case string(secretJWT):
		members["token_endpoint_auth_method"] = "unknown" // known only to go-oidc: no client may request it
	}
	body, err := json.Marshal(members)
	if err != nil {
		return nil // which is not JSON
	}
	return body
}

// finishRegistration restores in go-oidc's answer what was hidden from go-oidc.
func (s *Server) finishRegistration(members map[string]any) {
	id, _ := members["client_id"].(string)
	s.registry.mu.RLock()
	c := s.registry.clients[id]
	s.registry.mu.RUnlock()
	if c == nil || c.dynamic == nil {
		return // deleted in the meantime
	}
	members["registration_client_uri"] = s.RegistrationURL() + "/" + id
	members["token_endpoint_auth_method"] = c.Method
	members["client_secret_expires_at"] = 0
	if c.dynamic.scope != "" {
		members["scope"] = c.dynamic.scope
	}
}

func invalidRequest() *answer {
	a := &answer{header: http.Header{"Content-Type": {"application/json"}}, status: http.StatusBadRequest}
	a.body.WriteString(`{"error":"invalid_request"}`)
	return a
}

// load returns go-oidc's view of a client that is managed.
func (e *registering) load(id string) (*goidc.Client, error) {
	g := &e.server.registry
	g.mu.RLock()
	defer g.mu.RUnlock()
	c := g.clients[id]
	if c == nil || c.dynamic == nil {
		return nil, errNone
	}
	stored := c.dynamic.stored
	return &stored, nil
}

// save stores what go-oidc made of a registration or an update.
func (e *registering) save(client *goidc.Client) error {
	method := e.method
	if client.TokenAuthnMethod != secretJWT {
		method = string(client.TokenAuthnMethod)
	}
	if method != SecretBasic && method != SecretPost {
		return goidc.NewError(goidc.ErrorCodeInvalidClientMetadata, "this server registers clients with a secret only")
	}
	c, err := newRegistered(Client{ID: client.ID, Method: method, Secret: client.Secret}, client.GrantTypes...)
	if err != nil {
		return err
	}
	g := &e.server.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	c.dynamic = &dynamic{number: g.sequence, scope: e.scope, stored: *client}
	if former := g.clients[client.ID]; former != nil && former.dynamic != nil {
		c.dynamic.number = former.dynamic.number
	}
	g.sequence++
	g.set(c)
	return nil
}

func (e *registering) remove(id string) {
	g := &e.server.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remove(id)
}
