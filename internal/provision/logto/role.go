// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

// syncRole finds or creates the client's role, which carries its access and nothing else.
func (s *clientSync) syncRole(ctx context.Context) error {
	if !s.appCreated {
		var err error
		if s.roles, err = management.List[role](ctx, s.d.logto, "read the application's roles", s.app.path()+"/roles", nil); err != nil {
			return err
		}
	}
	mine, err := s.findRoles(ctx)
	if err != nil {
		return err
	}
	if len(mine) == 0 {
		if mine, err = s.createRole(ctx); err != nil {
			return err
		}
	}
	s.role = mine[0]
	if s.state.GrantID != s.role.ID {
		s.state.GrantID = s.role.ID
		if err := s.keep(ctx); err != nil {
			return err
		}
	}
	for _, extra := range mine[1:] {
		if err := s.d.logto.Delete(ctx, "delete a second role of the client", extra.path()); err != nil {
			return err
		}
	}
	return s.restoreRole(ctx)
}

// findRoles returns the owner's roles, the one to keep first.
func (s *clientSync) findRoles(ctx context.Context) ([]role, error) {
	if s.state.GrantID != "" {
		recorded, err := s.recordedRole(ctx)
		if err != nil {
			return nil, err
		}
		if recorded != nil {
			if mark := provision.MarkIn(recorded.Description); mark != "" && mark != s.want.Owner.ID() || recorded.Type != machineToMachine {
				return nil, &provision.Error{Kind: provision.Conflict, Message: "the recorded role is marked as belonging to another M2MClient"}
			}
			return []role{*recorded}, nil
		}
		if !s.creating {
			s.changed("The role was missing")
		}
	}
	if s.searched { // while looking for the application
		return s.tagged, nil
	}
	return s.rolesByTag(ctx)
}

// recordedRole returns the role in the state, nil if it is gone.
func (s *clientSync) recordedRole(ctx context.Context) (*role, error) {
	if i := slices.IndexFunc(s.roles, func(r role) bool { return r.ID == s.state.GrantID }); i >= 0 {
		return &s.roles[i], nil
	}
	return management.Get[role](ctx, s.d.logto, readingRole, role{ID: s.state.GrantID}.path())
}

// rolesByTag returns the owner's roles, first the one with its name, which is unique. If that one is not the owner's,
// the result is an error.
func (s *clientSync) rolesByTag(ctx context.Context) ([]role, error) {
	mine, taken, err := s.searchRoles(ctx)
	if taken {
		return nil, &provision.Error{Kind: provision.Conflict, Message: fmt.Sprintf(
			"role %q exists at the server and is not this M2MClient's; delete it there or give it another name", s.want.Owner.DisplayName())}
	}
	s.tagged, s.searched = mine, err == nil
	return mine, err
}

// searchRoles returns the owner's roles, and whether a role with its name is not the owner's.
func (s *clientSync) searchRoles(ctx context.Context) (mine []role, taken bool, err error) {
	all, err := management.List[role](ctx, s.d.logto, readingRoles, "/roles", marked(s.want.Owner))
	if err != nil {
		return nil, false, err
	}
	name := s.want.Owner.DisplayName()
	for _, r := range all {
		switch {
		case s.want.Owner.Owns(r.Description) && r.Type == machineToMachine:
			mine = append(mine, r)
		case r.Name == name:
			taken = true
		}
	}
	rank := func(r role) string {
		if r.Name == name {
			return ""
		}
		return r.ID
	}
	slices.SortFunc(mine, func(a, b role) int { return cmp.Compare(rank(a), rank(b)) })
	return mine, taken, nil
}

// createRole creates the role without scopes. If it gave scopes that do not exist, Logto would create the role and
// answer that it did not.
func (s *clientSync) createRole(ctx context.Context) ([]role, error) {
	if err := s.announce(ctx); err != nil {
		return nil, err
	}
	made, err := management.Create[role](ctx, s.d.logto, "create the role", "/roles", map[string]any{
		"name": s.want.Owner.DisplayName(), "description": description(s.want.Owner), "type": machineToMachine,
	})
	if management.Disputed(err) {
		if mine, lookErr := s.rolesByTag(ctx); lookErr != nil || len(mine) > 0 {
			return mine, lookErr
		}
	}
	if err != nil {
		return nil, err
	}
	s.roleCreated = true
	return []role{{ID: made.ID, Name: s.want.Owner.DisplayName(), Type: machineToMachine, Description: description(s.want.Owner)}}, nil
}

// restoreRole puts back the role's name and mark.
func (s *clientSync) restoreRole(ctx context.Context) error {
	body := map[string]any{}
	var found []provision.Drift
	if name := s.want.Owner.DisplayName(); s.role.Name != name {
		body["name"] = name
		found = append(found, provision.Driftf("The role had been renamed"))
	}
	if !s.want.Owner.Owns(s.role.Description) {
		body["description"] = description(s.want.Owner)
		found = append(found, provision.Driftf("The role had lost the mark of its owner"))
	}
	if len(body) == 0 {
		return nil
	}
	if err := s.d.logto.Patch(ctx, "change the role", s.role.path(), body); err != nil {
		return err
	}
	s.drift = append(s.drift, found...)
	return nil
}

// removeRoles removes every other role from an application that the operator created. An adopted application may have
// roles of its own.
func (s *clientSync) removeRoles(ctx context.Context) error {
	if s.state.Origin != provision.Created {
		return nil
	}
	for _, r := range s.roles {
		if r.ID == s.role.ID {
			continue
		}
		if err := s.d.logto.Delete(ctx, "remove another role from the application", s.app.path()+"/roles/"+url.PathEscape(r.ID)); err != nil {
			return err
		}
		if !s.want.Owner.Owns(r.Description) {
			s.changed("The application had been given another role")
		}
	}
	return nil
}

// assign gives the role to the client's application, and takes it from all others.
func (s *clientSync) assign(ctx context.Context) error {
	assigned, err := s.assigned(ctx)
	if err != nil || assigned {
		return err
	}
	err = s.d.logto.Call(ctx, management.Request{Doing: "assign the role", Method: http.MethodPost, Path: s.rolePath() + "/applications",
		Body: map[string]any{"applicationIds": []string{s.app.ID}}}, nil)
	if management.Disputed(err) {
		s.roleCreated = false
		if assigned, lookErr := s.assigned(ctx); lookErr != nil || assigned {
			return lookErr
		}
	}
	if err != nil {
		return err
	}
	if s.settled() {
		s.changed("The role was not assigned to the application")
	}
	return nil
}

// assigned takes the role from other applications, and reports whether the client's has it.
func (s *clientSync) assigned(ctx context.Context) (assigned bool, err error) {
	if s.roleCreated {
		return false, nil
	}
	all, err := management.List[application](ctx, s.d.logto, readingRoleApplications, s.rolePath()+"/applications", nil)
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if a.ID == s.app.ID {
			assigned = true
			continue
		}
		if err := s.d.logto.Delete(ctx, "remove the role from another application", s.rolePath()+"/applications/"+url.PathEscape(a.ID)); err != nil {
			return false, err
		}
		s.changed("The role had been assigned to another application")
	}
	return assigned, nil
}
