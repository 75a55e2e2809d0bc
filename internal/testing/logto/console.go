// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"errors"
	"maps"
	"time"
)

// Errors of what an administrator does at the console.
var (
	ErrNotFound = errors.New("there is no such thing")
	ErrExists   = errors.New("it exists already")
)

// CreateResource makes an API resource and returns its id. A lifetime of 0 stands for the default.
func (s *Server) CreateResource(name, indicator string, ttl int, scopes ...string) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resourceAt(indicator) != nil {
		return "", ErrExists
	}
	if ttl == 0 {
		ttl = defaultTTL
	}
	r := s.insertResource(name, indicator, ttl)
	for _, scope := range scopes {
		s.insertScope(r.id, scope, nil)
	}
	return r.id, nil
}

func (s *Server) withResource(indicator string, change func(*resource)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resourceAt(indicator)
	if r == nil || r.builtin {
		return ErrNotFound
	}
	r.updates++
	change(r)
	return nil
}

// RenameResource gives an API resource another name.
func (s *Server) RenameResource(indicator, name string) error {
	return s.withResource(indicator, func(r *resource) { r.name = name })
}

// SetResourceTTL sets how long the tokens for an API resource live, in seconds.
func (s *Server) SetResourceTTL(indicator string, seconds int) error {
	return s.withResource(indicator, func(r *resource) { r.ttl = seconds })
}

// DeleteResource deletes an API resource with its scopes, and takes them from all roles.
func (s *Server) DeleteResource(indicator string) error {
	return s.withResource(indicator, s.dropResource)
}

// AddScope adds a scope to an API resource and returns its id.
func (s *Server) AddScope(indicator, name, description string) (id string, err error) {
	found := s.withResource(indicator, func(r *resource) {
		if s.scopeOf(r.id, name) != nil {
			err = ErrExists
			return
		}
		id = s.insertScope(r.id, name, &description).id
	})
	return id, errors.Join(found, err)
}

func (s *Server) withScope(indicator, name string, change func(*scope)) (err error) {
	found := s.withResource(indicator, func(r *resource) {
		if c := s.scopeOf(r.id, name); c != nil {
			c.updates++
			change(c)
		} else {
			err = ErrNotFound
		}
	})
	return errors.Join(found, err)
}

// RemoveScope deletes a scope, and takes it from all roles.
func (s *Server) RemoveScope(indicator, name string) error {
	return s.withScope(indicator, name, s.dropScope)
}

// DescribeScope gives a scope another description.
func (s *Server) DescribeScope(indicator, name, description string) error {
	return s.withScope(indicator, name, func(c *scope) { c.description = &description })
}

// CreateApplication makes a machine-to-machine application and returns its id.
func (s *Server) CreateApplication(name, description string) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.insertApplication(name)
	a.description = &description
	return a.id
}

func (s *Server) withApplication(id string, change func(*application)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.state.applications[id]
	if a == nil {
		return ErrNotFound
	}
	a.updates++
	change(a)
	return nil
}

// RenameApplication gives an application another name.
func (s *Server) RenameApplication(id, name string) error {
	return s.withApplication(id, func(a *application) { a.name = name })
}

// DescribeApplication gives an application another description.
func (s *Server) DescribeApplication(id, description string) error {
	return s.withApplication(id, func(a *application) { a.description = &description })
}

// SetCustomData replaces an application's custom data.
func (s *Server) SetCustomData(id string, data map[string]any) error {
	return s.withApplication(id, func(a *application) { a.customData = maps.Clone(data) })
}

// ClearCustomData empties an application's custom data.
func (s *Server) ClearCustomData(id string) error { return s.SetCustomData(id, map[string]any{}) }

// DeleteApplication deletes an application with its secrets.
func (s *Server) DeleteApplication(id string) error { return s.withApplication(id, s.dropApplication) }

// AddSecret adds a secret to an application and returns its value. With the zero time it never
// expires.
func (s *Server) AddSecret(id, name string, expires time.Time) (value string, err error) {
	found := s.withApplication(id, func(a *application) {
		if a.secretNamed(name) != nil {
			err = ErrExists
			return
		}
		value = s.insertSecret(a, name, expires).value
	})
	return value, errors.Join(found, err)
}

// DeleteSecret deletes an application's secret.
func (s *Server) DeleteSecret(id, name string) (err error) {
	found := s.withApplication(id, func(a *application) {
		if a.secretNamed(name) == nil {
			err = ErrNotFound
		}
		a.dropSecret(name)
	})
	return errors.Join(found, err)
}

// SecretValue returns the value of an application's secret, "" if it has no secret of that
// name.
func (s *Server) SecretValue(id, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.state.applications[id]; a != nil {
		if c := a.secretNamed(name); c != nil {
			return c.value
		}
	}
	return ""
}

// CreateRole makes a machine-to-machine role and returns its id.
func (s *Server) CreateRole(name, description string) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roleNamed(name) != nil {
		return "", ErrExists
	}
	return s.insertRole(name, description, machineToMachine).id, nil
}

func (s *Server) withRole(id string, change func(*role) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.state.roles[id]
	if r == nil {
		return ErrNotFound
	}
	r.updates++
	return change(r)
}

// RenameRole gives a role another name.
func (s *Server) RenameRole(id, name string) error {
	return s.withRole(id, func(r *role) error {
		if other := s.roleNamed(name); other != nil && other != r {
			return ErrExists
		}
		r.name = name
		return nil
	})
}

// DescribeRole gives a role another description.
func (s *Server) DescribeRole(id, description string) error {
	return s.withRole(id, func(r *role) error {
		r.description = description
		return nil
	})
}

// DeleteRole deletes a role, assigned or not.
func (s *Server) DeleteRole(id string) error {
	return s.withRole(id, func(r *role) error {
		s.dropRole(r)
		return nil
	})
}

func (s *Server) withGrant(roleID, indicator, scope string, change func(*role, string)) error {
	return s.withRole(roleID, func(r *role) error {
		api := s.resourceAt(indicator)
		if api == nil || s.scopeOf(api.id, scope) == nil {
			return ErrNotFound
		}
		change(r, s.scopeOf(api.id, scope).id)
		return nil
	})
}

// GrantScope gives a role a scope of an API resource.
func (s *Server) GrantScope(roleID, indicator, scope string) error {
	return s.withGrant(roleID, indicator, scope, func(r *role, id string) { r.scopes[id] = true })
}

// RevokeScope takes a scope of an API resource from a role.
func (s *Server) RevokeScope(roleID, indicator, scope string) error {
	return s.withGrant(roleID, indicator, scope, func(r *role, id string) { delete(r.scopes, id) })
}

// AssignRole gives an application a role.
func (s *Server) AssignRole(roleID, applicationID string) error {
	return s.withRole(roleID, func(*role) error {
		a := s.state.applications[applicationID]
		if a == nil {
			return ErrNotFound
		}
		a.roles[roleID] = true
		return nil
	})
}

// UnassignRole takes a role from an application.
func (s *Server) UnassignRole(roleID, applicationID string) error {
	return s.withRole(roleID, func(*role) error {
		a := s.state.applications[applicationID]
		if a == nil || !a.roles[roleID] {
			return ErrNotFound
		}
		delete(a.roles, roleID)
		return nil
	})
}

// GrantManagementAPI gives an application the built-in role that lets it use the Management API.
func (s *Server) GrantManagementAPI(applicationID string) error {
	s.mu.Lock()
	access := s.roleNamed(managementRole).id
	s.mu.Unlock()
	return s.AssignRole(access, applicationID)
}

// JoinOrganization makes an application a member of an organization.
func (s *Server) JoinOrganization(organization, applicationID string) error {
	return s.withApplication(applicationID, func(a *application) {
		if s.state.organizations[organization] == nil {
			s.state.organizations[organization] = map[string]bool{}
		}
		s.state.organizations[organization][a.id] = true
	})
}
