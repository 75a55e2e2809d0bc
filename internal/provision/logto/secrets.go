// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

type secret struct {
	Name      string              `json:"name"`
	Value     provision.Sensitive `json:"value"`
	ExpiresAt *float64            `json:"expiresAt"` // milliseconds since 1970
}

func (c secret) Key() string { return c.Name }

// defaultSecret is what Logto gives every application.
const defaultSecret = "Default secret"

func (c secret) expired(now time.Time) bool {
	return c.ExpiresAt != nil && *c.ExpiresAt > 0 && !now.Before(time.UnixMilli(int64(*c.ExpiresAt)))
}

// secrets reads an application's secrets. The list is not paged, and the values stay readable.
func (d *Driver) secrets(ctx context.Context, app application) ([]secret, error) {
	r := management.Request{Doing: "read the application's secrets", Method: http.MethodGet, Path: app.path() + "/secrets"}
	var all []secret
	if err := d.logto.Call(ctx, r, &all); err != nil {
		return nil, err
	}
	return all, nil
}

func (d *Driver) deleteSecret(ctx context.Context, applicationID, name string) error {
	return d.logto.Delete(ctx, "delete a client secret", application{ID: applicationID}.path()+"/secrets/"+url.PathEscape(name))
}

// syncSecrets drops from the state what the server does not have, and from the server what the state does not have;
// from an adopted application, only the operator's own secrets.
func (s *clientSync) syncSecrets(ctx context.Context) error {
	all, err := s.d.secrets(ctx, s.app)
	if err != nil {
		return err
	}
	now := s.d.now()
	s.dropCredentials(func(c *provision.Credential) bool {
		return !slices.ContainsFunc(all, func(have secret) bool {
			return have.Name == c.Name && have.Value == c.Secret && !have.expired(now)
		})
	})
	for _, have := range all {
		own := strings.HasPrefix(have.Name, s.want.Owner.CredentialPrefix())
		if s.state.Origin != provision.Created && !own || s.credential(have.Name) != nil {
			continue
		}
		if err := s.d.deleteSecret(ctx, s.app.ID, have.Name); err != nil {
			return err
		}
		if !own && have.Name != defaultSecret {
			s.changed("A client secret had been added")
		}
	}
	return nil
}

// credential returns the credential with a name, nil if there is none.
func (s *clientSync) credential(name string) *provision.Credential {
	for i := range s.state.Credentials {
		if c := &s.state.Credentials[i]; c.Name == name {
			return c
		}
	}
	return nil
}

// dropCredentials drops the issued credentials that the server has lost.
func (s *clientSync) dropCredentials(lost func(*provision.Credential) bool) {
	kept := s.state.Credentials[:0:0]
	for i := range s.state.Credentials {
		c := &s.state.Credentials[i]
		if c.Stage != provision.Issuing && lost(c) {
			if c.Stage != provision.Retiring { // an earlier call may have revoked it and then failed to record that
				s.changed("The client secret was missing")
			}
			continue
		}
		kept = append(kept, *c)
	}
	s.state.Credentials = kept
}

// Issue implements provision.Driver.
func (d *Driver) Issue(ctx context.Context, want provision.Client, state *provision.ClientState, c *provision.Credential) error {
	r := management.Request{Doing: "create a client secret"}
	if state.ID == "" {
		return r.Failed(provision.Unavailable, "the application is not known")
	}
	app := application{ID: state.ID}
	made, err := management.Create[secret](ctx, d.logto, r.Doing, app.path()+"/secrets", map[string]any{"name": c.Name})
	if management.Disputed(err) { // an earlier request made it, and its answer was lost
		all, lookErr := d.secrets(ctx, app)
		if lookErr != nil {
			return lookErr
		}
		if i := slices.IndexFunc(all, func(have secret) bool { return have.Name == c.Name }); i >= 0 {
			made, err = &all[i], nil
		}
	}
	if err != nil {
		return err
	}
	if made.Value == "" {
		return r.Failed(provision.Unavailable, "the answer has no value")
	}
	c.ClientID, c.Secret, c.ExpiresAt = state.ID, made.Value, time.Time{}
	if made.ExpiresAt != nil && *made.ExpiresAt > 0 {
		c.ExpiresAt = time.UnixMilli(int64(*made.ExpiresAt)).UTC().Truncate(time.Second)
	}
	return nil
}

// Revoke implements provision.Driver.
func (d *Driver) Revoke(ctx context.Context, _ provision.Client, state *provision.ClientState, c *provision.Credential) error {
	id := cmp.Or(c.ClientID, state.ID)
	if id == "" {
		return nil
	}
	return d.deleteSecret(ctx, id, c.Name)
}
