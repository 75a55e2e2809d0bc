// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatTheServerWasNotToldIsAViolation(t *testing.T) {
	app := func(w *world) string { return w.at("applications", w.app) }
	for name, tc := range map[string]struct {
		method string
		path   func(*world) string
		body   any
		header http.Header
		want   string // part of the violation
	}{
		"an unknown path":                      {"GET", func(*world) string { return "/api/users" }, nil, nil, "no such method and path"},
		"a slash at the end":                   {"GET", func(*world) string { return "/api/roles/" }, nil, nil, "no such method and path"},
		"two slashes":                          {"GET", func(*world) string { return "/api//roles" }, nil, nil, "no such method and path"},
		"an unknown method":                    {"PUT", app, object{}, nil, "no such method and path"},
		"an unknown query parameter":           {"GET", func(*world) string { return "/api/roles?q=x" }, nil, nil, `query parameter "q"`},
		"a query for an operation without one": {"GET", func(w *world) string { return app(w) + "?page=1" }, nil, nil, `query parameter "page"`},
		"a parameter twice":                    {"GET", func(*world) string { return "/api/roles?page=1&page=2" }, nil, nil, `query parameter "page"`},
		"an unknown search mode":               {"GET", func(*world) string { return "/api/roles?search.name=x&mode.name=posix" }, nil, nil, "posix"},
		"a mode without search":                {"GET", func(*world) string { return "/api/roles?mode.name=exact" }, nil, nil, "without search.name"},
		"another application type":             {"GET", func(*world) string { return "/api/applications?types=SPA" }, nil, nil, "SPA"},
		"an unknown member":                    {"PATCH", app, object{"nickname": "x"}, nil, `body member "nickname"`},
		"a member of another operation":        {"POST", func(*world) string { return "/api/roles" }, object{"name": "x", "description": "x", "id": "x"}, nil, `body member "id"`},
		"not JSON":                             {"PATCH", app, "name=x", nil, "not a JSON object"},
		"not an object":                        {"PATCH", app, "[]", nil, "not a JSON object"},
		"two objects":                          {"PATCH", app, "{}{}", nil, "not a JSON object"},
		"another content type":                 {"PATCH", app, object{"name": "x"}, http.Header{"Content-Type": {"text/plain"}}, `content type "text/plain"`},
		"no body":                              {"PATCH", app, nil, nil, "content type"},
		"a DELETE with a body":                 {"DELETE", app, object{}, nil, "DELETE with a body"},
		"another application type created":     {"POST", func(*world) string { return "/api/applications" }, object{"name": "x", "type": "SPA"}, nil, "SPA"},
		"a token request in JSON":              {"POST", func(*world) string { return "/oidc/token" }, object{}, nil, "content type"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.Snapshot()
			r := w.request(tc.method, tc.path(w), "")
			if tc.body != nil {
				body, ok := tc.body.(string)
				if !ok {
					body = marshal(t, tc.body)
				}
				r = w.request(tc.method, tc.path(w), body)
			}
			for name, values := range tc.header {
				r.Header[name] = values
			}
			got, err := w.send(r)
			must(t, err)
			if got.status != http.StatusNotImplemented || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
				t.Errorf("got %d of type %q", got.status, got.header.Get("Content-Type"))
			}
			if v := w.Violations(); len(v) != 1 || !strings.Contains(v[0], tc.want) {
				t.Errorf("violations %q, want one with %q", v, tc.want)
			}
			if diff := cmp.Diff(before, w.Snapshot()); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
			w.ForgetViolations()
			w.wantNoViolations()
		})
	}
}

func TestTokenRequestsAreHeldToWhatIsKnown(t *testing.T) {
	for name, pairs := range map[string][]string{
		"another grant":              {"grant_type", "refresh_token"},
		"an unknown parameter":       {"nonce", "x"},
		"a parameter twice":          {"scope", "a", "scope", "b"},
		"scopes of an organization":  {"organization_id", "o", "scope", "s"},
		"a parameter of other specs": {"authorization_details", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			w, secret := newGranted(t)
			if got := w.token(w.app, secret, pairs...); got.status != http.StatusNotImplemented || len(w.Violations()) != 1 {
				t.Errorf("got %d, violations %q", got.status, w.Violations())
			}
		})
	}
}

func TestWhatCameWithLogtoIsLeftAlone(t *testing.T) {
	builtin := func(w *world, kind, name string) map[string]any {
		for _, item := range w.do("GET", "/api/"+kind+"?page_size=100", nil).list() {
			if item["name"] == name {
				return item
			}
		}
		w.t.Fatalf("no %s %q", kind, name)
		return nil
	}
	for name, send := range map[string]func(w *world, api, role, all string) result{
		"its resource is renamed": func(w *world, api, _, _ string) result {
			return w.do("PATCH", w.at("resources", api), object{"name": "x"})
		},
		"its resource is deleted": func(w *world, api, _, _ string) result { return w.do("DELETE", w.at("resources", api), nil) },
		"its role is renamed": func(w *world, _, role, _ string) result {
			return w.do("PATCH", w.at("roles", role), object{"name": "x"})
		},
		"its role is deleted": func(w *world, _, role, _ string) result { return w.do("DELETE", w.at("roles", role), nil) },
		"its role is given to an application": func(w *world, _, role, _ string) result {
			return w.do("POST", w.at("roles", role, "applications"), object{"applicationIds": []string{w.app}})
		},
		"an application is given its role": func(w *world, _, role, _ string) result {
			return w.do("POST", w.at("applications", w.app, "roles"), object{"roleIds": []string{role}})
		},
		"its role loses its scope": func(w *world, _, role, all string) result {
			return w.do("DELETE", w.at("roles", role, "scopes", all), nil)
		},
		"its scope is given to a role": func(w *world, _, _, all string) result { return w.grant(all) },
		"its user is renamed": func(w *world, _, _, _ string) result {
			return w.do("PATCH", w.at("applications", w.ManagementClientID()), object{"name": "x"})
		},
		"its user is deleted": func(w *world, _, _, _ string) result {
			return w.do("DELETE", w.at("applications", w.ManagementClientID()), nil)
		},
		"its user gets a secret": func(w *world, _, _, _ string) result {
			return w.do("POST", w.at("applications", w.ManagementClientID(), "secrets"), object{"name": "x"})
		},
		"its user loses its secret": func(w *world, _, _, _ string) result {
			return w.do("DELETE", w.at("applications", w.ManagementClientID(), "secrets", "Default%20secret"), nil)
		},
		"its user loses its role": func(w *world, _, role, _ string) result {
			return w.do("DELETE", w.at("applications", w.ManagementClientID(), "roles", role), nil)
		},
		"its user gets a role": func(w *world, _, _, _ string) result {
			return w.do("POST", w.at("applications", w.ManagementClientID(), "roles"), object{"roleIds": []string{w.role}})
		},
		"its user gets a role by the role": func(w *world, _, _, _ string) result {
			return w.do("POST", w.at("roles", w.role, "applications"), object{"applicationIds": []string{w.ManagementClientID()}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			api := builtin(w, "resources", "Logto Management API")["id"].(string)
			role := builtin(w, "roles", "Logto Management API access")["id"].(string)
			all := w.do("GET", w.at("resources", api, "scopes"), nil).list()[0]["id"].(string)
			if got := send(w, api, role, all); got.status != http.StatusNotImplemented || len(w.Violations()) != 1 {
				t.Errorf("got %d %s, violations %q", got.status, got.raw, w.Violations())
			}
			w.logIn()
			if got := w.do("GET", "/api/roles", nil); got.status != http.StatusOK {
				t.Errorf("the Management API can no longer be used: %d %s", got.status, got.raw)
			}
		})
	}
}
