// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// recorder notes the requests to the Management API, with their bodies.
type recorder struct {
	http.RoundTripper
	asked []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/oidc/token" {
		line := fmt.Sprintf("%s %s, Content-Type %q", req.Method, req.URL, req.Header.Get("Content-Type"))
		if req.Body != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			raw, err := io.ReadAll(body)
			if err != nil {
				return nil, err
			}
			line += ", " + string(raw)
		}
		r.asked = append(r.asked, line)
	}
	return r.RoundTripper.RoundTrip(req)
}

// One thing is created, read, changed, deleted, and missed.
func TestOneThing(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	record := &recorder{RoundTripper: c.HTTP.Transport}
	c.HTTP = &http.Client{Transport: record}
	a := management.New(c)
	made, err := management.Create[application](t.Context(), a, "create the application", "/applications", map[string]string{"name": "cart", "type": "MachineToMachine"})
	if err != nil || made.Name != "cart" {
		t.Fatalf("made %v, %v", made, err)
	}
	path := "/applications/" + made.ID
	if err := a.Patch(t.Context(), "rename the application", path, map[string]string{"name": "basket"}); err != nil {
		t.Error(err)
	}
	found, err := management.Get[application](t.Context(), a, "read the application", path)
	if err != nil || found == nil || *found != (application{ID: made.ID, Name: "basket"}) {
		t.Errorf("found %v, %v", found, err)
	}
	for range 2 {
		if err := a.Delete(t.Context(), "delete the application", path); err != nil {
			t.Error(err)
		}
		if gone, err := management.Get[application](t.Context(), a, "read the application", path); err != nil || gone != nil {
			t.Errorf("found %v, %v after its deletion", gone, err)
		}
	}
	err = a.Patch(t.Context(), "rename the application", path, map[string]string{"name": "basket"})
	if w.wantError(err, provision.Unavailable, "rename the application: ", "404"); !management.Gone(err) {
		t.Errorf("%v is not about something that is gone", err)
	}
	at := endpoint + "/api" + path
	rename := "PATCH " + at + `, Content-Type "application/json", {"name":"basket"}`
	read, remove := "GET "+at+`, Content-Type ""`, "DELETE "+at+`, Content-Type ""`
	want := []string{
		"POST " + endpoint + `/api/applications, Content-Type "application/json", {"name":"cart","type":"MachineToMachine"}`,
		rename, read, remove, read, remove, read, rename,
	}
	if diff := cmp.Diff(want, record.asked); diff != "" {
		t.Error(diff)
	}
	w.wantError(a.Patch(t.Context(), "rename the application", path, func() {}), provision.Refused, "cannot be encoded")
}

// An answer about one thing may say that there is none, in several ways, or be senseless.
func TestAnswersAboutOneThing(t *testing.T) {
	const doing, path = "touch the application", "/applications/x"
	get := func(w *world) error {
		found, err := management.Get[application](w.Context(), w.api, doing, path)
		if err == nil && found != nil {
			w.Errorf("found %v", found)
		}
		return err
	}
	create := func(w *world) error {
		_, err := management.Create[application](w.Context(), w.api, doing, "/applications", map[string]string{})
		return err
	}
	remove := func(w *world) error { return w.api.Delete(w.Context(), doing, path) }
	const missing = `{"code":"entity.not_exists_with_id"}`
	for name, tc := range map[string]struct {
		call  func(*world) error
		part  string // of the path, default: /api/
		code  int
		body  string
		want  provision.ErrorKind
		words string
	}{
		"reading what is gone":                        {call: get, code: 404, body: missing},
		"reading what is gone, with another status":   {call: get, code: 400, body: missing},
		"reading behind a proxy without a route":      {call: get, code: 404, body: "<html>", want: provision.Unavailable, words: "check the endpoint"},
		"reading while the server is down":            {call: get, code: 503, body: missing, want: provision.Unavailable, words: "entity.not_exists_with_id (HTTP 503)"},
		"reading without a token endpoint":            {call: get, part: "/oidc/token", code: 404, body: missing, want: provision.Refused, words: "check the endpoint"},
		"reading something without an id":             {call: get, code: 200, body: `{"name":"cart"}`, want: provision.Unavailable, words: "the answer has no id"},
		"creating something without an id":            {call: create, code: 201, body: `{"name":"cart"}`, want: provision.Unavailable, words: "the answer has no id"},
		"creating what is refused":                    {call: create, code: 400, body: `{"code":"guard.invalid_input"}`, want: provision.Refused, words: "guard.invalid_input"},
		"deleting":                                    {call: remove, code: 204},
		"deleting what is gone":                       {call: remove, code: 404, body: missing},
		"deleting what is gone, with another status":  {call: remove, code: 400, body: missing},
		"deleting what is gone, by an answer without": {call: remove, code: 404, body: "Not Found"},
		"deleting while the server is down":           {call: remove, code: 500, body: missing, want: provision.Unavailable, words: "HTTP 500"},
		"deleting without a token endpoint":           {call: remove, part: "/oidc/token", code: 404, want: provision.Refused, words: "check the endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if tc.part == "" {
				tc.part = "/api/"
			}
			f := answer(tc.part, tc.code, tc.body, nil)
			w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault { return f(r) })
			switch err := tc.call(w); {
			case tc.want != "":
				w.wantError(err, tc.want, tc.words)
			case err != nil:
				t.Error(err)
			}
		})
	}
}

func TestGoneAndDisputed(t *testing.T) {
	for name, tc := range map[string]struct {
		err            error
		gone, disputed bool
	}{
		"no error":                          {},
		"another error":                     {err: errors.New("entity.not_found")},
		"nothing of that id":                {err: &provision.Error{Status: 404, Code: "entity.not_exists_with_id"}, gone: true},
		"nothing, with status 400":          {err: &provision.Error{Status: 400, Code: "entity.not_found"}, gone: true},
		"nothing that it could belong to":   {err: &provision.Error{Status: 400, Code: "entity.relation_foreign_key_not_found"}, gone: true},
		"something of an entity":            {err: &provision.Error{Status: 404, Code: "entity.another"}, gone: true},
		"something of an entity, no 404":    {err: &provision.Error{Status: 400, Code: "entity.another"}},
		"another code":                      {err: &provision.Error{Status: 404, Code: "session.not_found"}},
		"a page of a proxy":                 {err: &provision.Error{Status: 404}},
		"nothing, in an answer of 503":      {err: &provision.Error{Status: 503, Code: "entity.not_found"}},
		"in the context of something":       {err: fmt.Errorf("sync: %w", &provision.Error{Status: 404, Code: "entity.not_found"}), gone: true},
		"nothing, in an answer of 422":      {err: &provision.Error{Status: 422, Code: "entity.relation_foreign_key_not_found"}, gone: true, disputed: true},
		"it exists":                         {err: &provision.Error{Status: 422, Code: "entity.create_failed"}, disputed: true},
		"a conflict":                        {err: &provision.Error{Status: 409}, disputed: true},
		"a race is lost":                    {err: &provision.Error{Status: 500}, disputed: true},
		"the server is down":                {err: &provision.Error{Status: 503}},
		"a name is in use, with status 400": {err: &provision.Error{Status: 400, Code: "role.name_in_use"}, disputed: true},
		"it exists, with status 400":        {err: &provision.Error{Status: 400, Code: "scope.name_exists"}, disputed: true},
		"it does not exist":                 {err: &provision.Error{Status: 400, Code: "entity.not_exists"}, gone: true},
		"input is refused":                  {err: &provision.Error{Status: 400, Code: "guard.invalid_input"}},
	} {
		if got := management.Gone(tc.err); got != tc.gone {
			t.Errorf("%s: Gone() = %t", name, got)
		}
		if got := management.Disputed(tc.err); got != tc.disputed {
			t.Errorf("%s: Disputed() = %t", name, got)
		}
	}
}
