// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Request is a request that reached the token endpoint, with its answer.
type Request struct {
	// At is when it arrived, by the real clock.
	At time.Time
	// ClientID is the client that the request claims to be from, by HTTP Basic, the form, or
	// the assertion.
	ClientID string
	// Method is how it authenticated: one of the constants for clients, "several", or "" for none.
	Method string
	// CredentialID is the [Hash] of the secret presented, or of the assertion's "<iss> <sub>".
	CredentialID string
	// GrantType, Resource, Audience and Scope are the parameters of these names; the first of several resources.
	GrantType, Resource, Audience, Scope string
	// Parameters are the parameters that no standard defines, nil for none.
	Parameters map[string]string
	// AssertionHeader and AssertionClaims are those of the client assertion, not verified; nil without one.
	AssertionHeader, AssertionClaims map[string]any

	// Status is the answer's status, and Error the RFC 6749 code in it. Status is 0 until there is an answer.
	Status int
	Error  string
	// TokenHash is the [Hash] of the token issued, TokenID its jti (something else for opaque tokens).
	TokenHash, TokenID string
}

// Hash is a short digest by which tests tell secrets and tokens apart without keeping them.
func Hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

type recorder struct {
	mu          sync.Mutex
	limit       int
	requests    []*Request
	counts      [endpoints]atomic.Int64 // by Endpoint
	notModified atomic.Int64
	firstJWKS   time.Time
}

// TokenRequests returns the requests that reached the token endpoint, in the order of their arrival. A request is
// complete once its client has the answer; one that hangs is in the list too.
func (s *Server) TokenRequests() []Request {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	all := make([]Request, len(s.record.requests))
	for i, r := range s.record.requests {
		all[i] = *r
	}
	return all
}

// Count returns how many requests have reached an endpoint, including those that met a fault.
func (s *Server) Count(e Endpoint) int { return int(s.record.counts[e].Load()) }

// NotModified returns how many JWKS requests were answered with 304.
func (s *Server) NotModified() int { return int(s.record.notModified.Load()) }

// FirstJWKSRequest returns when the first JWKS request arrived since the start or the last [Server.ResetRequests],
// by the real clock; zero if none did.
func (s *Server) FirstJWKSRequest() time.Time {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return s.record.firstJWKS
}

// ResetRequests forgets the token requests and the time of the first JWKS request, and sets all counts to 0.
func (s *Server) ResetRequests() {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.requests = nil
	for i := range s.record.counts {
		s.record.counts[i].Store(0)
	}
	s.record.notModified.Store(0)
	s.record.firstJWKS = time.Time{}
}

func newRequest(at time.Time, r *http.Request, c credentials) *Request {
	entry := &Request{
		At: at, ClientID: c.id, Method: c.method,
		GrantType: r.PostForm.Get("grant_type"), Scope: r.PostForm.Get("scope"),
		Resource: r.PostForm.Get("resource"), Audience: r.PostForm.Get("audience"),
	}
	for name := range r.PostForm {
		switch name {
		case "grant_type", "scope", "resource", "audience", "client_id", "client_secret", "client_assertion", "client_assertion_type":
			continue
		}
		if entry.Parameters == nil {
			entry.Parameters = map[string]string{}
		}
		entry.Parameters[name] = r.PostForm.Get(name)
	}
	switch {
	case c.assertion != nil:
		entry.CredentialID = Hash(c.claims.Issuer + " " + c.claims.Subject)
		entry.AssertionClaims = c.allClaims
		h := c.assertion.Headers[0]
		entry.AssertionHeader = map[string]any{"alg": h.Algorithm}
		if h.KeyID != "" {
			entry.AssertionHeader["kid"] = h.KeyID
		}
		for name, value := range h.ExtraHeaders {
			entry.AssertionHeader[string(name)] = value
		}
	case c.secret != "":
		entry.CredentialID = Hash(c.secret)
	}
	return entry
}

func (r *recorder) jwksRequested(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[JWKS].Add(1)
	if r.firstJWKS.IsZero() {
		r.firstJWKS = at
	}
}

func (r *recorder) begin(entry *Request) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.requests) >= 2*r.limit {
		r.requests = slices.Clone(r.requests[r.limit:])
	}
	r.requests = append(r.requests, entry)
	return entry
}

func (r *recorder) finish(entry *Request, a *answer) {
	var body struct {
		Error string `json:"error"`
	}
	if a.status != http.StatusOK {
		_ = json.Unmarshal(a.body.Bytes(), &body) // a fault may answer with anything, not only JSON
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entry.Status, entry.Error = a.status, body.Error
	entry.TokenHash, entry.TokenID = a.tokenHash, a.tokenID
}
