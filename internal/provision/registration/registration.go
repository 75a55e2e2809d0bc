// SPDX-License-Identifier: Apache-2.0

// Package registration provisions by OAuth 2.0 Dynamic Client Registration (RFC 7591) and its management protocol (RFC
// 7592). The server keeps no record of APIs, and a client there is one credential: each credential of a client is a
// separate registration, with its own client identifier and the scopes of all its APIs together. The protocol cannot
// list registrations. If the answer to a registration is lost, nobody can find the registration again; the same holds
// if a lost answer replaced the registration access token. The state's LeftBehind names such registrations, and the
// client is registered anew.
package registration

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// How a registered client authenticates at the token endpoint.
const (
	ClientSecretBasic = "client_secret_basic"
	ClientSecretPost  = "client_secret_post"
)

// Config configures a driver.
type Config struct {
	// Endpoint is the client registration endpoint.
	Endpoint string
	// InitialAccessToken authorizes each registration; "" if the endpoint is open to all.
	InitialAccessToken provision.Sensitive
	// AuthenticationMethod is ClientSecretBasic (the default) or ClientSecretPost.
	AuthenticationMethod string
	// Audience registers a client with the identifiers of its APIs as the member audience, a list. Servers that name an
	// API by the request parameter of that name may issue tokens only for listed APIs (Ory Hydra).
	Audience bool
	// HTTP makes the requests. The driver never follows redirects, whatever the client is set to.
	HTTP *http.Client
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Driver is a provision.Driver for one registration endpoint.
type Driver struct {
	config   Config
	endpoint *url.URL // nil if it is unusable
	http     http.Client
	broken   *provision.Error // why the configuration is unusable
	closed   *provision.Error // why it is unusable for a registration
}

var _ provision.Driver = (*Driver)(nil)

// New returns a driver. If part of the configuration is unusable, Check and every method that needs that part return an
// error. Only a registration needs the initial access token: what is registered can be changed and deleted without it.
func New(config Config) *Driver {
	config.AuthenticationMethod = cmp.Or(config.AuthenticationMethod, ClientSecretBasic)
	if config.Now == nil {
		config.Now = time.Now //nolint:forbidigo // the default of the clock that is passed in
	}
	d := &Driver{config: config}
	if config.HTTP != nil {
		d.http = *config.HTTP
	}
	d.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if u, ok := absolute(config.Endpoint); ok {
		d.endpoint = u
	}
	switch {
	case config.Endpoint == "":
		d.broken = refused("the server's metadata names no registration endpoint, and none is set")
	case d.endpoint == nil:
		d.broken = refused("the registration endpoint is not an absolute http or https URL")
	case config.AuthenticationMethod != ClientSecretBasic && config.AuthenticationMethod != ClientSecretPost:
		d.broken = refused("the authentication method is neither client_secret_basic nor client_secret_post")
	case config.InitialAccessToken != "" && !visible(config.InitialAccessToken.Reveal(), maxSecret, '!'):
		d.closed = refused("the initial access token contains a character that is not allowed in a token, such as a line break")
	}
	return d
}

// Check makes no request, because only a registration can prove an initial access token. It reports whether the
// configuration is usable.
func (d *Driver) Check(context.Context) error {
	if why := cmp.Or(d.broken, d.closed); why != nil {
		return why
	}
	return nil
}

// SyncAPI assumes that the server has every declared scope, because the server keeps no record of APIs.
func (d *Driver) SyncAPI(_ context.Context, want provision.API, state *provision.APIState, _ provision.Keep) ([]provision.Drift, error) {
	names := make([]string, 0, len(want.Scopes))
	for _, s := range want.Scopes {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	*state = provision.APIState{Scopes: slices.Compact(names)}
	return nil, nil
}

// RemoveAPI does nothing, because SyncAPI leaves nothing at the server.
func (d *Driver) RemoveAPI(context.Context, provision.API, *provision.APIState, provision.Keep) error {
	return nil
}

// Issue registers a client. The protocol cannot tell whether an earlier attempt succeeded, so Issue reports that one as
// left behind.
func (d *Driver) Issue(ctx context.Context, want provision.Client, state *provision.ClientState, c *provision.Credential) error {
	if err := d.usable(want); err != nil {
		return err
	}
	if d.closed != nil {
		return d.closed
	}
	if c.Attempted {
		leaveBehind(state, lost(want, c))
	}
	a, err := d.send(ctx, http.MethodPost, d.config.Endpoint, d.config.InitialAccessToken, d.metadata(want, c))
	if err != nil {
		return err
	}
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		return d.notRegistered(a)
	}
	r, err := parse(a.body)
	if err != nil || r.secret == "" {
		return senseless(a)
	}
	c.ClientID = r.id
	d.take(c, r)
	state.Origin = provision.Created
	// Register later credentials with what SyncClient found out about the current one.
	if first := len(state.Credentials) <= 1; first || len(state.Access) == 0 {
		state.Access = granted(want.Access, nil)
		if d.managed(c) {
			state.Access = granted(want.Access, r.scope)
		}
	}
	return nil
}

// Revoke deletes a registration, if the server allows it.
func (d *Driver) Revoke(ctx context.Context, want provision.Client, state *provision.ClientState, c *provision.Credential) error {
	switch {
	case c.ClientID == "":
		if c.Attempted {
			leaveBehind(state, lost(want, c))
		}
		return nil
	case d.endpoint == nil && c.RegistrationToken != "":
		return d.broken
	case !d.managed(c):
		leaveBehind(state, undeletable(c))
		return nil
	}
	a, err := d.send(ctx, http.MethodDelete, c.RegistrationURI, c.RegistrationToken, nil)
	if err != nil {
		return err
	}
	switch {
	case a.status/100 == 2:
	case a.busy():
		return unavailable(a, "the server did not delete a registration")
	case a.status == http.StatusUnauthorized && state.Creating, a.status == http.StatusForbidden && a.object():
		leaveBehind(state, unmanageable(c))
	case a.status == http.StatusUnauthorized, a.absent():
	default:
		leaveBehind(state, undeletable(c))
	}
	return nil
}

// RemoveClient deletes all registrations of the client. With want.Retain it only drops them from the state, because the
// server has no client without them. With want.Denied it deletes them nevertheless, because their access would stay.
func (d *Driver) RemoveClient(ctx context.Context, want provision.Client, state *provision.ClientState, keep provision.Keep) error {
	if want.Retain && !want.Denied {
		state.Credentials = nil
	}
	for len(state.Credentials) > 0 {
		if err := d.Revoke(ctx, want, state, &state.Credentials[0]); err != nil {
			return err
		}
		forget(state, 0)
		if err := keep(ctx); err != nil {
			return err
		}
	}
	state.ID, state.Origin, state.Access, state.Creating = "", "", nil, false
	return nil
}

// usable returns why no registration of a client can be brought up to date.
func (d *Driver) usable(want provision.Client) error {
	if d.broken != nil {
		return d.broken
	}
	if want.Adopt != "" {
		return refused("dynamic registration cannot take over an existing client; remove it from spec.provisioning.adoption.clients")
	}
	return nil
}

// managed reports whether a registration can be read, updated and deleted (RFC 7592) at the same server. Its access
// token must go nowhere else.
func (d *Driver) managed(c *provision.Credential) bool {
	return c.RegistrationToken != "" && d.trusted(c.RegistrationURI)
}

// forget drops a credential, and makes sure that the state's ID is one that the state still has.
func forget(state *provision.ClientState, i int) {
	id := state.Credentials[i].ClientID
	state.Credentials = slices.Delete(state.Credentials, i, i+1)
	if state.ID != id {
		return
	}
	state.ID, state.Origin = "", ""
	for _, c := range slices.Backward(state.Credentials) {
		if c.ClientID != "" {
			state.ID, state.Origin = c.ClientID, provision.Created
			return
		}
	}
}

// maxLeftBehind bounds state.LeftBehind.
const maxLeftBehind = 16

// leaveBehind adds a line, once, and drops the oldest.
func leaveBehind(state *provision.ClientState, line string) {
	line = text.ASCII(line, 512)
	if slices.Contains(state.LeftBehind, line) {
		return
	}
	state.LeftBehind = append(state.LeftBehind, line)
	state.LeftBehind = state.LeftBehind[max(0, len(state.LeftBehind)-maxLeftBehind):]
}

// lost describes all clients that attempts at one credential may have registered. They share a client_name.
func lost(want provision.Client, c *provision.Credential) string {
	return fmt.Sprintf("A client that was registered as %q may exist at the server; its answer was lost", clientName(want, c))
}

func unmanageable(c *provision.Credential) string {
	return fmt.Sprintf("Client %q may still exist at the server, which no longer takes its registration access token", shortID(c))
}

func undeletable(c *provision.Credential) string {
	return fmt.Sprintf("Client %q may still exist at the server, which does not allow deleting it", shortID(c))
}

func shortID(c *provision.Credential) string { return text.ASCII(c.ClientID, 256) }

// clientName returns the client_name, which names the owner and the credential.
func clientName(want provision.Client, c *provision.Credential) string {
	return want.Owner.DisplayName() + " " + strings.TrimPrefix(c.Name, want.Owner.CredentialPrefix())
}
