// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

type resource struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Indicator string `json:"indicator"`
	TTL       int64  `json:"accessTokenTtl"`
}

func (r resource) Key() string { return r.ID }

func (r resource) path() string { return "/resources/" + url.PathEscape(r.ID) }

func (r resource) lifetime() time.Duration { return time.Duration(r.TTL) * time.Second }

type scope struct {
	ID          string    `json:"id"`
	ResourceID  string    `json:"resourceId"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Resource    *resource `json:"resource"` // present only in a role's scopes
}

func (s scope) Key() string { return s.ID }

const (
	readingAPI    = "read the API"
	readingScopes = "read the API's scopes"
)

// SyncAPI implements provision.Driver.
func (d *Driver) SyncAPI(ctx context.Context, want provision.API, state *provision.APIState, keep provision.Keep) ([]provision.Drift, error) {
	if d.logto.Reserved(want.Identifier) {
		return nil, forbidden(managementAPIForbidden)
	}
	s := apiSync{d: d, want: want, state: state, keep: keep}
	err := s.find(ctx)
	if err == nil && want.Observe {
		err = s.observe(ctx)
	} else if err == nil {
		err = s.sync(ctx)
	}
	return s.drift, err
}

// apiSync is the state of one call for an API.
type apiSync struct {
	d     *Driver
	want  provision.API
	state *provision.APIState
	keep  provision.Keep
	drift []provision.Drift

	api      *resource // nil if it does not exist
	recorded bool      // it is the one in the state
	created  bool      // by this call, so it has no scopes yet
	origin   provision.Origin
	scopes   []scope // the scopes that it has
}

func (s *apiSync) changed(format string, args ...any) {
	s.drift = append(s.drift, provision.Driftf(format, args...))
}

func (s *apiSync) find(ctx context.Context) (err error) {
	s.api, err = s.d.findAPI(ctx, s.want.Identifier, s.state.ID)
	s.recorded = s.api != nil && s.api.ID == s.state.ID
	return err
}

// findAPI returns the API resource with an identifier, nil if there is none. id is its last known id, which counts only
// if the resource there still has the identifier.
func (d *Driver) findAPI(ctx context.Context, identifier, id string) (*resource, error) {
	if id != "" {
		api, err := management.Get[resource](ctx, d.logto, readingAPI, resource{ID: id}.path())
		if err != nil {
			return nil, err
		}
		if api != nil && api.Indicator == identifier {
			return api, nil
		}
	}
	all, err := management.List[resource](ctx, d.logto, "read the APIs", "/resources", nil)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Indicator == identifier {
			return &all[i], nil
		}
	}
	return nil, nil
}

// claim decides how the API comes under the owner's care, or why it does not.
func (s *apiSync) claim() (provision.Origin, error) {
	mark := provision.MarkIn(s.api.Name)
	switch {
	case s.recorded && s.state.Origin == provision.Adopted && s.want.Adopt:
		return provision.Adopted, nil
	case mark == s.want.Owner.ID():
		return provision.Created, nil
	case s.recorded && s.state.Origin == provision.Created && mark == "": // it was renamed
		return provision.Created, nil
	case s.want.Adopt:
		return provision.Adopted, nil
	}
	return "", &provision.Error{Kind: provision.Conflict, Message: fmt.Sprintf("API %q exists at the server and is not this "+
		"APIResource's; the owner of the authorization server can list it in spec.provisioning.adoption.apiResources", s.want.Identifier)}
}

func (s *apiSync) sync(ctx context.Context) error {
	if s.state.ID != "" && !s.recorded {
		s.changed("The API was missing")
	}
	if s.api == nil {
		if err := s.create(ctx); err != nil {
			return err
		}
	}
	var err error
	if s.origin, err = s.claim(); err != nil {
		return err
	}
	if err := s.record(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{s.syncResource, s.readScopes, s.deleteScopes, s.describeScopes, s.addScopes} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.state.Scopes = s.declared()
	s.state.TokenLifetime = s.api.lifetime()
	s.d.catalog.put(s.d.now(), *s.api, s.scopes)
	return nil
}

func (s *apiSync) create(ctx context.Context) error {
	body := map[string]any{"name": s.want.Owner.DisplayName(), "indicator": s.want.Identifier}
	if s.want.TokenLifetime > 0 {
		body["accessTokenTtl"] = seconds(s.want.TokenLifetime)
	}
	made, err := management.Create[resource](ctx, s.d.logto, "create the API", "/resources", body)
	if management.Disputed(err) { // somebody else was faster, maybe an earlier request of ours
		found, lookErr := s.d.findAPI(ctx, s.want.Identifier, "")
		if lookErr != nil {
			return lookErr
		}
		if s.api = found; found != nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	s.api, s.created = made, true
	s.api.Name, s.api.Indicator = s.want.Owner.DisplayName(), s.want.Identifier
	return nil
}

// record persists which API it is before anything is done with it.
func (s *apiSync) record(ctx context.Context) error {
	if s.recorded && s.state.Origin == s.origin {
		return nil
	}
	if !s.recorded { // the state is about another one
		*s.state = provision.APIState{}
	}
	s.state.ID, s.state.Origin = s.api.ID, s.origin
	return s.keep(ctx)
}

func (s *apiSync) syncResource(ctx context.Context) error {
	body := map[string]any{}
	var found []provision.Drift
	if name := s.want.Owner.DisplayName(); s.origin == provision.Created && s.api.Name != name {
		body["name"] = name
		found = append(found, provision.Driftf("The API had been renamed"))
	}
	if life := s.want.TokenLifetime; life > 0 && s.api.lifetime() != life {
		body["accessTokenTtl"] = seconds(life)
		if s.recorded && s.state.TokenLifetime == life {
			found = append(found, provision.Driftf("The access token lifetime was %s instead of %s", s.api.lifetime(), life))
		}
	}
	if len(body) == 0 {
		return nil
	}
	if err := s.d.logto.Patch(ctx, "change the API", s.api.path(), body); err != nil {
		return err
	}
	if s.want.TokenLifetime > 0 {
		s.api.TTL = seconds(s.want.TokenLifetime)
	}
	s.drift = append(s.drift, found...)
	return nil
}

func (s *apiSync) readScopes(ctx context.Context) (err error) {
	if s.created {
		return nil
	}
	s.scopes, err = management.List[scope](ctx, s.d.logto, readingScopes, s.api.path()+"/scopes", nil)
	return err
}

// deleteScopes deletes the scopes that the operator made and nobody declares any more. Scopes of others stay.
func (s *apiSync) deleteScopes(ctx context.Context) error {
	for i := 0; i < len(s.scopes); {
		c := s.scopes[i]
		ours := s.want.Owner.Owns(c.Description) || s.origin == provision.Created && s.hadScope(c.Name)
		if s.declares(c.Name) != nil || !ours {
			i++
			continue
		}
		s.d.catalog.forget(s.want.Identifier)
		if err := s.d.logto.Delete(ctx, "delete a scope of the API", s.scopePath(c)); err != nil {
			return err
		}
		s.scopes = slices.Delete(s.scopes, i, i+1)
	}
	return nil
}

// describeScopes restores the descriptions and marks of the scopes that the operator made. On an API that it created,
// these are all declared scopes.
func (s *apiSync) describeScopes(ctx context.Context) error {
	for i := range s.scopes {
		c := &s.scopes[i]
		declared := s.declares(c.Name)
		if declared == nil || s.origin != provision.Created && !s.want.Owner.Owns(c.Description) {
			continue
		}
		description := s.want.Owner.Annotate(declared.Description)
		if c.Description == description {
			continue
		}
		if err := s.d.logto.Patch(ctx, "describe a scope of the API", s.scopePath(*c), map[string]any{"description": description}); err != nil {
			return err
		}
		if s.hadScope(c.Name) && !s.want.Owner.Owns(c.Description) {
			s.changed("The description of scope %q had been changed", c.Name)
		}
		c.Description = description
	}
	return nil
}

func (s *apiSync) addScopes(ctx context.Context) error {
	for _, declared := range s.want.Scopes {
		if s.has(declared.Name) {
			continue
		}
		s.d.catalog.forget(s.want.Identifier)
		body := map[string]any{"name": declared.Name, "description": s.want.Owner.Annotate(declared.Description)}
		made, err := management.Create[scope](ctx, s.d.logto, "create a scope of the API", s.api.path()+"/scopes", body)
		if management.Disputed(err) {
			s.created = false
			if lookErr := s.readScopes(ctx); lookErr != nil {
				return lookErr
			}
			if s.has(declared.Name) {
				if err := s.describeScopes(ctx); err != nil {
					return err
				}
				continue
			}
		}
		if err != nil {
			return err
		}
		if s.hadScope(declared.Name) {
			s.changed("Scope %q was missing", declared.Name)
		}
		made.Name = declared.Name
		s.scopes = append(s.scopes, *made)
	}
	return nil
}

// observe compares, and changes nothing.
func (s *apiSync) observe(ctx context.Context) error {
	if s.api == nil {
		return &provision.Error{Kind: provision.NotFound, Message: fmt.Sprintf("API %q does not exist at the server", s.want.Identifier)}
	}
	origin, err := s.claim()
	if err != nil {
		return err
	}
	s.origin = origin
	if err := s.readScopes(ctx); err != nil {
		return err
	}
	if origin == provision.Created && s.api.Name != s.want.Owner.DisplayName() {
		s.changed("The API is renamed")
	}
	if life := s.want.TokenLifetime; life > 0 && s.api.lifetime() != life {
		s.changed("The access token lifetime is %s instead of %s", s.api.lifetime(), life)
	}
	for _, declared := range s.want.Scopes {
		if !s.has(declared.Name) {
			s.changed("Scope %q is missing", declared.Name)
		}
	}
	for _, c := range s.scopes {
		owned := s.want.Owner.Owns(c.Description)
		switch declared := s.declares(c.Name); {
		case declared == nil && owned:
			s.changed("Scope %q is no longer declared", c.Name)
		case declared != nil && owned && c.Description != s.want.Owner.Annotate(declared.Description):
			s.changed("The description of scope %q differs", c.Name)
		}
	}
	slices.Sort(s.drift)
	found := provision.APIState{ID: s.api.ID, Origin: provision.Observed, Scopes: s.declared(), TokenLifetime: s.api.lifetime()}
	// Remember what the operator made: somebody may change names and descriptions while nothing is put back.
	if s.recorded && s.state.Origin != "" {
		found.Origin = s.state.Origin
		for _, c := range s.scopes {
			if s.declares(c.Name) == nil && s.hadScope(c.Name) {
				found.Scopes = append(found.Scopes, c.Name)
			}
		}
		slices.Sort(found.Scopes)
	}
	*s.state = found
	s.d.catalog.put(s.d.now(), *s.api, s.scopes)
	return nil
}

// RemoveAPI implements provision.Driver.
func (d *Driver) RemoveAPI(ctx context.Context, want provision.API, state *provision.APIState, keep provision.Keep) error {
	if !d.logto.Reserved(want.Identifier) && !want.Observe && state.Origin != provision.Observed {
		s := apiSync{d: d, want: want, state: state, keep: keep}
		if err := s.remove(ctx); err != nil {
			return err
		}
	}
	*state = provision.APIState{}
	return keep(ctx)
}

func (s *apiSync) remove(ctx context.Context) error {
	if err := s.find(ctx); err != nil || s.api == nil {
		return err
	}
	s.d.catalog.forget(s.want.Identifier)
	// An API recorded as created is the owner's even if it was renamed, and so is one with the owner's mark even if
	// nothing was recorded. An adopted API is never deleted, whatever its name.
	mark := provision.MarkIn(s.api.Name)
	adopted := s.recorded && s.state.Origin == provision.Adopted
	if !adopted && (mark == s.want.Owner.ID() || mark == "" && s.recorded && s.state.Origin == provision.Created) {
		return s.d.logto.Delete(ctx, "delete the API", s.api.path())
	}
	if err := s.readScopes(ctx); err != nil {
		return err
	}
	for _, c := range s.scopes {
		if s.want.Owner.Owns(c.Description) {
			if err := s.d.logto.Delete(ctx, "delete a scope of the API", s.scopePath(c)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *apiSync) scopePath(c scope) string { return s.api.path() + "/scopes/" + url.PathEscape(c.ID) }

// declares returns the declared scope with a name, nil if there is none.
func (s *apiSync) declares(name string) *provision.Scope {
	if i := slices.IndexFunc(s.want.Scopes, func(c provision.Scope) bool { return c.Name == name }); i >= 0 {
		return &s.want.Scopes[i]
	}
	return nil
}

// has reports whether the API has a scope.
func (s *apiSync) has(name string) bool {
	return slices.ContainsFunc(s.scopes, func(c scope) bool { return c.Name == name })
}

// hadScope reports whether the last complete call left the scope at this API.
func (s *apiSync) hadScope(name string) bool {
	return s.recorded && slices.Contains(s.state.Scopes, name)
}

// declared returns the names of the declared scopes that the API has, sorted.
func (s *apiSync) declared() []string {
	var names []string
	for _, c := range s.scopes {
		if s.declares(c.Name) != nil {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
