// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

// RemoveClient implements provision.Driver.
func (d *Driver) RemoveClient(ctx context.Context, want provision.Client, state *provision.ClientState, keep provision.Keep) error {
	s := d.newClientSync(want, state, keep)
	if want.Retain {
		return s.retain(ctx)
	}
	return s.removeAll(ctx)
}

// removeAll removes the role, and then the application or, if it was adopted, the secrets added to it.
func (s *clientSync) removeAll(ctx context.Context) error {
	if err := s.removeRole(ctx); err != nil {
		return err
	}
	s.state.GrantID, s.state.Access = "", nil
	if err := s.keep(ctx); err != nil {
		return err
	}
	if err := s.removeApplication(ctx); err != nil {
		return err
	}
	s.state.ID, s.state.Origin, s.state.Creating, s.state.Credentials = "", "", false, nil
	return s.keep(ctx)
}

func (s *clientSync) removeRole(ctx context.Context) error {
	mine, err := s.leftRoles(ctx)
	if err != nil {
		return err
	}
	for _, r := range mine {
		if err := s.d.logto.Delete(ctx, "delete the role", r.path()); err != nil {
			return err
		}
	}
	return nil
}

// leftRoles returns the roles of the client. A recorded role is the client's even without its mark, unless it has
// another owner's.
func (s *clientSync) leftRoles(ctx context.Context) ([]role, error) {
	var mine []role
	if s.state.GrantID != "" {
		recorded, err := s.recordedRole(ctx)
		if err != nil {
			return nil, err
		}
		if recorded != nil {
			if mark := provision.MarkIn(recorded.Description); mark == "" || mark == s.want.Owner.ID() {
				mine = append(mine, *recorded)
			}
		}
	}
	if len(mine) > 0 && !s.creating {
		return mine, nil
	}
	others, _, err := s.searchRoles(ctx) // a role of this name that is not the client's stays
	for _, r := range others {
		if !slices.ContainsFunc(mine, func(m role) bool { return m.ID == r.ID }) {
			mine = append(mine, r)
		}
	}
	return mine, err
}

func (s *clientSync) removeApplication(ctx context.Context) error {
	if s.adopted() {
		return s.removeSecrets(ctx, cmp.Or(s.state.ID, s.want.Adopt))
	}
	mine, err := s.leftApplications(ctx)
	if err != nil {
		return err
	}
	for _, a := range mine {
		if err := s.d.logto.Delete(ctx, "delete the application", a.path()); err != nil {
			return err
		}
	}
	return nil
}

// adopted reports whether the client's application is somebody else's. If nothing is recorded, it is the operator's
// only if a call may have created it.
func (s *clientSync) adopted() bool {
	if s.state.ID != "" && s.state.ID == s.want.Adopt {
		return true
	}
	return s.state.Origin == provision.Adopted || s.state.Origin == "" && s.want.Adopt != "" && !s.creating
}

// leftApplications returns the applications of the client. There is more than one only if an answer was lost.
func (s *clientSync) leftApplications(ctx context.Context) ([]application, error) {
	query := marked(s.want.Owner)
	if s.creating {
		query = nil // somebody may have changed name and description since it was made
	}
	all, err := management.List[application](ctx, s.d.logto, readingApplications, "/applications", query)
	if err != nil {
		return nil, err
	}
	mine := s.ownApplications(all)
	if s.state.ID != "" && !slices.ContainsFunc(mine, func(a application) bool { return a.ID == s.state.ID }) {
		recorded, err := management.Get[application](ctx, s.d.logto, readingApplication, application{ID: s.state.ID}.path())
		if err != nil {
			return nil, err
		}
		if recorded != nil && !recorded.foreignTo(s.want.Owner) {
			mine = append(mine, *recorded)
		}
	}
	// An application to be adopted is never deleted, whoever made it.
	return slices.DeleteFunc(mine, func(a application) bool { return a.ID == s.want.Adopt || a.ID == s.d.clientID }), nil
}

// removeSecrets deletes secrets from an application that stays: the client's own if the application was adopted, else
// all, including the one that Logto gave it and nobody uses.
func (s *clientSync) removeSecrets(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	all, err := s.d.secrets(ctx, application{ID: id})
	if management.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, have := range all {
		own := strings.HasPrefix(have.Name, s.want.Owner.CredentialPrefix())
		if s.adopted() && !own && s.credential(have.Name) == nil {
			continue
		}
		if err := s.d.deleteSecret(ctx, id, have.Name); err != nil {
			return err
		}
	}
	return nil
}

// retain removes the client's secrets but keeps application and role. It restores their names and marks, by which the
// next object of the same name finds them, because their identifiers go with this one. A client that is denied its
// access loses the role.
func (s *clientSync) retain(ctx context.Context) error {
	if s.adopted() {
		if err := s.removeSecrets(ctx, cmp.Or(s.state.ID, s.want.Adopt)); err != nil {
			return err
		}
	} else {
		mine, err := s.leftApplications(ctx)
		if err != nil {
			return err
		}
		for _, s.app = range mine {
			if err := s.removeSecrets(ctx, s.app.ID); err != nil {
				return err
			}
			if err := s.restoreApplication(ctx); err != nil {
				return err
			}
		}
	}
	if s.want.Denied {
		if err := s.removeRole(ctx); err != nil {
			return err
		}
		s.state.GrantID, s.state.Access = "", nil
	}
	roles, err := s.leftRoles(ctx)
	if err != nil {
		return err
	}
	if len(roles) == 1 { // the name is unique; of two roles the next call keeps one
		s.role = roles[0]
		if err := s.restoreRole(ctx); err != nil {
			return err
		}
	}
	s.state.Credentials = nil
	return s.keep(ctx)
}
