// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"net/http"
	"slices"
)

func (r *role) show() map[string]any {
	return map[string]any{
		"tenantId": tenant, "id": r.id, "name": r.name, "description": r.description, "type": r.kind, "isDefault": false,
	}
}

func (s *Server) applicationsWith(roleID string) []*application {
	return unordered(s, s.state.applications, func(a *application) bool { return a.roles[roleID] })
}

func (s *Server) listRoles(c *call) answer {
	kind := c.query.Get("type")
	if c.query.Has("type") && kind != machineToMachine && kind != user {
		return invalidInput("type")
	}
	matches, refused := c.matcher()
	if refused != nil {
		return *refused
	}
	found := unordered(s, s.state.roles, func(r *role) bool {
		return matches(r.id, r.name, r.description) && (kind == "" || kind == r.kind)
	})
	return paging(c, found, false, func(r *role) any {
		featured := []any{}
		with := s.applicationsWith(r.id)
		for _, a := range with[:min(3, len(with))] {
			featured = append(featured, map[string]any{"id": a.id, "name": a.name, "type": machineToMachine})
		}
		shown := r.show()
		shown["usersCount"], shown["featuredUsers"] = 0, []any{}
		shown["applicationsCount"], shown["featuredApplications"] = len(with), featured
		return shown
	})
}

// createRole leaves the role behind if one of its scopes is unknown.
func (s *Server) createRole(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, required: true, most: 128},
		field{name: "description", kind: text, required: true, most: 128},
		field{name: "type", kind: enum}, field{name: "scopeIds", kind: maybe},
	); refused != nil {
		return *refused
	}
	name := c.body["name"].(string)
	if s.roleNamed(name) != nil {
		return c.collision("role.name_in_use")
	}
	kind := user
	if given, ok := c.body["type"]; ok {
		kind = given.(string)
	}
	r := s.insertRole(name, c.body["description"].(string), kind)
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	scopeIDs, _ := c.body["scopeIds"].([]string)
	if refused := s.mayGrant(scopeIDs); refused != nil {
		return *refused
	}
	for _, id := range scopeIDs {
		r.scopes[id] = true
	}
	return reply(http.StatusOK, r.show())
}

func (s *Server) mayGrant(scopeIDs []string) *answer {
	var refused answer
	for _, id := range scopeIDs {
		switch c := s.state.scopes[id]; {
		case c == nil:
			refused = notFound("entity.not_exists_with_id")
		case s.state.resources[c.resource].builtin:
			refused = breach("a scope of the Management API is given away")
		default:
			continue
		}
		return &refused
	}
	return nil
}

func (s *Server) getRole(c *call) answer {
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	return reply(http.StatusOK, r.show())
}

func (s *Server) patchRole(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, most: 128}, field{name: "description", kind: text, most: 128},
	); refused != nil {
		return *refused
	}
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	if r.builtin || len(c.body) == 0 {
		return breach("a built-in role, or nothing, is changed")
	}
	if name, ok := c.body["name"]; ok {
		if other := s.roleNamed(name.(string)); other != nil && other != r {
			return fail(http.StatusUnprocessableEntity, "role.name_in_use")
		}
		r.name = name.(string)
	}
	if description, ok := c.body["description"]; ok {
		r.description = description.(string)
	}
	r.updates++
	return reply(http.StatusOK, r.show())
}

func (s *Server) deleteRole(c *call) answer {
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	if r.builtin {
		return breach("a built-in role is deleted")
	}
	s.dropRole(r)
	return answer{status: http.StatusNoContent}
}

func (s *Server) grantsOf(r *role) []*scope {
	return unordered(s, s.state.scopes, func(c *scope) bool { return r.scopes[c.id] })
}

func (s *Server) listScopesOfRole(c *call) answer {
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	return paging(c, s.grantsOf(r), true, func(c *scope) any {
		shown := c.show()
		shown["resource"] = s.state.resources[c.resource].show()
		return shown
	})
}

// addScopesToRole adds all scopes or none.
func (s *Server) addScopesToRole(c *call) answer {
	if refused := c.decode(field{name: "scopeIds", kind: texts, required: true}); refused != nil {
		return *refused
	}
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	if r.builtin {
		return breach("a built-in role is changed")
	}
	scopeIDs := c.body["scopeIds"].([]string)
	for _, id := range scopeIDs {
		if r.scopes[id] {
			return c.collision("role.scope_exists")
		}
	}
	if refused := s.mayGrant(scopeIDs); refused != nil {
		return *refused
	}
	for _, id := range scopeIDs {
		r.scopes[id] = true
	}
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	shown := []any{}
	for _, c := range s.grantsOf(r) {
		shown = append(shown, c.show())
	}
	return reply(http.StatusCreated, shown)
}

func (s *Server) removeScopeFromRole(c *call) answer {
	r := s.state.roles[c.path["id"]]
	if r == nil || !r.scopes[c.path["scopeId"]] {
		return notFound("entity.not_found")
	}
	if r.builtin {
		return breach("a built-in role is changed")
	}
	delete(r.scopes, c.path["scopeId"])
	return answer{status: http.StatusNoContent}
}

func (s *Server) listApplicationsOfRole(c *call) answer {
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	return paging(c, s.applicationsWith(r.id), false, s.showAny)
}

// addApplicationsToRole adds all applications or none.
func (s *Server) addApplicationsToRole(c *call) answer {
	if refused := c.decode(field{name: "applicationIds", kind: texts, required: true}); refused != nil {
		return *refused
	}
	r := s.state.roles[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	if r.builtin {
		return breach("the role for the Management API is given away")
	}
	ids := c.body["applicationIds"].([]string)
	for _, id := range ids {
		if a := s.state.applications[id]; a != nil && a.roles[r.id] {
			return c.collision("role.application_exists")
		}
	}
	for _, id := range ids {
		if s.state.applications[id] == nil {
			return notFound("entity.not_exists_with_id")
		}
	}
	if slices.Contains(ids, s.management.id) {
		return breach(ownApplication)
	}
	if r.kind != machineToMachine {
		return fail(http.StatusUnprocessableEntity, "entity.db_constraint_violated")
	}
	for _, id := range ids {
		s.state.applications[id].roles[r.id] = true
	}
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	return plain(http.StatusCreated)
}

func (s *Server) removeApplicationFromRole(c *call) answer {
	return s.unassign(s.state.applications[c.path["applicationId"]], c.path["id"])
}
