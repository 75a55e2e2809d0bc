// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/oidctest"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
)

const initialToken = "the-initial-access-token"

var (
	noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	cart = provision.Owner{Cluster: "11111111-2222-3333-4444-555555555555", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "uid-1"}
)

const (
	payment  = "https://payment.example.com/api"
	shipping = "https://shipping.example.com/api"
)

func access(resource string, scopes ...string) provision.Access {
	return provision.Access{Resource: resource, Scopes: scopes}
}

// world is an operator and go-oidc in one process. The state lives as JSON, written by keep alone, and is read again for
// each call, as after a restart.
type world struct {
	t        *testing.T
	server   *oidctest.Server
	driver   *registration.Driver
	want     provision.Client
	rotation provision.Rotation
	now      time.Time
	stored   []byte

	requests []string // "POST /register", without identifiers
	keeps    int
	steps    int // the boundaries at which the operator can die, from 1
	killAt   int // 0 for never; the call of SyncClient or RemoveClient then ends
	killed   bool
	secrets  map[string]bool // all that were ever kept
	shown    []string        // all that anybody may read
}

var errKilled = errors.New("killed")

func newWorld(t *testing.T, o oidctest.DynamicRegistration) *world {
	t.Helper()
	w := &world{t: t, now: noon, secrets: map[string]bool{initialToken: true}, rotation: provision.Rotation{Overlap: 10 * time.Minute}}
	o.InitialAccessToken = initialToken
	var err error
	if w.server, err = oidctest.Start(oidctest.Options{DynamicRegistration: &o, Now: w.clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.server.Close)
	w.want = provision.Client{Owner: cart, Access: []provision.Access{access(payment, "payments:read", "payments:write")}}
	w.configure(registration.ClientSecretBasic)
	w.stored = []byte("{}")
	return w
}

func (w *world) configure(method string) {
	w.driver = registration.New(registration.Config{
		Endpoint: w.server.RegistrationURL(), InitialAccessToken: initialToken, AuthenticationMethod: method,
		HTTP: &http.Client{Transport: w}, Now: w.clock,
	})
}

func (w *world) clock() time.Time { return w.now }

// boundary reports whether the operator is dead.
func (w *world) boundary() bool {
	w.steps++
	w.killed = w.killed || w.steps == w.killAt
	return w.killed
}

// RoundTrip implements http.RoundTripper: the operator can die before a request, and after it without its answer.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.boundary() {
		return nil, errKilled
	}
	path := r.URL.Path
	if strings.HasPrefix(path, "/register/") {
		path = "/register/ID"
	}
	w.requests = append(w.requests, r.Method+" "+path)
	resp, err := w.server.Transport().RoundTrip(r)
	if w.boundary() {
		if err == nil {
			_ = resp.Body.Close()
		}
		return nil, errKilled
	}
	return resp, err
}

func (w *world) state() *provision.ClientState {
	w.t.Helper()
	state := &provision.ClientState{}
	if err := json.Unmarshal(w.stored, state); err != nil {
		w.t.Fatal(err)
	}
	return state
}

func (w *world) keeper(state *provision.ClientState) provision.Keep {
	return func(context.Context) error {
		if w.boundary() {
			return errKilled
		}
		encoded, err := json.Marshal(state)
		if err != nil {
			w.t.Fatal(err)
		}
		w.stored = encoded
		w.keeps++
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

func (w *world) sync() ([]provision.Drift, error) {
	w.requests, w.steps, w.killed = nil, 0, false
	state := w.state()
	drift, _, err := provision.SyncClient(w.t.Context(), w.driver, w.want, state, w.rotation, w.keeper(state), w.probe, w.now)
	w.show(drift, err)
	return drift, err
}

func (w *world) remove() error {
	w.requests, w.steps, w.killed = nil, 0, false
	state := w.state()
	err := provision.RemoveClient(w.t.Context(), w.driver, w.want, state, w.keeper(state))
	w.show(nil, err)
	return err
}

// show takes note of what others read, and holds the errors to the contract.
func (w *world) show(drift []provision.Drift, err error) {
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

// leak returns a text with a secret in it, "" if there is none.
func (w *world) leak() string {
	for _, text := range w.shown {
		for secret := range w.secrets {
			if secret != "" && strings.Contains(text, secret) {
				return text
			}
		}
	}
	return ""
}

func (w *world) probe(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
	return w.token(ctx, &http.Client{Transport: w}, c, state.Access[0].Resource, state.Access[0].Scopes...)
}

// token asks for a token with exactly these scopes.
func (w *world) token(ctx context.Context, hc *http.Client, c *provision.Credential, resource string, scopes ...string) error {
	method := oauth.ClientSecretBasic
	for _, r := range w.server.RegisteredClients() {
		if r.ID == c.ClientID && r.Method == oidctest.SecretPost {
			method = oauth.ClientSecretPost
		}
	}
	token, err := oauth.Exchange(ctx, hc, oauth.TokenRequest{
		Endpoint: w.server.TokenURL(), Authentication: method(c.ClientID, c.Secret.Reveal()), Scopes: scopes, Resource: resource, Now: w.now,
	})
	var failed *oauth.Error
	switch {
	case errors.As(err, &failed) && failed.Status/100 == 4:
		return &provision.Error{Kind: provision.Refused, Message: failed.Error()}
	case err != nil:
		return &provision.Error{Kind: provision.Unavailable, Message: err.Error()}
	case !slices.Equal(slices.Sorted(slices.Values(token.Scopes)), scopes):
		return &provision.Error{Kind: provision.Refused, Message: fmt.Sprintf("the token has the scopes %q", token.Scopes)}
	}
	return nil
}

func (w *world) mustSync() []provision.Drift {
	w.t.Helper()
	drift, err := w.sync()
	if err != nil {
		w.t.Fatalf("sync: %v", err)
	}
	return drift
}

// wrong says what is not as it should be, once nothing is left to do: one registration with the right scopes, which
// gives tokens, and no other that is not announced. The client's others must be gone or past their overlap.
func (w *world) wrong() string {
	state := w.state()
	announced := func(c oidctest.RegisteredClient) bool {
		return slices.ContainsFunc(state.LeftBehind, func(line string) bool {
			return strings.Contains(line, fmt.Sprintf("%q", c.Name)) || strings.Contains(line, fmt.Sprintf("%q", c.ID))
		})
	}
	known := 0
	for _, c := range w.server.RegisteredClients() {
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
	if len(w.want.Access) == 0 {
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
	for _, a := range w.want.Access {
		all = append(all, a.Scopes...)
		if err := w.token(w.t.Context(), &http.Client{Transport: w.server.Transport()}, c, a.Resource, a.Scopes...); err != nil {
			return "no token: " + err.Error()
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	i := slices.IndexFunc(w.server.RegisteredClients(), func(r oidctest.RegisteredClient) bool { return r.ID == c.ClientID })
	at := w.server.RegisteredClients()[i]
	if name := cart.DisplayName() + " " + strings.TrimPrefix(c.Name, cart.CredentialPrefix()); !slices.Equal(at.Scopes, all) || at.Name != name {
		return fmt.Sprintf("%q is registered with the scopes %q, not %q with %q", at.Name, at.Scopes, name, all)
	}
	if got, want := fmt.Sprint(state.Access), fmt.Sprint(w.want.Access); got != want {
		return "the state has the access " + got + ", not " + want
	}
	if leak := w.leak(); leak != "" {
		return "a secret was shown: " + leak
	}
	return ""
}
