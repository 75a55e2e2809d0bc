// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"net/http"
	"regexp"
)

func (r *resource) show() map[string]any {
	return map[string]any{
		"tenantId": tenant, "id": r.id, "name": r.name, "indicator": r.indicator, "isDefault": false,
		"accessTokenTtl": r.ttl,
	}
}

func (c *scope) show() map[string]any {
	return map[string]any{
		"tenantId": tenant, "id": c.id, "resourceId": c.resource, "name": c.name, "description": c.description,
		"createdAt": c.created.UnixMilli(),
	}
}

func (s *Server) showWithScopes(r *resource) map[string]any {
	scopes := []any{}
	for _, c := range s.scopesOf(r.id) {
		scopes = append(scopes, c.show())
	}
	shown := r.show()
	shown["scopes"] = scopes
	return shown
}

// listResources accepts the parameters of a search, and ignores them.
func (s *Server) listResources(c *call) answer {
	all := unordered(s, s.state.resources, func(*resource) bool { return true })
	return paging(c, all, true, func(r *resource) any {
		if c.query.Get("includeScopes") == "true" {
			return s.showWithScopes(r)
		}
		return r.show()
	})
}

func (s *Server) createResource(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, required: true}, field{name: "indicator", kind: text, required: true},
		field{name: "accessTokenTtl", kind: integer},
	); refused != nil {
		return *refused
	}
	indicator := c.body["indicator"].(string) // of any form: Logto does not validate it
	if s.resourceAt(indicator) != nil {
		return c.collision("resource.resource_identifier_in_use")
	}
	ttl := defaultTTL
	if given, ok := c.body["accessTokenTtl"]; ok {
		ttl = given.(int)
	}
	r := s.insertResource(c.body["name"].(string), indicator, ttl)
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	return reply(http.StatusCreated, s.showWithScopes(r))
}

// collision answers a request to create an object that exists. If it came into
// existence between the request's check and its insertion, the database reports it.
func (c *call) collision(code string) answer {
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	return fail(http.StatusUnprocessableEntity, code)
}

func uniqueViolation() answer { return plain(http.StatusInternalServerError) }

func (s *Server) getResource(c *call) answer {
	r := s.state.resources[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	return reply(http.StatusOK, r.show())
}

func (s *Server) patchResource(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text}, field{name: "accessTokenTtl", kind: integer}, field{name: "indicator", kind: text},
	); refused != nil {
		return *refused
	}
	if _, ok := c.body["indicator"]; ok || len(c.body) == 0 {
		return fail(http.StatusUnprocessableEntity, "entity.invalid_input")
	}
	r := s.state.resources[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists")
	}
	if r.builtin {
		return breach("the Management API is changed")
	}
	if name, ok := c.body["name"]; ok {
		r.name = name.(string)
	}
	if ttl, ok := c.body["accessTokenTtl"]; ok {
		r.ttl = ttl.(int)
	}
	r.updates++
	return reply(http.StatusOK, r.show())
}

func (s *Server) deleteResource(c *call) answer {
	r := s.state.resources[c.path["id"]]
	if r == nil {
		return notFound("entity.not_exists_with_id")
	}
	if r.builtin {
		return breach("the Management API is deleted")
	}
	s.dropResource(r)
	return answer{status: http.StatusNoContent}
}

// listScopes does not check whether the resource exists.
func (s *Server) listScopes(c *call) answer {
	return paging(c, s.scopesOf(c.path["id"]), false, func(c *scope) any { return c.show() })
}

var space = regexp.MustCompile(`\s`)

func (s *Server) createScope(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, required: true, most: 256}, field{name: "description", kind: nullable},
	); refused != nil {
		return *refused
	}
	name := c.body["name"].(string)
	if refused := s.mayChangeScopes(c, name); refused != nil {
		return *refused
	}
	if s.scopeOf(c.path["id"], name) != nil {
		return c.collision("scope.name_exists")
	}
	description, _ := c.body["description"].(*string)
	created := s.insertScope(c.path["id"], name, description)
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	return reply(http.StatusCreated, created.show())
}

func (s *Server) mayChangeScopes(c *call, name string) *answer {
	var refused answer
	switch r := s.state.resources[c.path["id"]]; {
	case space.MatchString(name):
		refused = fail(http.StatusBadRequest, "scope.name_with_space")
	case r == nil:
		refused = notFound("entity.not_exists_with_id")
	case r.builtin:
		refused = fail(http.StatusBadRequest, "resource.cannot_modify_management_api")
	default:
		return nil
	}
	return &refused
}

func (s *Server) patchScope(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, most: 256}, field{name: "description", kind: nullable},
	); refused != nil {
		return *refused
	}
	if len(c.body) == 0 {
		return fail(http.StatusUnprocessableEntity, "entity.invalid_input")
	}
	name, renamed := c.body["name"].(string)
	if refused := s.mayChangeScopes(c, name); refused != nil {
		return *refused
	}
	changed := s.state.scopes[c.path["scopeId"]]
	if changed == nil {
		return notFound("entity.not_exists")
	}
	if changed.resource != c.path["id"] {
		return breach("the scope is another resource's")
	}
	if renamed {
		if other := s.scopeOf(changed.resource, name); other != nil && other != changed {
			return fail(http.StatusUnprocessableEntity, "scope.name_exists")
		}
		changed.name = name
	}
	if description, ok := c.body["description"]; ok {
		changed.description = description.(*string)
	}
	changed.updates++
	return reply(http.StatusOK, changed.show())
}

func (s *Server) deleteScope(c *call) answer {
	if refused := s.mayChangeScopes(c, ""); refused != nil {
		return *refused
	}
	deleted := s.state.scopes[c.path["scopeId"]]
	if deleted == nil {
		return notFound("entity.not_found")
	}
	if deleted.resource != c.path["id"] {
		return breach("the scope is another resource's")
	}
	s.dropScope(deleted)
	return answer{status: http.StatusNoContent}
}
