// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// world is a server with one object of each kind, made through its API and not linked to each
// other.
type world struct {
	*fixture
	api, read, write, app, role string // ids
}

func newWorld(t *testing.T, opts ...logto.Option) *world {
	t.Helper()
	w := &world{fixture: setUp(t, opts...)}
	w.api = w.do("POST", "/api/resources", object{"name": "Payments", "indicator": payments}).id()
	w.read = w.do("POST", w.at("resources", w.api, "scopes"), object{"name": "payments:read", "description": "Look"}).id()
	w.write = w.do("POST", w.at("resources", w.api, "scopes"), object{"name": "payments:write", "description": "Pay"}).id()
	w.app = w.do("POST", "/api/applications", object{"name": "cart", "type": "MachineToMachine"}).id()
	w.role = w.do("POST", "/api/roles", object{"name": "cart", "description": "cart", "type": "MachineToMachine"}).id()
	if w.api == "" || w.read == "" || w.write == "" || w.app == "" || w.role == "" {
		t.Fatal("the world is not complete")
	}
	return w
}

func (w *world) at(segments ...string) string { return "/api/" + strings.Join(segments, "/") }

func (w *world) grant(scopes ...string) result {
	w.t.Helper()
	return w.do("POST", w.at("roles", w.role, "scopes"), object{"scopeIds": scopes})
}

func (w *world) assign() result {
	w.t.Helper()
	return w.do("POST", w.at("roles", w.role, "applications"), object{"applicationIds": []string{w.app}})
}

// granted returns the names of the role's scopes.
func (w *world) granted() []string {
	for _, r := range w.Snapshot().Roles {
		if r.ID == w.role {
			return r.Scopes[payments]
		}
	}
	return nil
}

func (w *world) assigned() []string {
	for _, a := range w.Snapshot().Applications {
		if a.ID == w.app {
			return a.Roles
		}
	}
	return nil
}

// row is a request and its answer.
type row struct {
	version string
	prepare func(*world)
	send    func(*world) result
	status  int
	code    string
	text    string // of a text/plain answer
	check   func(*testing.T, *world, result)
}

func runRows(t *testing.T, rows map[string]row) {
	t.Helper()
	for name, tc := range rows {
		t.Run(name, func(t *testing.T) {
			var opts []logto.Option
			if tc.version != "" {
				opts = append(opts, logto.WithVersion(tc.version))
			}
			w := newWorld(t, opts...)
			if tc.prepare != nil {
				tc.prepare(w)
			}
			got := tc.send(w)
			if got.status != tc.status || got.code() != tc.code {
				t.Fatalf("got %d %q, want %d %q: %s", got.status, got.code(), tc.status, tc.code, got.raw)
			}
			if tc.text != "" && (got.raw != tc.text || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain")) {
				t.Errorf("got %q of type %q, want the text %q", got.raw, got.header.Get("Content-Type"), tc.text)
			}
			if tc.code != "" && got.member("message") == nil {
				t.Errorf("an error without message: %s", got.raw)
			}
			if tc.check != nil {
				tc.check(t, w, got)
			}
			w.wantNoViolations()
		})
	}
}

func wantKeys(t *testing.T, got map[string]any, want ...string) {
	t.Helper()
	var keys []string
	for key := range got {
		keys = append(keys, key)
	}
	if diff := cmp.Diff(want, keys, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func again(send func(*world) result) func(*world) { return func(w *world) { send(w) } }

func TestResourcesAndScopes(t *testing.T) {
	post := func(w *world) result {
		return w.do("POST", "/api/resources", object{"name": "Orders", "indicator": "https://orders.example.com", "accessTokenTtl": 60})
	}
	patch := func(body object) func(*world) result {
		return func(w *world) result { return w.do("PATCH", w.at("resources", w.api), body) }
	}
	scope := func(name string) func(*world) result {
		return func(w *world) result {
			return w.do("POST", w.at("resources", w.api, "scopes"), object{"name": name, "description": "d"})
		}
	}
	remove := func(w *world) result { return w.do("DELETE", w.at("resources", w.api), nil) }
	removeScope := func(w *world) result { return w.do("DELETE", w.at("resources", w.api, "scopes", w.read), nil) }
	management := func(w *world) string {
		for _, r := range w.do("GET", "/api/resources", nil).list() {
			if r["indicator"] == logto.ManagementAPI {
				return r["id"].(string)
			}
		}
		return ""
	}
	runRows(t, map[string]row{
		"A resource is created with 201": {
			send: post, status: 201,
			check: func(t *testing.T, w *world, got result) {
				wantKeys(t, got.object(), "tenantId", "id", "name", "indicator", "isDefault", "accessTokenTtl", "scopes")
				if got.member("accessTokenTtl") != 60.0 || len(got.id()) != 21 {
					t.Errorf("got %s", got.raw)
				}
			},
		},
		"A second one with the same indicator is refused": {
			prepare: again(post), send: post, status: 422, code: "resource.resource_identifier_in_use",
		},
		"The indicator is not validated": {
			send: func(w *world) result {
				return w.do("POST", "/api/resources", object{"name": "x", "indicator": "not a uri"})
			}, status: 201,
		},
		"Its lifetime can be changed": {
			send: patch(object{"accessTokenTtl": 1200}), status: 200,
			check: func(t *testing.T, w *world, got result) {
				if r := w.Snapshot().Resources[0]; r.AccessTokenTTL != 1200 || r.Name != "Payments" {
					t.Errorf("got %+v", r)
				}
			},
		},
		"Its indicator cannot be changed": {
			send: patch(object{"indicator": "https://other.example.com"}), status: 422, code: "entity.invalid_input",
		},
		"An unknown one is not found": {
			send: func(w *world) result { return w.do("GET", "/api/resources/nothing", nil) }, status: 404,
			code: "entity.not_exists_with_id",
		},
		"A resource is read": {
			send: func(w *world) result { return w.do("GET", w.at("resources", w.api), nil) }, status: 200,
			check: func(t *testing.T, w *world, got result) {
				wantKeys(t, got.object(), "tenantId", "id", "name", "indicator", "isDefault", "accessTokenTtl")
				if got.member("accessTokenTtl") != 3600.0 || got.member("indicator") != payments {
					t.Errorf("got %s", got.raw)
				}
			},
		},
		"A scope is created with 201": {
			send: scope("payments:refund"), status: 201,
			check: func(t *testing.T, w *world, got result) {
				wantKeys(t, got.object(), "tenantId", "id", "resourceId", "name", "description", "createdAt")
			},
		},
		"A scope exists":     {send: scope("payments:read"), status: 422, code: "scope.name_exists"},
		"A scope with space": {send: scope("payments read"), status: 400, code: "scope.name_with_space"},
		"A scope on the Management API": {
			send: func(w *world) result {
				return w.do("POST", w.at("resources", management(w), "scopes"), object{"name": "some"})
			}, status: 400, code: "resource.cannot_modify_management_api",
		},
		"A scope of an unknown resource": {
			send:   func(w *world) result { return w.do("POST", "/api/resources/nothing/scopes", object{"name": "some"}) },
			status: 404, code: "entity.not_exists_with_id",
		},
		"A scope can be renamed and described": {
			send: func(w *world) result {
				return w.do("PATCH", w.at("resources", w.api, "scopes", w.read), object{"name": "read", "description": "D"})
			}, status: 200,
			check: func(t *testing.T, w *world, got result) {
				want := logto.Scope{ID: w.read, Name: "read", Description: "D"}
				if diff := cmp.Diff(want, w.Snapshot().Resources[0].Scopes[1]); diff != "" {
					t.Error(diff)
				}
			},
		},
		"A scope cannot take another one's name": {
			send: func(w *world) result {
				return w.do("PATCH", w.at("resources", w.api, "scopes", w.read), object{"name": "payments:write"})
			}, status: 422, code: "scope.name_exists",
		},
		"Deleting a scope removes it from roles": {
			prepare: func(w *world) { w.grant(w.read, w.write) }, send: removeScope, status: 204,
			check: func(t *testing.T, w *world, got result) {
				if diff := cmp.Diff([]string{"payments:write"}, w.granted()); diff != "" {
					t.Error(diff)
				}
			},
		},
		"A scope is not deleted twice": {prepare: again(removeScope), send: removeScope, status: 404, code: "entity.not_found"},
		"Deleting a resource removes its scopes and their grants": {
			prepare: func(w *world) { w.grant(w.read) }, send: remove, status: 204,
			check: func(t *testing.T, w *world, got result) {
				if s := w.Snapshot(); len(s.Resources) > 0 || s.Roles[0].Scopes != nil {
					t.Errorf("got %+v", s)
				}
			},
		},
		"A resource is not deleted twice": {prepare: again(remove), send: remove, status: 404, code: "entity.not_exists_with_id"},
		"A name is required": {
			send:   func(w *world) result { return w.do("POST", "/api/resources", object{"indicator": "https://x"}) },
			status: 400, code: "guard.invalid_input",
		},
		"The list of resources ignores a search": {
			send: func(w *world) result {
				return w.do("GET", "/api/resources?search.name=none&mode.name=exact&search=%25x%25", nil)
			},
			status: 200, check: func(t *testing.T, w *world, got result) {
				if len(got.list()) != 2 {
					t.Errorf("got %s", got.raw)
				}
			},
		},
		"The list of resources can have their scopes": {
			send: func(w *world) result { return w.do("GET", "/api/resources?includeScopes=true", nil) }, status: 200,
			check: func(t *testing.T, w *world, got result) {
				for _, r := range got.list() {
					if r["id"] == w.api && len(r["scopes"].([]any)) != 2 {
						t.Errorf("got %v", r)
					}
				}
			},
		},
	})
}

func TestApplicationsAndSecrets(t *testing.T) {
	post := func(w *world) result {
		return w.do("POST", "/api/applications", object{
			"name": "shop", "type": "MachineToMachine", "description": "d", "customData": object{"a": 1},
			"id": "mine", "secret": "mine",
		})
	}
	addSecret := func(name string, expires any) func(*world) result {
		return func(w *world) result {
			body := object{"name": name}
			if expires != nil {
				body["expiresAt"] = expires
			}
			return w.do("POST", w.at("applications", w.app, "secrets"), body)
		}
	}
	removeDefault := func(w *world) result {
		return w.do("DELETE", w.at("applications", w.app, "secrets", "Default%20secret"), nil)
	}
	remove := func(w *world) result { return w.do("DELETE", w.at("applications", w.app), nil) }
	custom := func(body object) func(*world) {
		return func(w *world) { w.do("PATCH", w.at("applications", w.app, "custom-data"), body) }
	}
	customIs := func(want object) func(*testing.T, *world, result) {
		return func(t *testing.T, w *world, _ result) {
			t.Helper()
			if diff := cmp.Diff(want, w.Snapshot().Applications[0].CustomData); diff != "" {
				t.Error(diff)
			}
		}
	}
	in := func(d time.Duration) int64 { return newClock().now().Add(d).UnixMilli() }
	runRows(t, map[string]row{
		"An application is created with 200, under an id and with a secret of Logto's choice": {
			send: post, status: 200,
			check: func(t *testing.T, w *world, got result) {
				if got.id() == "mine" || got.member("secret") != nil || got.member("type") != "MachineToMachine" {
					t.Errorf("got %s", got.raw)
				}
				secrets := w.do("GET", w.at("applications", got.id(), "secrets"), nil).list()
				if len(secrets) != 1 || secrets[0]["name"] != "Default secret" || len(secrets[0]["value"].(string)) != 32 ||
					secrets[0]["expiresAt"] != nil || secrets[0]["createdAt"] == nil {
					t.Errorf("secrets: %v", secrets)
				}
			},
		},
		"Names are not unique": {
			prepare: again(post), send: post, status: 200,
			check: func(t *testing.T, w *world, got result) {
				if n := len(w.Snapshot().Applications); n != 3 {
					t.Errorf("%d applications, want 3", n)
				}
			},
		},
		"Up to 1.41 the body carries a secret": {
			version: "1.41", send: func(w *world) result { return w.do("GET", w.at("applications", w.app), nil) }, status: 200,
			check: func(t *testing.T, w *world, got result) {
				secret, _ := got.member("secret").(string)
				if token := w.token(w.app, secret, "resource", payments); token.status != http.StatusOK {
					t.Errorf("it authenticates with %d", token.status)
				}
			},
		},
		"An application is read with isAdmin": {
			send: func(w *world) result { return w.do("GET", w.at("applications", w.app), nil) }, status: 200,
			check: func(t *testing.T, w *world, got result) {
				if got.member("isAdmin") != false || got.member("secret") != nil {
					t.Errorf("got %s", got.raw)
				}
			},
		},
		"A secret is created with 201 and its value": {
			send: addSecret("second", in(time.Hour)), status: 201,
			check: func(t *testing.T, w *world, got result) {
				if got.member("value") != w.SecretValue(w.app, "second") || got.member("expiresAt") != float64(in(time.Hour)) {
					t.Errorf("got %s", got.raw)
				}
			},
		},
		"A secret without expiry":           {send: addSecret("second", nil), status: 201},
		"A secret's name is taken":          {send: addSecret("Default secret", nil), status: 422, code: "application.secret_name_exists"},
		"A secret that expires in the past": {send: addSecret("x", in(-time.Hour)), status: 400, code: "request.invalid_input"},
		"A secret with an ISO time": {
			send: addSecret("x", "2030-01-01T00:00:00Z"), status: 400, code: "guard.invalid_input",
		},
		"A secret of an unknown application": {
			prepare: again(remove), send: addSecret("x", nil), status: 404, code: "entity.relation_foreign_key_not_found",
		},
		"A secret is deleted by its encoded name": {
			send: removeDefault, status: 204,
			check: func(t *testing.T, w *world, got result) {
				if diff := cmp.Diff([]string(nil), w.Snapshot().Applications[0].Secrets); diff != "" {
					t.Error(diff)
				}
			},
		},
		"A secret is not deleted twice": {prepare: again(removeDefault), send: removeDefault, status: 404, code: "entity.not_found"},
		"Custom data is merged at its first level": {
			prepare: custom(object{"a": "1", "deep": object{"x": "1"}}),
			send: func(w *world) result {
				return w.do("PATCH", w.at("applications", w.app, "custom-data"), object{"b": "2", "deep": object{"y": "2"}})
			}, status: 200, check: customIs(object{"a": "1", "b": "2", "deep": object{"y": "2"}}),
		},
		"Custom data is replaced with the application": {
			prepare: custom(object{"a": "1"}),
			send: func(w *world) result {
				return w.do("PATCH", w.at("applications", w.app), object{"customData": object{"b": "2"}})
			}, status: 200, check: customIs(object{"b": "2"}),
		},
		"Renaming keeps the rest": {
			prepare: custom(object{"a": "1"}),
			send:    func(w *world) result { return w.do("PATCH", w.at("applications", w.app), object{"name": "n"}) },
			status:  200, check: customIs(object{"a": "1"}),
		},
		"An application is deleted": {
			prepare: func(w *world) { w.assign() }, send: remove, status: 204,
			check: func(t *testing.T, w *world, got result) {
				if s := w.Snapshot(); len(s.Applications) > 0 || s.Roles[0].Applications != nil {
					t.Errorf("got %+v", s)
				}
			},
		},
		"An application is not deleted twice": {prepare: again(remove), send: remove, status: 404, code: "entity.not_exists_with_id"},
		"Secrets of an unknown application": {
			send:   func(w *world) result { return w.do("GET", "/api/applications/nothing/secrets", nil) },
			status: 404, code: "entity.not_exists_with_id",
		},
	})
}
