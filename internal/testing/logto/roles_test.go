// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRoles(t *testing.T) {
	post := func(body object) func(*world) result {
		return func(w *world) result { return w.do("POST", "/api/roles", body) }
	}
	m2m := object{"name": "shop", "description": "d", "type": "MachineToMachine"}
	grant := func(ids func(*world) []string) func(*world) result {
		return func(w *world) result { return w.grant(ids(w)...) }
	}
	both := grant(func(w *world) []string { return []string{w.read, w.write} })
	revoke := func(w *world) result { return w.do("DELETE", w.at("roles", w.role, "scopes", w.read), nil) }
	addRole := func(w *world) result {
		return w.do("POST", w.at("applications", w.app, "roles"), object{"roleIds": []string{w.role}})
	}
	putRoles := func(ids func(*world) []string) func(*world) result {
		return func(w *world) result {
			return w.do("PUT", w.at("applications", w.app, "roles"), object{"roleIds": ids(w)})
		}
	}
	remove := func(w *world) result { return w.do("DELETE", w.at("roles", w.role), nil) }
	unassign := func(w *world) result { return w.do("DELETE", w.at("roles", w.role, "applications", w.app), nil) }
	unassignOther := func(w *world) result { return w.do("DELETE", w.at("applications", w.app, "roles", w.role), nil) }
	assign := func(w *world) { w.assign() }
	grants := func(want ...string) func(*testing.T, *world, result) {
		return func(t *testing.T, w *world, _ result) {
			t.Helper()
			if diff := cmp.Diff(want, w.granted(), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		}
	}
	assignments := func(want int) func(*testing.T, *world, result) {
		return func(t *testing.T, w *world, _ result) {
			t.Helper()
			if got := w.assigned(); len(got) != want {
				t.Errorf("roles of the application: %q, want %d", got, want)
			}
		}
	}
	kind := func(want string) func(*testing.T, *world, result) {
		return func(t *testing.T, w *world, got result) {
			t.Helper()
			wantKeys(t, got.object(), "tenantId", "id", "name", "description", "type", "isDefault")
			if got.member("type") != want {
				t.Errorf("got %s, want type %s", got.raw, want)
			}
		}
	}
	runRows(t, map[string]row{
		"A role is created with 200":       {send: post(m2m), status: 200, check: kind("MachineToMachine")},
		"Without a type it is a user role": {send: post(object{"name": "shop", "description": "d"}), status: 200, check: kind("User")},
		"Its name is unique":               {prepare: again(post(m2m)), send: post(m2m), status: 422, code: "role.name_in_use"},
		"It needs a description": {
			send: post(object{"name": "shop", "type": "MachineToMachine"}), status: 400, code: "guard.invalid_input",
		},
		"A description of 128 is not too long": {
			send: post(object{"name": "shop", "description": strings.Repeat("ä", 128)}), status: 200,
		},
		"A description of 129 is too long": {
			send: post(object{"name": "shop", "description": strings.Repeat("ä", 129)}), status: 400, code: "guard.invalid_input",
		},
		"An unknown scope fails the creation and leaves the role behind": {
			send:   post(object{"name": "shop", "description": "d", "type": "MachineToMachine", "scopeIds": []string{"nothing"}}),
			status: 404, code: "entity.not_exists_with_id",
			check: func(t *testing.T, w *world, got result) {
				if roles := w.Snapshot().Roles; len(roles) != 2 || roles[1].Name != "shop" || roles[1].Scopes != nil {
					t.Errorf("got %+v", roles)
				}
			},
		},
		"Scopes are added with 201": {send: both, status: 201, check: grants("payments:read", "payments:write")},
		"One that exists fails the whole request": {
			prepare: func(w *world) { w.grant(w.read) }, send: both, status: 422, code: "role.scope_exists",
			check: grants("payments:read"),
		},
		"An unknown scope fails the whole request, too": {
			send: grant(func(w *world) []string { return []string{w.read, "nothing"} }), status: 404,
			code: "entity.not_exists_with_id", check: grants(),
		},
		"A scope that was deleted is unknown, not granted": {
			prepare: func(w *world) {
				w.grant(w.read)
				must(w.t, w.RemoveScope(payments, "payments:read"))
			},
			send: grant(func(w *world) []string { return []string{w.read} }), status: 404, code: "entity.not_exists_with_id",
		},
		"A role is read": {send: func(w *world) result { return w.do("GET", w.at("roles", w.role), nil) }, status: 200, check: kind("MachineToMachine")},
		"An unknown role is not found": {
			send: func(w *world) result { return w.do("GET", "/api/roles/nothing", nil) }, status: 404, code: "entity.not_exists_with_id",
		},
		"An unknown role is not added to an application": {
			prepare: again(remove), send: addRole, status: 404, code: "entity.not_exists_with_id",
		},
		"No scopes are refused": {
			send: grant(func(*world) []string { return []string{} }), status: 400, code: "guard.invalid_input",
		},
		"A scope is removed":           {prepare: again(both), send: revoke, status: 204, check: grants("payments:write")},
		"A scope is not removed twice": {send: revoke, status: 404, code: "entity.not_found"},
		"Scopes cannot be put": {
			send: func(w *world) result {
				return w.do("PUT", w.at("roles", w.role, "scopes"), object{"scopeIds": []string{w.read}})
			}, status: 405, text: "Method Not Allowed", check: grants(),
		},
		"An application is added with 201 and a text": {
			send: (*world).assign, status: 201, text: "Created", check: assignments(1),
		},
		"An application is not added twice": {
			prepare: assign, send: (*world).assign, status: 422, code: "role.application_exists",
		},
		"An unknown application is not added": {
			prepare: func(w *world) { w.do("DELETE", w.at("applications", w.app), nil) },
			send:    (*world).assign, status: 404, code: "entity.not_exists_with_id",
		},
		"A role is added to an application": {
			send: addRole, status: 201,
			check: func(t *testing.T, w *world, got result) {
				if diff := cmp.Diff(object{"roleIds": []any{w.role}, "addedRoleIds": []any{w.role}}, got.object()); diff != "" {
					t.Error(diff)
				}
			},
		},
		"From 1.41 it may be added again": {
			version: "1.41", prepare: assign, send: addRole, status: 201, check: assignments(1),
		},
		"In 1.37 it is added with a text": {version: "1.37", send: addRole, status: 201, text: "Created", check: assignments(1)},
		"In 1.37 it may not be added again": {
			version: "1.37", prepare: assign, send: addRole, status: 422, code: "application.role_exists",
		},
		"A user role is not added": {
			send: func(w *world) result {
				id := w.do("POST", "/api/roles", object{"name": "u", "description": "d"}).id()
				return w.do("POST", w.at("applications", w.app, "roles"), object{"roleIds": []string{id}})
			}, status: 422, code: "application.invalid_role_type",
		},
		"Putting roles fails if there is nothing to add": {
			prepare: assign, send: putRoles(func(w *world) []string { return []string{w.role} }), status: 422,
			code: "entity.invalid_input", check: assignments(1),
		},
		"Putting no roles removes all and fails": {
			prepare: assign, send: putRoles(func(*world) []string { return []string{} }), status: 422,
			code: "entity.invalid_input", check: assignments(0),
		},
		"Putting a new role works": {
			send: putRoles(func(w *world) []string { return []string{w.role} }), status: 200, check: assignments(1),
		},
		"A role is deleted even while assigned": {prepare: assign, send: remove, status: 204, check: assignments(0)},
		"A role is not deleted twice":           {prepare: again(remove), send: remove, status: 404, code: "entity.not_exists_with_id"},
		"An application leaves a role":          {prepare: assign, send: unassign, status: 204, check: assignments(0)},
		"An application leaves a role once":     {send: unassign, status: 404, code: "entity.not_found"},
		"A role leaves an application":          {prepare: assign, send: unassignOther, status: 204, check: assignments(0)},
		"A role leaves an application once":     {send: unassignOther, status: 404, code: "entity.not_found"},
		"A role is renamed and described": {
			send: func(w *world) result {
				return w.do("PATCH", w.at("roles", w.role), object{"name": "n", "description": "d"})
			}, status: 200,
			check: func(t *testing.T, w *world, got result) {
				if r := w.Snapshot().Roles[0]; r.Name != "n" || r.Description != "d" {
					t.Errorf("got %+v", r)
				}
			},
		},
		"A role cannot take another one's name": {
			prepare: again(post(m2m)),
			send:    func(w *world) result { return w.do("PATCH", w.at("roles", w.role), object{"name": "shop"}) },
			status:  422, code: "role.name_in_use",
		},
		"A role's scopes name their resource": {
			prepare: again(both), send: func(w *world) result { return w.do("GET", w.at("roles", w.role, "scopes"), nil) }, status: 200,
			check: func(t *testing.T, w *world, got result) {
				for _, c := range got.list() {
					if c["resource"].(object)["indicator"] != payments {
						t.Errorf("got %v", c)
					}
				}
			},
		},
	})
}
