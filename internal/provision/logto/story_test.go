// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func total(counts map[string]int) (n int) {
	for c := range maps.Values(counts) {
		n += c
	}
	return n
}

// What it costs is a promise: the budget of a server is shared by thousands of clients.
func TestStoryAndItsRequests(t *testing.T) {
	for _, version := range []string{"1.37", "1.42"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, logtotest.WithVersion(version))
			requests := func(what string, want map[string]int) {
				t.Helper()
				got := w.server.Requests()
				delete(got, "POST /oidc/token")
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("requests to %s, %d altogether (-want +got):\n%s", what, total(got), diff)
				}
				w.server.ResetRequests()
			}

			if drift := w.mustSyncAPI(readWrite(payment)); drift != nil {
				t.Errorf("creation is drift: %q", drift)
			}
			requests("create an API of two scopes", map[string]int{
				"GET /api/resources": 1, "POST /api/resources": 1, "POST /api/resources/{id}/scopes": 2,
			})
			w.mustSyncAPI(readWrite(payment))
			requests("look at an API", map[string]int{"GET /api/resources/{id}": 1, "GET /api/resources/{id}/scopes": 1})

			want := cart("write")
			want.Access[0].ResourceID = w.api.ID
			w.restart() // nothing is remembered of the API
			if drift := w.mustSyncClient(want); drift != nil {
				t.Errorf("creation is drift: %q", drift)
			}
			requests("create a client", map[string]int{
				"GET /api/applications": 1, "POST /api/applications": 1, "GET /api/roles": 1, "POST /api/roles": 1,
				"GET /api/resources/{id}": 1, "GET /api/resources/{id}/scopes": 1, "POST /api/roles/{id}/scopes": 1,
				"POST /api/roles/{id}/applications": 1, "GET /api/applications/{id}/secrets": 1,
				"DELETE /api/applications/{id}/secrets/{name}": 1, "POST /api/applications/{id}/secrets": 1,
			})
			w.wantToken("write")
			w.server.ResetRequests()
			state := roundTrip(t, w.client)
			if drift := w.mustSyncClient(want); drift != nil {
				t.Errorf("nothing changed and is drift: %q", drift)
			}
			requests("look at a client", map[string]int{
				"GET /api/applications": 1, "GET /api/applications/{id}/roles": 1, "GET /api/roles/{id}/scopes": 1,
				"GET /api/roles/{id}/applications": 1, "GET /api/applications/{id}/secrets": 1,
			})
			if diff := cmp.Diff(state, w.client); diff != "" {
				t.Errorf("the second call changed the state (-first +second):\n%s", diff)
			}

			second := provision.Client{Owner: otherOwner, Access: want.Access}
			if _, _, err := provision.SyncClient(t.Context(), w.driver, second, &provision.ClientState{}, provision.Rotation{}, w.keep, w.probe, w.now); err != nil {
				t.Fatal(err)
			}
			if got := w.server.Requests(); got["GET /api/resources/{id}"]+got["GET /api/resources/{id}/scopes"] != 0 {
				t.Errorf("a second client of the API reads the API again: %v", got)
			}

			all := w.server.Snapshot()
			if len(all.Applications) != 2 || len(all.Roles) != 2 || len(all.Resources) != 1 {
				t.Fatalf("there is %+v", all)
			}
			for i, app := range all.Applications {
				if diff := cmp.Diff([]string{all.Roles[i].ID}, app.Roles); diff != "" {
					t.Errorf("the application's roles (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(map[string][]string{payment: {"write"}}, all.Roles[i].Scopes); diff != "" {
					t.Errorf("the role's scopes (-want +got):\n%s", diff)
				}
				if len(app.Secrets) != 1 {
					t.Errorf("the application has the secrets %q", app.Secrets)
				}
			}
			w.server.ResetRequests()
			if err := provision.RemoveClient(t.Context(), w.driver, want, &w.client, w.keep); err != nil {
				t.Fatal(err)
			}
			requests("remove a client", map[string]int{
				"GET /api/roles/{id}": 1, "DELETE /api/roles/{id}": 1, "GET /api/applications": 1, "DELETE /api/applications/{id}": 1,
			})
			if err := w.driver.RemoveAPI(t.Context(), readWrite(payment), &w.api, w.keep); err != nil {
				t.Fatal(err)
			}
			requests("remove an API", map[string]int{"GET /api/resources/{id}": 1, "DELETE /api/resources/{id}": 1})
			all = w.server.Snapshot()
			if len(all.Applications) != 1 || len(all.Roles) != 1 || len(all.Resources) != 0 {
				t.Errorf("after removal there is %+v", all)
			}
			if diff := cmp.Diff(provision.ClientState{}, w.client); diff != "" {
				t.Errorf("state after removal (-want +got):\n%s", diff)
			}
		})
	}
}
