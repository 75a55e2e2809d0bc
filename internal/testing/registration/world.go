// SPDX-License-Identifier: Apache-2.0

// Package registration tests a driver of package registration against any
// authorization server that implements Server. It plays the operator, which has its
// own clock, meets faults, dies at every boundary, and has a state that survives all
// of this. For tests only.
package registration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
)

// Server is an authorization server with dynamic registration and an administrator at its
// console.
type Server interface {
	TokenEndpoint() string
	RegistrationEndpoint() string
	// Transport makes the requests.
	Transport() http.RoundTripper
	// Registered returns the clients that registered themselves and were not deleted.
	Registered() []Registered
	// Change changes the name and scopes of one of them, Delete deletes it.
	Change(Registered)
	Delete(id string)
}

// Registered is a client that registered itself.
type Registered struct {
	ID, Name string
	Scopes   []string // sorted
}

// Config configures a World.
type Config struct {
	Server             Server
	InitialAccessToken string
	// Access is what the client requests first; its scopes exist at the server.
	Access []provision.Access
	// AuthenticationMethod is that of registration.Config.
	AuthenticationMethod string
	// Audience is that of registration.Config. If set, token requests also name an API
	// by this parameter.
	Audience bool
}

// World is an operator with one client. Its state is JSON, written only by keep, and
// read again for each call, as after a restart.
type World struct {
	Config
	Want     provision.Client
	Rotation provision.Rotation
	Now      time.Time
	// Requests are those of the last call: "POST", "GET", "PUT", "DELETE" or "token".
	Requests []string

	t      *testing.T
	driver *registration.Driver
	stored []byte
	faults []*fault

	steps   int // the boundaries at which the operator can die, from 1
	killAt  int // 0: never; at a boundary, the call of Sync or Remove ends
	killed  bool
	secrets map[string]bool // everything ever kept
	shown   []string        // everything that others may read
}

// fault makes requests of a method fail: with status 500 and no effect, or with the
// effect but no answer.
type fault struct {
	method string
	times  int
	lost   bool
}

var errKilled = errors.New("killed")

// NewWorld creates an unused operator.
func NewWorld(t *testing.T, config Config) *World {
	t.Helper()
	w := &World{
		t: t, Config: config, Now: time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC), stored: []byte("{}"),
		secrets: map[string]bool{config.InitialAccessToken: true}, Rotation: provision.Rotation{Overlap: 10 * time.Minute},
	}
	w.Want = provision.Client{
		Owner:  provision.Owner{Cluster: "11111111-2222-3333-4444-555555555555", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "uid-1"},
		Access: config.Access,
	}
	w.driver = registration.New(registration.Config{
		Endpoint: config.Server.RegistrationEndpoint(), InitialAccessToken: provision.Sensitive(config.InitialAccessToken),
		AuthenticationMethod: config.AuthenticationMethod, Audience: config.Audience, HTTP: &http.Client{Transport: w}, Now: w.clock,
	})
	return w
}

func (w *World) clock() time.Time { return w.Now }

// boundary reports whether the operator dies here.
func (w *World) boundary() bool {
	w.steps++
	w.killed = w.killed || w.steps == w.killAt
	return w.killed
}

// RoundTrip implements http.RoundTripper. The operator can die before a request, or after it, without seeing the
// answer.
func (w *World) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.boundary() {
		return nil, errKilled
	}
	what := r.Method
	if r.URL.String() == w.Server.TokenEndpoint() {
		what = "token"
	}
	w.Requests = append(w.Requests, what)
	f := w.meets(what)
	if f != nil && !f.lost {
		return &http.Response{
			StatusCode: http.StatusInternalServerError, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r,
		}, nil
	}
	resp, err := w.Server.Transport().RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	switch {
	case w.boundary():
		return nil, errKilled
	case f != nil:
		return nil, io.ErrUnexpectedEOF
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// meets returns the fault that a request meets, nil for none.
func (w *World) meets(what string) *fault {
	for _, f := range w.faults {
		if f.method == what && f.times > 0 {
			f.times--
			return f
		}
	}
	return nil
}

// State returns what was kept last.
func (w *World) State() *provision.ClientState {
	w.t.Helper()
	state := &provision.ClientState{}
	if err := json.Unmarshal(w.stored, state); err != nil {
		w.t.Fatal(err)
	}
	return state
}

func (w *World) keeper(state *provision.ClientState) provision.Keep {
	return func(context.Context) error {
		if w.boundary() {
			return errKilled
		}
		encoded, err := json.Marshal(state)
		if err != nil {
			w.t.Fatal(err)
		}
		w.stored = encoded
		for _, c := range state.Credentials {
			w.secrets[c.Secret.Reveal()], w.secrets[c.RegistrationToken.Reveal()] = true, true
		}
		w.shown = append(w.shown, state.LeftBehind...)
		if w.boundary() {
			return errKilled
		}
		return nil
	}
}

// Sync is provision.SyncClient.
func (w *World) Sync() ([]provision.Drift, error) {
	w.Requests, w.steps, w.killed = nil, 0, false
	state := w.State()
	drift, _, err := provision.SyncClient(w.t.Context(), w.driver, w.Want, state, w.Rotation, w.keeper(state), w.probe, w.Now)
	w.show(drift, err)
	return drift, err
}

// MustSync fails the test on an error.
func (w *World) MustSync() []provision.Drift {
	w.t.Helper()
	drift, err := w.Sync()
	if err != nil {
		w.t.Fatalf("sync: %v", err)
	}
	return drift
}

// Remove is provision.RemoveClient.
func (w *World) Remove() error {
	w.Requests, w.steps, w.killed = nil, 0, false
	state := w.State()
	err := provision.RemoveClient(w.t.Context(), w.driver, w.Want, state, w.keeper(state))
	w.show(nil, err)
	return err
}

// show records what others may read, and checks that errors follow the contract.
func (w *World) show(drift []provision.Drift, err error) {
	w.t.Helper()
	for _, d := range drift {
		w.shown = append(w.shown, string(d))
	}
	if err == nil {
		return
	}
	w.shown = append(w.shown, err.Error())
	if provision.KindOf(err) == "" && !errors.Is(err, errKilled) {
		w.t.Errorf("the error has no kind: %v", err)
	}
}

// leak returns a text that contains a secret, "" if there is none.
func (w *World) leak() string {
	for _, text := range w.shown {
		for secret := range w.secrets {
			if secret != "" && strings.Contains(text, secret) {
				return text
			}
		}
	}
	return ""
}

func (w *World) probe(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
	return w.token(ctx, &http.Client{Transport: w}, c, state.Access[0].Resource, state.Access[0].Scopes...)
}

// Token requests a token with the current credential. It returns why there was none with exactly these scopes.
func (w *World) Token(resource string, scopes ...string) error {
	c := w.State().Current()
	if c == nil {
		return errors.New("there is no current credential")
	}
	return w.token(w.t.Context(), &http.Client{Transport: w.Server.Transport()}, c, resource, scopes...)
}

func (w *World) token(ctx context.Context, hc *http.Client, c *provision.Credential, resource string, scopes ...string) error {
	authentication := oauth.ClientSecretBasic(c.ClientID, c.Secret.Reveal())
	if w.AuthenticationMethod == registration.ClientSecretPost {
		authentication = oauth.ClientSecretPost(c.ClientID, c.Secret.Reveal())
	}
	request := oauth.TokenRequest{Endpoint: w.Server.TokenEndpoint(), Authentication: authentication, Scopes: scopes, Resource: resource, Now: w.Now}
	if w.Audience {
		request.Resource, request.Audience = "", resource
	}
	token, err := oauth.Exchange(ctx, hc, request)
	var failed *oauth.Error
	switch {
	case errors.As(err, &failed) && failed.Status/100 == 4:
		return &provision.Error{Kind: provision.Refused, Message: failed.Error()}
	case err != nil:
		return &provision.Error{Kind: provision.Unavailable, Message: err.Error()}
	}
	w.secrets[token.Value] = true
	if got := slices.Sorted(slices.Values(token.Scopes)); !slices.Equal(got, scopes) {
		return &provision.Error{Kind: provision.Refused, Message: fmt.Sprintf("the token has the scopes %q, not %q", got, scopes)}
	}
	return nil
}

// Wrong reports what is wrong once nothing is left to do. It expects one registration
// with the right scopes, which gets tokens, and no other one unless it was reported.
// The client's other credentials must be gone or past their overlap.
func (w *World) Wrong() string {
	state := w.State()
	announced := func(c Registered) bool {
		return slices.ContainsFunc(state.LeftBehind, func(line string) bool {
			return strings.Contains(line, fmt.Sprintf("%q", c.Name)) || strings.Contains(line, fmt.Sprintf("%q", c.ID))
		})
	}
	known := 0
	for _, c := range w.Server.Registered() {
		switch {
		case slices.ContainsFunc(state.Credentials, func(k provision.Credential) bool { return k.ClientID == c.ID }):
			known++
		case len(state.LeftBehind) < 16 && !announced(c):
			return fmt.Sprintf("registration %q (%s) is known to nobody", c.Name, c.ID)
		}
	}
	if state.Creating {
		return "an update is still on its way"
	}
	if len(w.Want.Access) == 0 {
		if len(state.Credentials)+known > 0 || state.ID != "" || len(state.Access) > 0 {
			return "a client without access is still there"
		}
		return ""
	}
	c := state.Current()
	if c == nil || len(state.Credentials) != 1 || known != 1 || state.ID != c.ClientID || state.Origin != provision.Created {
		return fmt.Sprintf("%d credentials and %d registrations, ID %q", len(state.Credentials), known, state.ID)
	}
	all := []string{}
	for _, a := range w.Want.Access {
		all = append(all, a.Scopes...)
		if err := w.token(w.t.Context(), &http.Client{Transport: w.Server.Transport()}, c, a.Resource, a.Scopes...); err != nil {
			return "no token: " + err.Error()
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	i := slices.IndexFunc(w.Server.Registered(), func(r Registered) bool { return r.ID == c.ClientID })
	at := w.Server.Registered()[i]
	if name := w.Want.Owner.DisplayName() + " " + strings.TrimPrefix(c.Name, w.Want.Owner.CredentialPrefix()); !slices.Equal(at.Scopes, all) || at.Name != name {
		return fmt.Sprintf("%q is registered with the scopes %q, not %q with %q", at.Name, at.Scopes, name, all)
	}
	if got, want := fmt.Sprint(state.Access), fmt.Sprint(w.Want.Access); got != want {
		return "the state has the access " + got + ", not " + want
	}
	if leak := w.leak(); leak != "" {
		return "a secret was shown: " + leak
	}
	return ""
}
