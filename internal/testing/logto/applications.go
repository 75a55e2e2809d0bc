// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// ownApplication is a violation: an application must not change itself through its own
// access to the Management API.
const ownApplication = "the application of the Management API's user is changed"

func (s *Server) showApplication(a *application) map[string]any {
	shown := map[string]any{
		"tenantId": tenant, "id": a.id, "name": a.name, "description": a.description, "type": machineToMachine,
		"oidcClientMetadata":   map[string]any{"redirectUris": []any{}, "postLogoutRedirectUris": []any{}},
		"customClientMetadata": map[string]any{}, "protectedAppMetadata": nil, "customData": a.customData,
		"isThirdParty": false, "createdAt": a.created.UnixMilli(),
	}
	if s.opts.minor <= 41 {
		shown["secret"] = a.secret
	}
	return shown
}

func (a *application) describe() string {
	if a.description == nil {
		return ""
	}
	return *a.description
}

func (s *Server) showAny(a *application) any { return s.showApplication(a) }

func (c *secret) show(a *application) map[string]any {
	shown := map[string]any{
		"tenantId": tenant, "applicationId": a.id, "name": c.name, "value": c.value,
		"createdAt": c.created.UnixMilli(), "expiresAt": nil,
	}
	if !c.expires.IsZero() {
		shown["expiresAt"] = c.expires.UnixMilli()
	}
	return shown
}

// listApplications is the only list that Logto orders: the newest first.
func (s *Server) listApplications(c *call) answer {
	if types := c.query.Get("types"); c.query.Has("types") && types != machineToMachine {
		return breach("types %q", types)
	}
	matches, refused := c.matcher()
	if refused != nil {
		return *refused
	}
	found := unordered(s, s.state.applications, func(a *application) bool { return matches(a.id, a.name, a.describe()) })
	slices.SortFunc(found, func(a, b *application) int { return b.sequence - a.sequence })
	return paging(c, found, true, s.showAny)
}

func (s *Server) createApplication(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, required: true, most: 256}, field{name: "type", kind: text, required: true},
		field{name: "description", kind: nullable}, field{name: "customData", kind: object},
		field{name: "id", kind: ignored}, field{name: "secret", kind: ignored},
	); refused != nil {
		return *refused
	}
	if c.body["type"] != machineToMachine {
		return breach("an application of type %q", c.body["type"])
	}
	a := s.insertApplication(c.body["name"].(string))
	a.update(c.body)
	return reply(http.StatusOK, s.showApplication(a))
}

func (a *application) update(body map[string]any) {
	if name, ok := body["name"]; ok {
		a.name = name.(string)
	}
	if description, ok := body["description"]; ok {
		a.description = description.(*string)
	}
	if data, ok := body["customData"]; ok {
		a.customData = data.(map[string]any)
	}
	a.updates++
}

func (s *Server) getApplication(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	shown := s.showApplication(a)
	shown["isAdmin"] = false // an internal role, which consoles no longer assign
	return reply(http.StatusOK, shown)
}

// patchApplication replaces customData as a whole.
func (s *Server) patchApplication(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, most: 256}, field{name: "description", kind: nullable},
		field{name: "customData", kind: object},
	); refused != nil {
		return *refused
	}
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	a.update(c.body)
	return reply(http.StatusOK, s.showApplication(a))
}

// patchCustomData merges customData at the first level.
func (s *Server) patchCustomData(c *call) answer {
	members, refused := c.members()
	if refused != nil {
		return *refused
	}
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	merged := maps.Clone(a.customData)
	maps.Copy(merged, members)
	a.customData = merged
	a.updates++
	return reply(http.StatusOK, merged)
}

func (s *Server) deleteApplication(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	s.dropApplication(a)
	return answer{status: http.StatusNoContent}
}

// listSecrets returns the values too, at any time. Logto does not page this list.
func (s *Server) listSecrets(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	byName := map[string]*secret{}
	for _, c := range a.secrets {
		byName[c.name] = c
	}
	shown := []any{}
	for _, c := range unordered(s, byName, func(*secret) bool { return true }) {
		shown = append(shown, c.show(a))
	}
	return reply(http.StatusOK, shown)
}

func (s *Server) createSecret(c *call) answer {
	if refused := c.decode(
		field{name: "name", kind: text, required: true, most: 256}, field{name: "expiresAt", kind: instant},
	); refused != nil {
		return *refused
	}
	expires, _ := c.body["expiresAt"].(time.Time)
	if !expires.IsZero() && !expires.After(s.now()) {
		return fail(http.StatusBadRequest, "request.invalid_input")
	}
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.relation_foreign_key_not_found")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	name := c.body["name"].(string)
	exists := a.secretNamed(name) != nil
	if !exists {
		s.insertSecret(a, name, expires)
	}
	if exists || c.fault.LoseRace { // Logto tells this violation of a constraint from others: 422, not 500
		return fail(http.StatusUnprocessableEntity, "application.secret_name_exists")
	}
	return reply(http.StatusCreated, a.secretNamed(name).show(a))
}

func (s *Server) deleteSecret(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil || a.secretNamed(c.path["name"]) == nil {
		return notFound("entity.not_found")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	a.dropSecret(c.path["name"])
	return answer{status: http.StatusNoContent}
}

func (a *application) dropSecret(name string) {
	a.secrets = slices.DeleteFunc(a.secrets, func(c *secret) bool { return c.name == name })
}

func (s *Server) listRolesOfApplication(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	matches, refused := c.matcher()
	if refused != nil {
		return *refused
	}
	found := unordered(s, s.state.roles, func(r *role) bool { return a.roles[r.id] && matches(r.id, r.name, r.description) })
	return paging(c, found, false, func(r *role) any { return r.show() })
}

// addRolesToApplication skips roles that the application already has, from 1.41 on. Before that, one of them fails
// the request.
func (s *Server) addRolesToApplication(c *call) answer {
	if refused := c.decode(field{name: "roleIds", kind: maybe, required: true}); refused != nil {
		return *refused
	}
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	asked := c.body["roleIds"].([]string)
	added := slices.DeleteFunc(slices.Clone(asked), func(id string) bool { return a.roles[id] })
	if s.opts.minor < 41 && len(added) < len(asked) {
		return c.collision("application.role_exists")
	}
	if s.opts.minor < 41 && len(asked) == 0 {
		return breach("no roles")
	}
	if refused := s.mayAssign(added); refused != nil {
		return *refused
	}
	a.add(added)
	if c.fault.LoseRace {
		return uniqueViolation()
	}
	if s.opts.minor < 41 {
		return plain(http.StatusCreated)
	}
	return reply(http.StatusCreated, map[string]any{"roleIds": asked, "addedRoleIds": added})
}

func (s *Server) mayAssign(roleIDs []string) *answer {
	var refused answer
	for _, id := range roleIDs {
		switch r := s.state.roles[id]; {
		case r == nil:
			refused = notFound("entity.not_exists_with_id")
		case r.kind != machineToMachine:
			refused = fail(http.StatusUnprocessableEntity, "application.invalid_role_type")
		case r.builtin:
			refused = breach("the role for the Management API is given away")
		default:
			continue
		}
		return &refused
	}
	return nil
}

func (a *application) add(roleIDs []string) {
	for _, id := range roleIDs {
		a.roles[id] = true
	}
}

// replaceRolesOfApplication has the original's bug: it removes the roles first, and then fails if there is nothing to
// add.
func (s *Server) replaceRolesOfApplication(c *call) answer {
	if refused := c.decode(field{name: "roleIds", kind: maybe, required: true}); refused != nil {
		return *refused
	}
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	wanted := c.body["roleIds"].([]string)
	added := slices.DeleteFunc(slices.Clone(wanted), func(id string) bool { return a.roles[id] })
	if refused := s.mayAssign(added); refused != nil {
		return *refused
	}
	maps.DeleteFunc(a.roles, func(id string, _ bool) bool { return !slices.Contains(wanted, id) })
	if len(added) == 0 {
		return fail(http.StatusUnprocessableEntity, "entity.invalid_input")
	}
	a.add(added)
	return plain(http.StatusOK)
}

func (s *Server) removeRoleFromApplication(c *call) answer {
	a := s.state.applications[c.path["id"]]
	if a == nil {
		return notFound("entity.not_exists_with_id")
	}
	return s.unassign(a, c.path["roleId"])
}

func (s *Server) unassign(a *application, roleID string) answer {
	if a == nil || !a.roles[roleID] {
		return notFound("entity.not_found")
	}
	if a.builtin {
		return breach(ownApplication)
	}
	delete(a.roles, roleID)
	return answer{status: http.StatusNoContent}
}
