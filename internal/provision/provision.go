// SPDX-License-Identifier: Apache-2.0

// Package provision makes an authorization server hold what Git declares: APIs with their scopes, machine-to-machine
// clients with exactly the access that was granted, and the clients' credentials. A Driver speaks one server's
// administration API; SyncClient and RemoveClient drive it, and manage the life of the credentials, which is the same
// everywhere.
//
// The process may be killed after any request. The next call finds what was left unfinished, by the recorded state and
// by the mark of ownership (Owner), and finishes it; it never creates anything twice. It records through Keep what it
// is about to need before it needs it. The package knows nothing of Kubernetes and keeps nothing in memory between
// calls.
package provision

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Driver speaks the administration API of one authorization server with one credential. Its methods are idempotent: a
// second call with the state that the first one left does nothing. They may run concurrently for different owners. A
// driver may remember for a short while which identifiers of the server belong to which API, and nothing else: it holds
// no state of any owner.
//
// Every error is an *Error, or the context's error if the context ended the request. It is no error if something to be
// removed does not exist.
type Driver interface {
	// Check proves that the driver's credential works and suffices, in a request or two.
	Check(ctx context.Context) error

	// SyncAPI makes the API match want and returns what somebody else had changed. If the API exists but is not the
	// owner's, the result is an Error of kind Conflict, unless want.Adopt is set. With want.Observe it changes nothing
	// and returns the differences; if the API does not exist, the result is an Error of kind NotFound.
	SyncAPI(ctx context.Context, want API, state *APIState, keep Keep) ([]Drift, error)

	// RemoveAPI deletes the API if it is the owner's and was neither adopted nor only observed. Of an adopted API it
	// deletes the scopes that carry the owner's mark.
	RemoveAPI(ctx context.Context, want API, state *APIState, keep Keep) error

	// SyncClient makes the client and its access match want, and sets state.Access to what the server grants. Access
	// that the server does not know is left out and is no error. It drops credentials that the server no longer has
	// from state.Credentials, except those that are Issuing. It removes credentials that are not in the state from the
	// server; of an adopted client, only those that carry the owner's mark. If a server has no clients apart from their
	// credentials, its driver does nothing for a client without any.
	SyncClient(ctx context.Context, want Client, state *ClientState, keep Keep) ([]Drift, error)

	// RemoveClient deletes the client and everything that came with it; of an adopted client, only what the operator
	// added. With want.Retain it only removes the client's credentials, if the server has clients without them, and
	// with want.Denied also its access.
	RemoveClient(ctx context.Context, want Client, state *ClientState, keep Keep) error

	// Issue fills in c, a new credential of the client named c.Name. If the server already has one of that name,
	// because the answer to an earlier call was lost, Issue takes that one. If it cannot tell, c.Attempted reports that
	// there was an earlier call, and Issue adds what that may have left to state.LeftBehind. If the server has no
	// clients apart from their credentials, Issue also sets state.Access.
	Issue(ctx context.Context, want Client, state *ClientState, c *Credential) error

	// Revoke removes a credential from the server.
	Revoke(ctx context.Context, want Client, state *ClientState, c *Credential) error
}

// Keep persists the state that was passed to the call. A driver calls it before it relies on what it wrote to the
// state. An error ends the call, which returns it unchanged.
type Keep func(ctx context.Context) error

// API is an API that its server should have.
type API struct {
	Owner Owner
	// Identifier is the API's resource indicator (RFC 8707), the aud of its tokens.
	Identifier string
	// Scopes are the API's scopes, each name once.
	Scopes []Scope
	// TokenLifetime is how long its access tokens live, in whole seconds; 0 leaves that to the server.
	TokenLifetime time.Duration
	// Adopt allows taking over an existing API. What it has beyond want then stays as it is.
	Adopt bool
	// Observe forbids any change. It needs Adopt if the API is not the owner's.
	Observe bool
}

// Scope is one permission of an API.
type Scope struct{ Name, Description string }

// Origin is how something at the server came under the operator's care.
type Origin string

// The origins. What was adopted is never deleted.
const (
	Created  Origin = "Created"
	Adopted  Origin = "Adopted"
	Observed Origin = "Observed"
)

// APIState is what the caller must persist about an API.
type APIState struct {
	// ID is the server's identifier of the API, "" before it is known.
	ID string `json:"id,omitempty"`
	// Origin is "" while ID is.
	Origin Origin `json:"origin,omitempty"`
	// Scopes are the names of the declared scopes that the last complete SyncAPI left at the server, sorted.
	Scopes []string `json:"scopes,omitempty"`
	// TokenLifetime is what the last complete SyncAPI left at the server.
	TokenLifetime time.Duration `json:"tokenLifetime,omitempty"`
}

// Client is a client that its server should have.
type Client struct {
	Owner Owner
	// Access is everything that it may ask for. A client without any exists but can do nothing.
	Access []Access
	// Adopt is the client identifier of an existing client to take over, "" to create one. What it has beyond want
	// then stays as it is.
	Adopt string
	// Retain makes RemoveClient keep the client.
	Retain bool
	// Denied makes RemoveClient remove the access even of a client that it keeps.
	Denied bool `json:",omitempty"`
}

// Access is the right to ask for a token for an API with scopes.
type Access struct {
	// Resource is the API's identifier (RFC 8707).
	Resource string `json:"resource"`
	// ResourceID is the server's identifier of the API, as in its APIState; "" if the server keeps none. An API of the
	// same Resource with another ResourceID is a different API.
	ResourceID string `json:"resourceID,omitempty"`
	// Scopes are sorted, each once.
	Scopes []string `json:"scopes,omitempty"`
}

// ClientState is what the caller must persist about a client. It holds secrets.
type ClientState struct {
	// ID is the client identifier (client_id), "" before it is known. If each credential is a registration of its own,
	// it is that of the current one.
	ID string `json:"id,omitempty"`
	// GrantID is the server's identifier of what carries the access, such as a role; "" if nothing does.
	GrantID string `json:"grantID,omitempty"`
	// Origin is "" before ID is known.
	Origin Origin `json:"origin,omitempty"`
	// Creating means that an earlier call may have created something whose identifier is not recorded. The driver looks
	// for it by its mark before it creates anything again.
	Creating bool `json:"creating,omitempty"`
	// Access is what the server granted at the end of the last SyncClient: the part of want.Access that it knew.
	Access []Access `json:"access,omitempty"`
	// Sequence is the number of the last credential that was named.
	Sequence int `json:"sequence,omitempty"`
	// Credentials are the credentials from the oldest to the newest.
	Credentials []Credential `json:"credentials,omitempty"`
	// Rotation is the Rotation.Request that the current credential, or the last one, fulfilled.
	Rotation string `json:"rotation,omitempty"`
	// LeftBehind describes what may exist at the server without anybody being able to find it.
	LeftBehind []string `json:"leftBehind,omitempty"`
}

// Stage is a stage in the life of a credential.
type Stage string

// The stages of a credential, in their order.
const (
	Issuing  Stage = "Issuing"  // it has a name, and may exist at the server
	Pending  Stage = "Pending"  // it exists, but has not been tried
	Current  Stage = "Current"  // it works and is in use
	Retiring Stage = "Retiring" // its successor is in use, or it never came into use; it is revoked at RetireAt
)

// Credential is a client secret.
type Credential struct {
	// Name is unique among the client's credentials and begins with Owner.CredentialPrefix.
	Name  string `json:"name"`
	Stage Stage  `json:"stage"`
	// Attempted means that Issue was called for it before.
	Attempted bool `json:"attempted,omitempty"`
	// Request is the Rotation.Request that it fulfils.
	Request string `json:"request,omitempty"`
	// ClientID and Secret are what a token request sends.
	ClientID string    `json:"clientID,omitempty"`
	Secret   Sensitive `json:"secret,omitempty"`
	// IssuedAt is when it was issued. ExpiresAt is when the server stops accepting it, zero for never.
	IssuedAt  time.Time `json:"issuedAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// RetireAt is when it is revoked, while it is Retiring.
	RetireAt time.Time `json:"retireAt,omitzero"`
	// RegistrationURI and RegistrationToken manage a dynamic registration (RFC 7592 section 3).
	RegistrationURI   string    `json:"registrationURI,omitempty"`
	RegistrationToken Sensitive `json:"registrationToken,omitempty"`
}

// Current returns the credential in use, nil if there is none.
func (s *ClientState) Current() *Credential {
	for i := range s.Credentials {
		if s.Credentials[i].Stage == Current {
			return &s.Credentials[i]
		}
	}
	return nil
}

// Drift is something that somebody else changed at the server, in one sentence without identifiers of the server and
// without secrets: `Scope "payments:read" was missing`.
type Drift string

// Driftf makes a Drift.
func Driftf(format string, args ...any) Drift { return Drift(fmt.Sprintf(format, args...)) }

// Sensitive is a string that only JSON and Reveal show.
type Sensitive string

// Reveal returns the string itself.
func (s Sensitive) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Sensitive) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (s Sensitive) GoString() string { return s.String() }

// Format implements fmt.Formatter for every verb.
func (s Sensitive) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Sensitive) LogValue() slog.Value { return slog.StringValue(s.String()) }
