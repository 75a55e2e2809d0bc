// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func newDriver(w *world) provision.Driver {
	return logto.New(logto.Config{
		Endpoint: w.server.Endpoint(), ManagementAPI: logtotest.ManagementAPI,
		ClientID: w.server.ManagementClientID(), ClientSecret: provision.Sensitive(w.server.ManagementClientSecret()),
		HTTP: &http.Client{Transport: &w.wire}, Now: func() time.Time { return w.now },
	})
}

// plainWorld has one API and one client of it.
func plainWorld() *world {
	w := must(newWorld(1))
	w.others.role = must(w.server.CreateRole("Theirs", "Made by hand"))
	w.apis = []*apiOwner{{
		stored: []byte("{}"), exists: true,
		want: provision.API{
			Owner:         provision.Owner{Cluster: "east", Kind: "APIResource", Namespace: "payments", Name: "api", UID: w.newUID()},
			Identifier:    "https://payment.example.com",
			Scopes:        []provision.Scope{{Name: "read"}, {Name: "write", Description: "May write"}},
			TokenLifetime: 10 * time.Minute,
		},
	}}
	w.clients = []*clientOwner{{
		stored: []byte("{}"), exists: true, access: map[int][]string{0: {"read", "write"}},
		owner:    provision.Owner{Cluster: "east", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: w.newUID()},
		rotation: provision.Rotation{Overlap: 10 * time.Minute},
	}}
	return w
}

// plainStory plays what happens to most APIs and clients, and returns what was wrong.
func plainStory(w *world) error {
	api, client := w.apis[0], w.clients[0]
	theirs := w.theirs()
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"created", func() {}},
		{"rotated", func() { client.rotation.Request = "now" }},
		{"scope withdrawn", func() { client.access[0] = []string{"read"} }},
		{"scopes changed", func() {
			api.want.Scopes, api.want.TokenLifetime = []provision.Scope{{Name: "read", Description: "May read"}, {Name: "refund"}}, time.Hour
			client.access[0] = []string{"read", "refund"}
		}},
		{"access withdrawn", func() { delete(client.access, 0) }},
		{"access granted again", func() { client.access[0] = []string{"refund"} }},
		{"client retained", func() { client.deleting, client.retain = true, true }},
		{"client made again", func() { client.exists, client.owner.UID, client.retain = true, w.newUID(), false }},
		{"API retained, and made again", func() { api.stored, api.want.Owner.UID = []byte("{}"), w.newUID() }},
		{"client deleted", func() { client.deleting = true }},
		{"API deleted", func() { api.deleting = true }},
	} {
		step.do()
		w.tracef("%s", step.what)
		var err error
		if step.what == "client retained" {
			for client.exists && err == nil {
				w.undisturbed()
				err = wrongs(w.never())
			}
		} else {
			err = w.settle(theirs)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if all := w.server.Snapshot(); len(all.Applications)+len(all.Resources) > 0 || len(all.Roles) != 1 {
		return fmt.Errorf("left behind: %+v", all)
	}
	return nil
}

func wrongs(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "\n"))
}

func TestPlainStory(t *testing.T) {
	w := plainWorld()
	if err := plainStory(w); err != nil {
		t.Fatalf("%s\n%v", strings.Join(w.trace, "\n"), err)
	}
}

// The operator is killed once, at each boundary: before a request is sent, after the server has done it but before the
// answer arrives, before a state is recorded, and after that.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	whole := plainWorld()
	if err := plainStory(whole); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d boundaries", whole.wire.boundary)
	for at := 1 + rand.IntN(*every); at <= whole.wire.boundary; at += *every {
		w := plainWorld()
		w.wire.killAt = at
		if err := plainStory(w); err != nil {
			t.Fatalf("killed at boundary %d:\n%s\n%v", at, strings.Join(w.trace, "\n"), err)
		}
		if w.wire.killAt != 0 {
			t.Fatalf("boundary %d was never reached", at)
		}
	}
}

// Each request fails once, in each way. The operator lives on, with everything it remembers.
func TestFailsAnywhere(t *testing.T) {
	t.Parallel()
	whole := plainWorld()
	if err := plainStory(whole); err != nil {
		t.Fatal(err)
	}
	requests := whole.wire.count
	t.Logf("%d requests", requests)
	for _, fault := range []logtotest.Fault{
		{Status: http.StatusInternalServerError},
		{Status: http.StatusInternalServerError, Apply: true},
		{Drop: true, Apply: true},
	} {
		for at := 1 + rand.IntN(*every); at <= requests; at += *every {
			w, met := plainWorld(), false
			w.server.SetFault(func(*http.Request, int) (f logtotest.Fault) {
				if w.wire.sent == at {
					f, met = fault, true
				}
				return f
			})
			if err := plainStory(w); err != nil {
				t.Fatalf("request %d meets %+v:\n%s\n%v", at, fault, strings.Join(w.trace, "\n"), err)
			}
			if !met {
				t.Fatalf("there was no request %d", at)
			}
		}
	}
}

// What a client costs at a server with a budget.
func TestRequestsPerClient(t *testing.T) {
	w := plainWorld()
	api, client := w.apis[0], w.clients[0]
	must(w.syncAPI(api)) // with it come the Management API's token and what is known of the API for a minute
	for _, step := range []struct {
		what string
		do   func() error
		want map[string]int
	}{
		{"creation", func() error { _, err := w.syncClient(client); return err }, map[string]int{
			"GET /api/applications":                        1,
			"POST /api/applications":                       1,
			"GET /api/roles":                               1,
			"POST /api/roles":                              1,
			"POST /api/roles/{id}/scopes":                  1,
			"POST /api/roles/{id}/applications":            1,
			"GET /api/applications/{id}/secrets":           1,
			"DELETE /api/applications/{id}/secrets/{name}": 1,
			"POST /api/applications/{id}/secrets":          1,
			"POST /oidc/token":                             1,
		}},
		{"resync with nothing to do", func() error { _, err := w.syncClient(client); return err }, map[string]int{
			"GET /api/applications":              1,
			"GET /api/applications/{id}/roles":   1,
			"GET /api/applications/{id}/secrets": 1,
			"GET /api/roles/{id}/applications":   1,
			"GET /api/roles/{id}/scopes":         1,
		}},
		{"resync of the API with nothing to do", func() error { _, err := w.syncAPI(api); return err }, map[string]int{
			"GET /api/resources/{id}":        1,
			"GET /api/resources/{id}/scopes": 1,
		}},
		{"rotation", func() error {
			client.rotation.Request = "now"
			_, err := w.syncClient(client)
			return err
		}, map[string]int{
			"GET /api/applications":               1,
			"GET /api/applications/{id}/roles":    1,
			"GET /api/applications/{id}/secrets":  1,
			"GET /api/roles/{id}/applications":    1,
			"GET /api/roles/{id}/scopes":          1,
			"POST /api/applications/{id}/secrets": 1,
			"POST /oidc/token":                    1,
		}},
		{"end of the overlap", func() error {
			w.now = w.now.Add(10 * time.Minute)
			_, err := w.syncClient(client)
			return err
		}, map[string]int{
			"GET /api/applications":                        1,
			"GET /api/applications/{id}/roles":             1,
			"GET /api/applications/{id}/secrets":           1,
			"GET /api/roles/{id}/applications":             1,
			"GET /api/roles/{id}/scopes":                   1,
			"DELETE /api/applications/{id}/secrets/{name}": 1,
		}},
		{"deletion", func() error { return w.removeClient(client) }, map[string]int{
			"GET /api/applications":         1,
			"DELETE /api/applications/{id}": 1,
			"GET /api/roles/{id}":           1,
			"DELETE /api/roles/{id}":        1,
		}},
	} {
		w.server.ResetRequests()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if diff := cmp.Diff(step.want, w.server.Requests()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}
