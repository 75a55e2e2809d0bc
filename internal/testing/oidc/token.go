// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/luikyv/go-oidc/pkg/goidc"
)

// exchange is one token request while go-oidc handles it, carried in the request's context.
type exchange struct {
	client  *registered
	as      *goidc.Client // the client as go-oidc sees it; nil: unknown
	key     jose.JSONWebKey
	scope   string // granted
	tokenID string // the jti, or go-oidc's id of an opaque token
}

type exchangeKey struct{}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	s.record.counts[Token].Add(1)
	r.Body = http.MaxBytesReader(w, r.Body, requestLimit)
	_ = r.ParseForm() // a form that cannot be parsed has no grant_type, and go-oidc refuses it
	c := s.registry.credentialsOf(r)
	entry := s.record.begin(newRequest(arrived, r, c))

	f := s.faults[Token].next(r, c.id)
	a := faulty(r, f)
	if a == nil {
		e := &exchange{client: c.client, key: s.keys.now().current}
		a = s.ask(s.forGoOIDC(r, c, e), "/token")
		s.finishToken(a, e, f)
		a.rewrite(f)
	}
	if a.status == http.StatusUnauthorized && c.method == SecretBasic {
		a.header.Set("WWW-Authenticate", "Basic") // RFC 6749 §5.2
	}
	s.record.finish(entry, a)
	a.send(w, f)
}

// forGoOIDC returns the request in the form that go-oidc must see. If the credentials
// are judged already, the verdict replaces them.
func (s *Server) forGoOIDC(r *http.Request, c credentials, e *exchange) *http.Request {
	q := r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
	if c.client == nil {
		return q
	}
	e.as = c.client.refused
	if s.accepted(c) {
		e.as = c.client.accepted
	}
	if c.method != PrivateKeyJWT {
		q.Header = http.Header{}
		q.PostForm = make(map[string][]string, len(r.PostForm))
		for name, values := range r.PostForm {
			if name != "client_secret" && name != "client_assertion" {
				q.PostForm[name] = values
			}
		}
		q.PostForm.Set("client_id", c.client.ID)
	}
	return q
}

// grant decides on resources and scopes, after go-oidc has authenticated the client and before it makes the token.
func (s *Server) grant(r *http.Request, info *goidc.GrantInfo) error {
	e := r.Context().Value(exchangeKey{}).(*exchange)
	// RFC 6749 §3.2: a parameter without a value counts as omitted.
	resources := slices.DeleteFunc(slices.Clone(r.PostForm[s.opts.AudienceParameter]), func(v string) bool { return v == "" })
	if len(resources) == 0 && e.client.DefaultResource != "" {
		resources = []string{e.client.DefaultResource}
	}
	granted := e.client.Scopes[""]
	if e.client.dynamic != nil {
		granted = strings.Fields(e.client.dynamic.scope)
	}
	if len(resources) > 0 {
		granted = nil
	}
	for _, resource := range resources {
		existing, ok := s.registry.scopesAt(resource)
		if !ok && e.client.dynamic == nil {
			return goidc.NewError(goidc.ErrorCodeInvalidTarget, "the resource is unknown")
		}
		held := e.client.Scopes[resource]
		if e.client.dynamic != nil {
			held = strings.Fields(e.client.dynamic.scope)
		}
		for _, scope := range held {
			if !ok || slices.Contains(existing, scope) {
				granted = append(granted, scope)
			}
		}
	}
	var scopes []string
	for _, scope := range strings.Fields(info.ActiveScopes) {
		if slices.Contains(granted, scope) {
			scopes = append(scopes, scope)
		} else if !s.opts.DropUngrantedScopes {
			return goidc.NewError(goidc.ErrorCodeInvalidScope, "a scope is not granted")
		}
	}
	e.scope = strings.Join(scopes, " ")
	info.ActiveScopes, info.GrantedScopes = e.scope, e.scope

	now := s.opts.Now().Unix()
	info.AdditionalTokenClaims = map[string]any{"iat": now, "exp": now + int64(s.lifetime(e.client))}
	if s.opts.ClientIDInAudience {
		resources = append(resources, e.client.ID)
	}
	if len(resources) > 0 {
		info.ActiveResources, info.GrantedResources = resources, resources
	}
	info.Store = map[string]any{"options": goidc.NewJWTTokenOptions(jose.SignatureAlgorithm(e.key.Algorithm), s.lifetime(e.client))}
	if e.client.Opaque {
		info.Store["options"] = goidc.NewOpaqueTokenOptions(goidc.DefaultOpaqueTokenLength, s.lifetime(e.client))
	}
	return nil
}

// lifetime returns the lifetime of a client's tokens, in seconds.
func (s *Server) lifetime(c *registered) int {
	if c.TokenLifetime > 0 {
		return int(c.TokenLifetime.Seconds())
	}
	return int(s.opts.TokenLifetime.Seconds())
}

func tokenOptions(info goidc.GrantInfo, _ *goidc.Client) goidc.TokenOptions {
	return info.Store["options"].(goidc.TokenOptions)
}

// finishToken changes go-oidc's answer to that of the simulated server.
func (s *Server) finishToken(a *answer, e *exchange, f *Fault) {
	if a.status != http.StatusOK {
		return
	}
	a.edit(func(body map[string]any) {
		token, _ := body["access_token"].(string)
		reshaped, err := s.reshape(token, e, f)
		if err != nil {
			a.status = http.StatusInternalServerError
			body["error"] = "server_error"
		}
		body["access_token"] = reshaped
		a.tokenHash, a.tokenID = Hash(reshaped), e.tokenID
		body["scope"] = e.scope
		if s.opts.OmitScope || e.scope == "" {
			delete(body, "scope")
		}
		if s.opts.ExpiresInString {
			body["expires_in"] = strconv.Itoa(s.lifetime(e.client))
		}
		if s.opts.OmitExpiresIn {
			delete(body, "expires_in")
		}
	})
}

// reshape signs a token again if go-oidc cannot make it as wanted: go-oidc always writes typ at+jwt and a scope
// claim.
func (s *Server) reshape(token string, e *exchange, f *Fault) (string, error) {
	edited := f != nil && f.Claims != nil
	if s.opts.TokenType == defaultTokenType && e.scope != "" && !edited {
		return token, nil
	}
	claims, ok := claimsOf(token)
	if !ok {
		return token, nil
	}
	if e.scope == "" {
		delete(claims, "scope")
	}
	if edited {
		f.Claims(claims)
	}
	return sign(e.key, s.opts.TokenType, claims)
}

// grantStorage records the token's id. Nothing here reads a grant again.
type grantStorage struct{}

func (grantStorage) Save(ctx context.Context, session *goidc.GrantSession) error {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		e.tokenID = session.TokenID
	}
	return nil
}

func (grantStorage) SessionByTokenID(context.Context, string) (*goidc.GrantSession, error) {
	return nil, errNone
}

func (grantStorage) SessionByRefreshTokenID(context.Context, string) (*goidc.GrantSession, error) {
	return nil, errNone
}
func (grantStorage) Delete(context.Context, string) error           { return nil }
func (grantStorage) DeleteByAuthCode(context.Context, string) error { return nil }

// answer is go-oidc's answer, or one that a fault determines, held back so that it can be edited and recorded before
// it is sent.
type answer struct {
	header             http.Header
	status             int
	body               bytes.Buffer
	tokenID, tokenHash string
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// rewrite lets a fault change the members of the answer.
func (a *answer) rewrite(f *Fault) {
	if f != nil && f.Rewrite != nil {
		a.edit(f.Rewrite)
	}
}

// edit changes the members of a JSON object; any other body stays as it is.
func (a *answer) edit(change func(map[string]any)) {
	var members map[string]any
	decoder := json.NewDecoder(bytes.NewReader(a.body.Bytes()))
	decoder.UseNumber()
	if decoder.Decode(&members) != nil || members == nil {
		return
	}
	change(members)
	edited, err := json.Marshal(members)
	if err != nil {
		a.status = http.StatusInternalServerError
		return
	}
	a.body.Reset()
	a.body.Write(edited)
}
