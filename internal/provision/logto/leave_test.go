// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// An adopted application is given back when another one is named, even one that does not exist.
func TestAdoptedApplicationIsGivenBack(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	want := cart("write")
	want.Adopt = w.existingApplication().ID
	before := w.server.Snapshot()
	w.mustSyncClient(want)
	want.Adopt = "nobody"
	_, err := w.syncClient(want)
	w.wantError(err, provision.NotFound, "nobody")
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after another one was named (-before +after):\n%s", diff)
	}
	if w.keptClient.ID != "" || len(w.keptClient.Credentials) > 0 {
		t.Errorf("kept is %+v", w.keptClient)
	}
}

// Adoption asks for no more than it needs, whatever was recorded, and records whose the application is.
func TestRequestsOfAnAdoption(t *testing.T) {
	for name, tc := range map[string]struct {
		state func(w *world, id string) provision.ClientState
		want  int // requests to look for what the operator might have created, and to delete it
	}{
		"nothing was recorded":            {func(*world, string) provision.ClientState { return provision.ClientState{} }, 0},
		"something may have been created": {func(*world, string) provision.ClientState { return provision.ClientState{Creating: true} }, 2},
		"it was adopted, and the end was not seen": {func(_ *world, id string) provision.ClientState {
			return provision.ClientState{ID: id, Origin: provision.Adopted, Creating: true}
		}, 0},
		"the operator created it": {func(_ *world, id string) provision.ClientState {
			return provision.ClientState{ID: id, Origin: provision.Created}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustSyncAPI(readWrite(payment))
			want := cart("read")
			want.Adopt = w.existingApplication().ID
			w.client = tc.state(w, want.Adopt)
			w.server.ResetRequests()
			w.mustSyncClient(want)
			got := w.server.Requests()
			// One search for the role is for the role that is to be created.
			if n := got["GET /api/applications"] + got["GET /api/roles"] - 1 + got["DELETE /api/roles/{id}"]; n != tc.want {
				t.Errorf("%d requests, want %d: %v", n, tc.want, got)
			}
			if w.client.ID != want.Adopt || w.client.Origin != provision.Adopted || w.keptClient.Origin != provision.Adopted {
				t.Errorf("state %+v", w.client)
			}
		})
	}
}

// Everything with the owner's mark goes with the client, once, whatever was recorded of it.
func TestRemovalByMark(t *testing.T) {
	for name, tc := range map[string]struct {
		forget  func(*provision.ClientState)
		deletes map[string]int
	}{
		"all is recorded": {func(*provision.ClientState) {}, map[string]int{"DELETE /api/applications/{id}": 2, "DELETE /api/roles/{id}": 1}},
		"all is recorded, and there may be more": {
			func(s *provision.ClientState) { s.Creating = true }, map[string]int{"DELETE /api/applications/{id}": 2, "DELETE /api/roles/{id}": 2},
		},
		"nothing is recorded": {
			func(s *provision.ClientState) { *s = provision.ClientState{} }, map[string]int{"DELETE /api/applications/{id}": 2, "DELETE /api/roles/{id}": 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := withClient(w); err != nil {
				t.Fatal(err)
			}
			w.server.CreateApplication(clientOwner.DisplayName(), clientOwner.Mark())
			if _, err := w.server.CreateRole("late", clientOwner.Mark()); err != nil {
				t.Fatal(err)
			}
			tc.forget(&w.client)
			w.server.ResetRequests()
			if err := provision.RemoveClient(t.Context(), w.driver, cart("read"), &w.client, w.keep); err != nil {
				t.Fatal(err)
			}
			got := w.server.Requests()
			maps.DeleteFunc(got, func(what string, _ int) bool { return !strings.HasPrefix(what, http.MethodDelete) })
			if diff := cmp.Diff(tc.deletes, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if all := w.server.Snapshot(); len(all.Applications) > 0 || len(all.Roles) > 2-tc.deletes["DELETE /api/roles/{id}"] {
				t.Errorf("left behind: %+v", all)
			}
		})
	}
}

// What is retained has its name and marks, no secret, and, if the client is denied its access, no role.
func TestRetainPutsMarksBack(t *testing.T) {
	for _, denied := range []bool{false, true} {
		w := newWorld(t)
		if err := withClient(w); err != nil {
			t.Fatal(err)
		}
		before := w.server.Snapshot()
		app, role := w.client.ID, w.client.GrantID
		if err := cmpErr(w.server.RenameApplication(app, "cart"), w.server.DescribeApplication(app, ""), w.server.ClearCustomData(app),
			w.server.RenameRole(role, "cart"), w.server.DescribeRole(role, ""), addSecret(w, app, "by hand")); err != nil {
			t.Fatal(err)
		}
		want := cart("read")
		want.Retain, want.Denied = true, denied
		if err := w.driver.RemoveClient(t.Context(), want, &w.client, w.keep); err != nil {
			t.Fatal(err)
		}
		before.Applications[0].Secrets = nil
		if denied {
			before.Applications[0].Roles, before.Roles = nil, nil
		}
		if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
			t.Errorf("denied is %t, and the server (-want +got):\n%s", denied, diff)
		}
	}
}

// An adopted application keeps its own secrets. Those that the state names go, and those with the owner's prefix.
func TestSecretsOfAnAdoptedApplication(t *testing.T) {
	for _, retain := range []bool{false, true} {
		w := newWorld(t)
		w.mustSyncAPI(readWrite(payment))
		want := cart("read")
		app := w.existingApplication()
		want.Adopt, want.Retain = app.ID, retain
		w.mustSyncClient(want)
		const former = "m2m-operator-aaaaaaaaaaaaaaaa-1" // of a cluster that had another identity
		if err := cmpErr(addSecret(w, app.ID, former), addSecret(w, app.ID, clientOwner.CredentialPrefix()+"99")); err != nil {
			t.Fatal(err)
		}
		w.client.Credentials = append(w.client.Credentials, provision.Credential{Name: former, Stage: provision.Retiring})
		if err := w.driver.RemoveClient(t.Context(), want, &w.client, w.keep); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(app.Secrets, w.onlyApplication().Secrets); diff != "" {
			t.Errorf("retain is %t, and the secrets (-want +got):\n%s", retain, diff)
		}
		if len(w.keptClient.Credentials) > 0 {
			t.Errorf("retain is %t, and %d credentials are kept", retain, len(w.keptClient.Credentials))
		}
	}
}

// One credential that the server has lost says nothing about the others.
func TestOneOfTwoSecretsIsMissing(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	lost := provision.Credential{Name: clientOwner.CredentialPrefix() + "0", Stage: provision.Retiring, ClientID: w.client.ID, Secret: "x", RetireAt: w.now.Add(time.Hour)}
	kept := w.client.Credentials
	w.client.Credentials = append([]provision.Credential{lost}, kept...)
	if drift := w.mustSyncClient(cart("read")); drift != nil { // it may have been revoked
		t.Errorf("drift %q", drift)
	}
	if diff := cmp.Diff(kept, w.client.Credentials, cmp.Comparer(func(a, b provision.Sensitive) bool { return a == b })); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
}

// A server may give its secrets an end.
func TestExpiryOfAnIssuedSecret(t *testing.T) {
	for given, want := range map[string]time.Time{
		"1772452800999": time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), "1": time.Unix(0, 0).UTC(), "0": {}, "null": {},
	} {
		w := newWorld(t)
		w.mustSyncAPI(readWrite(payment))
		w.mustSyncClient(provision.Client{Owner: clientOwner})
		w.rewrite(func(r *http.Request, body string) string {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/secrets") {
				return strings.Replace(body, `"expiresAt":null`, `"expiresAt":`+given, 1)
			}
			return body
		})
		c := provision.Credential{Name: clientOwner.CredentialPrefix() + "1"}
		if err := w.driver.Issue(t.Context(), cart("read"), &w.client, &c); err != nil || !c.ExpiresAt.Equal(want) || c.ExpiresAt.IsZero() != want.IsZero() {
			t.Errorf("%s: %v, expires at %s", given, err, c.ExpiresAt)
		}
	}
}
