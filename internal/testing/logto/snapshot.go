// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"maps"
	"slices"
)

// Snapshot is the server's state, without what every Logto has from the start. Slices are sorted, those of structs by
// name and then id; empty ones are nil.
type Snapshot struct {
	Resources    []Resource
	Applications []Application
	Roles        []Role
}

// Resource is an API resource.
type Resource struct {
	ID, Name, Indicator string
	AccessTokenTTL      int
	Scopes              []Scope
}

// Scope is a scope of an API resource. Its description is "" for null too.
type Scope struct{ ID, Name, Description string }

// Application is a machine-to-machine application.
type Application struct {
	ID, Name, Description string
	CustomData            map[string]any
	// Secrets are the names of its secrets, Roles the ids of its roles.
	Secrets, Roles []string
}

// Role is a role.
type Role struct {
	ID, Name, Type, Description string
	// Scopes are the names of its scopes by the resources' indicators, nil if there are none.
	Scopes map[string][]string
	// Applications are the ids of the applications with the role.
	Applications []string
}

// Snapshot returns the server's state.
func (s *Server) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all Snapshot
	for _, r := range s.state.resources {
		if !r.builtin {
			all.Resources = append(all.Resources, s.snapshotResource(r))
		}
	}
	for _, a := range s.state.applications {
		if !a.builtin {
			all.Applications = append(all.Applications, s.snapshotApplication(a))
		}
	}
	for _, r := range s.state.roles {
		if !r.builtin {
			all.Roles = append(all.Roles, s.snapshotRole(r))
		}
	}
	slices.SortFunc(all.Resources, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(all.Applications, func(a, b Application) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(all.Roles, func(a, b Role) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all
}

func (s *Server) snapshotResource(r *resource) Resource {
	shown := Resource{ID: r.id, Name: r.name, Indicator: r.indicator, AccessTokenTTL: r.ttl}
	for _, c := range s.scopesOf(r.id) {
		shown.Scopes = append(shown.Scopes, Scope{ID: c.id, Name: c.name, Description: value(c.description)})
	}
	slices.SortFunc(shown.Scopes, func(a, b Scope) int { return cmp.Compare(a.Name, b.Name) })
	return shown
}

func (s *Server) snapshotApplication(a *application) Application {
	shown := Application{
		ID: a.id, Name: a.name, Description: value(a.description), CustomData: maps.Clone(a.customData),
		Roles: slices.Sorted(maps.Keys(a.roles)),
	}
	for _, c := range a.secrets {
		shown.Secrets = append(shown.Secrets, c.name)
	}
	slices.Sort(shown.Secrets)
	return shown
}

func (s *Server) snapshotRole(r *role) Role {
	shown := Role{ID: r.id, Name: r.name, Type: r.kind, Description: r.description}
	for _, c := range s.grantsOf(r) {
		if shown.Scopes == nil {
			shown.Scopes = map[string][]string{}
		}
		indicator := s.state.resources[c.resource].indicator
		shown.Scopes[indicator] = append(shown.Scopes[indicator], c.name)
	}
	for _, names := range shown.Scopes {
		slices.Sort(names)
	}
	for _, a := range s.applicationsWith(r.id) {
		shown.Applications = append(shown.Applications, a.id)
	}
	slices.Sort(shown.Applications)
	return shown
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
