// SPDX-License-Identifier: Apache-2.0

// Package provision makes an authorization server hold what Git declares: APIs with their scopes, machine-to-machine
// clients with exactly the access that was granted, and the clients' credentials. A Driver speaks one server's
// administration API; Sync and Remove drive it and hold the life of the credentials, which is the same everywhere.
//
// Everything here may be killed after any request. What it did not finish, the next call finds by the recorded state
// and by the mark of ownership (Owner), and carries on with; it never makes a second one. It records what it is about
// to need through Keep before it needs it. It knows nothing of Kubernetes and keeps nothing in memory between calls.
package provision

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Driver speaks the administration API of one authorization server with one credential. Its methods are idempotent: a
// second call with what the first one left does nothing. They may run side by side for different owners. A driver may
// remember which identifiers of the server belong to which API for a short while, and nothing else: no state of one
// owner lives on it.
//
// Every error is an *Error, or the context's own error if the context ended the request. Absence is no error where
// something is to be removed.
type Driver interface {
	// Check proves that the driver's credential works and suffices, at the cost of a request or two.
	Check(ctx context.Context) error

	// SyncAPI makes the API what want says and returns what had been changed behind its back. Something that exists
	// and is not the owner's is an Error of kind Conflict unless want.Adopt. With want.Observe nothing is changed:
	// the differences are returned, and an API that does not exist is an Error of kind NotFound.
	SyncAPI(ctx context.Context, want API, state *APIState, keep Keep) ([]Drift, error)

	// RemoveAPI deletes the API, if it is the owner's and was not adopted or only observed. Of an adopted one it
	// deletes the scopes that carry the owner's mark.
	RemoveAPI(ctx context.Context, want API, state *APIState, keep Keep) error

	// SyncClient makes the client and its access what want says, so that state.Access is what the server grants, and
	// drops from state.Credentials what the server no longer has, save what is still Issuing. What of want.Access the server does not know is
	// left out of state.Access and is no error. Credentials of an owned client that are not in the state leave the
	// server, those of an adopted one stay unless they carry the owner's mark. A driver whose server has no client
	// apart from its credentials does nothing for a client without any.
	SyncClient(ctx context.Context, want Client, state *ClientState, keep Keep) ([]Drift, error)

	// RemoveClient deletes the client and all that came with it; of an adopted one, only what the operator added. With
	// want.Retain it only takes the client's credentials, where the server has it without them, and with want.Denied
	// its access as well.
	RemoveClient(ctx context.Context, want Client, state *ClientState, keep Keep) error

	// Issue fills in c: a new credential of the client under c.Name. Where the server has one of that name already,
	// of an earlier call whose answer was lost, it takes that one; where it cannot tell, c.Attempted says that there
	// was an earlier call, and what it may have left behind is added to state.LeftBehind. Where the server has no
	// client apart from its credentials, it also sets state.Access.
	Issue(ctx context.Context, want Client, state *ClientState, c *Credential) error

	// Revoke takes a credential from the server.
	Revoke(ctx context.Context, want Client, state *ClientState, c *Credential) error
}

// Keep records the state that was passed to the call, so that it outlives the process. It is called before what was
// written to the state is relied upon; its error ends the call and is returned as it is.
type Keep func(ctx context.Context) error

// API is an API that its server should have.
type API struct {
	Owner Owner
	// Identifier is the API's resource indicator (RFC 8707), the aud of its tokens.
	Identifier string
	// Scopes are the API's scopes, each name once.
	Scopes []Scope
	// TokenLifetime is how long its access tokens live, in whole seconds; 0 leaves it to the server.
	TokenLifetime time.Duration
	// Adopt allows to take over one that exists. What it has beyond want then stays as it is.
	Adopt bool
	// Observe forbids to change anything. It needs Adopt where the API is not the owner's.
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

// APIState is what must outlive the process about an API.
type APIState struct {
	// ID is the server's identifier of the API, "" before it is known.
	ID string `json:"id,omitempty"`
	// Origin is "" as long as ID is.
	Origin Origin `json:"origin,omitempty"`
	// Scopes are the names of the declared scopes that the last complete SyncAPI left at the server, sorted.
	Scopes []string `json:"scopes,omitempty"`
	// TokenLifetime is what the last complete SyncAPI left at the server.
	TokenLifetime time.Duration `json:"tokenLifetime,omitempty"`
}

// Client is a client that its server should have.
type Client struct {
	Owner Owner
	// Access is all that it may ask for. A client with none keeps existing and can do nothing.
	Access []Access
	// Adopt is the client identifier of an existing client to take over, "" to create one. What it has beyond want
	// then stays as it is.
	Adopt string
	// Retain has RemoveClient leave the client.
	Retain bool
	// Denied has RemoveClient take the access also from a client that it leaves.
	Denied bool `json:",omitempty"`
}

// Access is the right to ask for a token of an API with scopes.
type Access struct {
	// Resource is the API's identifier (RFC 8707).
	Resource string `json:"resource"`
	// ResourceID is the server's identifier of the API, as its APIState has it; "" where the server keeps none. An
	// API of the same Resource with another one is not meant.
	ResourceID string `json:"resourceID,omitempty"`
	// Scopes are sorted, each once.
	Scopes []string `json:"scopes,omitempty"`
}

// ClientState is what must outlive the process about a client. It holds secrets: only its Public part may be shown.
type ClientState struct {
	// ID is the client identifier (client_id), "" before it is known. Where each credential is a registration of its
	// own, it is the current one's.
	ID string `json:"id,omitempty"`
	// GrantID is the server's identifier of what carries the access, such as a role; "" where there is no such thing.
	GrantID string `json:"grantID,omitempty"`
	// Origin is "" before ID is known.
	Origin Origin `json:"origin,omitempty"`
	// Creating says that something may have been created whose identifier is not recorded: it is looked for by its
	// mark before anything is created again.
	Creating bool `json:"creating,omitempty"`
	// Access is what the server granted at the end of the last SyncClient: the part of want.Access that it knows.
	Access []Access `json:"access,omitempty"`
	// Sequence is the number of the last credential that was named.
	Sequence int `json:"sequence,omitempty"`
	// Credentials are the credentials from the oldest to the newest.
	Credentials []Credential `json:"credentials,omitempty"`
	// Rotation is the Rotation.Request that the current credential, or the last one, answered.
	Rotation string `json:"rotation,omitempty"`
	// LeftBehind says what may exist at the server that nobody can find any more.
	LeftBehind []string `json:"leftBehind,omitempty"`
}

// Stage is where in its life a credential is.
type Stage string

// The stages of a credential, in their order.
const (
	Issuing  Stage = "Issuing"  // it is named, and may exist at the server
	Pending  Stage = "Pending"  // it exists, and has not been tried
	Current  Stage = "Current"  // it works, and tokens are asked for with it
	Retiring Stage = "Retiring" // its successor is in use, or it never came into use; it is revoked at RetireAt
)

// Credential is a client secret.
type Credential struct {
	// Name is unique among the client's credentials and begins with Owner.CredentialPrefix.
	Name  string `json:"name"`
	Stage Stage  `json:"stage"`
	// Attempted says that Issue was called for it before.
	Attempted bool `json:"attempted,omitempty"`
	// Request is the Rotation.Request that it answers.
	Request string `json:"request,omitempty"`
	// ClientID and Secret are what the token endpoint is told.
	ClientID string    `json:"clientID,omitempty"`
	Secret   Sensitive `json:"secret,omitempty"`
	// IssuedAt is when it was issued. ExpiresAt is when the server stops taking it, zero for never.
	IssuedAt  time.Time `json:"issuedAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// RetireAt is when it is revoked, while it is Retiring.
	RetireAt time.Time `json:"retireAt,omitzero"`
	// RegistrationURI and RegistrationToken manage a dynamic registration (RFC 7592 section 3).
	RegistrationURI   string    `json:"registrationURI,omitempty"`
	RegistrationToken Sensitive `json:"registrationToken,omitempty"`
}

// Current returns the credential that tokens are asked for with, nil if there is none.
func (s *ClientState) Current() *Credential {
	for i := range s.Credentials {
		if s.Credentials[i].Stage == Current {
			return &s.Credentials[i]
		}
	}
	return nil
}

// Drift is something that had been changed at the server behind the operator's back, in one sentence without
// identifiers of the server and without secrets: `Scope "payments:read" was missing`.
type Drift string

// Driftf makes a Drift.
func Driftf(format string, args ...any) Drift { return Drift(fmt.Sprintf(format, args...)) }

// Sensitive is a string that shows nowhere but in JSON and through Reveal.
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
