// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func (w *world) existingAPI(scopes ...string) {
	w.Helper()
	if _, err := w.server.CreateResource("Payments", payment, 300, scopes...); err != nil {
		w.Fatal(err)
	}
}

func TestAdoptedAPI(t *testing.T) {
	w := newWorld(t)
	w.existingAPI("read", "theirs")
	before := w.server.Snapshot()

	want := readWrite(payment)
	_, err := w.syncAPI(want)
	w.wantError(err, provision.Conflict, payment, "spec.provisioning.adoption.apiResources")
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" || w.api.ID != "" {
		t.Errorf("what is not the owner's was changed, or recorded as %+v (-before +after):\n%s", w.api, diff)
	}

	want.Adopt = true
	if drift := w.mustSyncAPI(want); drift != nil {
		t.Errorf("drift: %q", drift)
	}
	state := provision.APIState{ID: before.Resources[0].ID, Origin: provision.Adopted, Scopes: []string{"read", "write"}, TokenLifetime: 5 * time.Minute}
	if diff := cmp.Diff(state, w.api); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	api := w.server.Snapshot().Resources[0]
	if api.Name != "Payments" || len(api.Scopes) != 3 || api.Scopes[0].Description != "" || !apiOwner.Owns(api.Scopes[2].Description) {
		t.Errorf("the adopted API is %+v", api)
	}

	want.Scopes = nil // neither of them is declared any more, and only one was made by the operator
	w.mustSyncAPI(want)
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after its scopes were dropped (-before +after):\n%s", diff)
	}
	w.mustSyncAPI(withAdoption(readWrite(payment)))

	unlisted := readWrite(payment)
	_, err = w.syncAPI(unlisted)
	w.wantError(err, provision.Conflict, payment)

	if err := w.driver.RemoveAPI(t.Context(), want, &w.api, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after its removal (-before +after):\n%s", diff)
	}
}

func withAdoption(want provision.API) provision.API {
	want.Adopt = true
	return want
}

func TestAdoptionOfWhatDoesNotExistCreatesIt(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(withAdoption(readWrite(payment)))
	if w.api.Origin != provision.Created {
		t.Errorf("origin %s", w.api.Origin)
	}
	if err := w.driver.RemoveAPI(t.Context(), withAdoption(readWrite(payment)), &w.api, w.keep); err != nil || w.server.Snapshot().Resources != nil {
		t.Errorf("%v, left %+v", err, w.server.Snapshot().Resources)
	}
}

// If an administrator deletes the operator's API and creates another one, that one is not the operator's.
func TestReplacedAPIIsNotTheOperators(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	if err := w.server.DeleteResource(payment); err != nil {
		t.Fatal(err)
	}
	w.existingAPI("read")
	before := w.server.Snapshot()
	_, err := w.syncAPI(readWrite(payment))
	w.wantError(err, provision.Conflict)
	if err := w.driver.RemoveAPI(t.Context(), readWrite(payment), &w.api, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("what is another's was changed (-before +after):\n%s", diff)
	}
}

func TestRemoveAPIByMark(t *testing.T) {
	for name, tc := range map[string]struct {
		name  string
		state provision.APIState
		gone  bool
	}{
		"nothing recorded and the owner's mark":          {apiOwner.DisplayName(), provision.APIState{}, true},
		"nothing recorded and no mark":                   {"Payments", provision.APIState{}, false},
		"recorded as created and renamed":                {"Payments", provision.APIState{ID: "this", Origin: provision.Created}, true},
		"recorded as created, and marked as another's":   {otherOwner.DisplayName(), provision.APIState{ID: "this", Origin: provision.Created}, false},
		"recorded as adopted":                            {"Payments", provision.APIState{ID: "this", Origin: provision.Adopted}, false},
		"recorded as adopted, and the owner's mark":      {apiOwner.DisplayName(), provision.APIState{ID: "this", Origin: provision.Adopted}, false},
		"recorded as observed, and the owner's mark":     {apiOwner.DisplayName(), provision.APIState{ID: "this", Origin: provision.Observed}, false},
		"recorded under another id and the owner's mark": {apiOwner.DisplayName(), provision.APIState{ID: "stale", Origin: provision.Created}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id, err := w.server.CreateResource(tc.name, payment, 300)
			if err != nil {
				t.Fatal(err)
			}
			if w.api = tc.state; w.api.ID == "this" {
				w.api.ID = id
			}
			if err := w.driver.RemoveAPI(t.Context(), readWrite(payment), &w.api, w.keep); err != nil {
				t.Fatal(err)
			}
			if gone := len(w.server.Snapshot().Resources) == 0; gone != tc.gone {
				t.Errorf("deleted: %t, want %t", gone, tc.gone)
			}
			if diff := cmp.Diff(provision.APIState{}, w.keptAPI); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestObserve(t *testing.T) {
	w := newWorld(t)
	want := readWrite(payment)
	want.Observe, want.TokenLifetime = true, time.Hour
	_, err := w.syncAPI(want)
	w.wantError(err, provision.NotFound, payment)

	w.existingAPI("read", "theirs")
	_, err = w.syncAPI(want)
	w.wantError(err, provision.Conflict, payment)

	want.Adopt = true
	before := w.server.Snapshot()
	drift := w.mustSyncAPI(want)
	if diff := cmp.Diff(drifts(`Scope "write" is missing`, "The access token lifetime is 5m0s instead of 1h0m0s"), drift); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	state := provision.APIState{ID: before.Resources[0].ID, Origin: provision.Observed, Scopes: []string{"read"}, TokenLifetime: 5 * time.Minute}
	if diff := cmp.Diff(state, w.api); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("observing changed something (-before +after):\n%s", diff)
	}
	if err := w.driver.RemoveAPI(t.Context(), want, &w.api, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("removal of what was observed changed something (-before +after):\n%s", diff)
	}
}

// An API that the operator made can be switched to Observe, and back.
func TestObserveWhatWasCreated(t *testing.T) {
	w := newWorld(t)
	want := readWrite(payment)
	w.mustSyncAPI(want)
	if err := cmpErr(w.server.RenameResource(payment, "x "+apiOwner.DisplayName()), w.server.RemoveScope(payment, "read"),
		w.server.DescribeScope(payment, "write", apiOwner.Annotate("other words"))); err != nil {
		t.Fatal(err)
	}
	want.Observe = true
	want.Scopes = append(slices.Clone(want.Scopes), provision.Scope{Name: "refund"})
	wantDrift := drifts(`Scope "read" is missing`, `Scope "refund" is missing`, "The API is renamed", `The description of scope "write" differs`)
	if diff := cmp.Diff(wantDrift, w.mustSyncAPI(want)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	want.Scopes = nil
	if diff := cmp.Diff(drifts(`Scope "write" is no longer declared`, "The API is renamed"), w.mustSyncAPI(want)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	want = readWrite(payment)
	w.mustSyncAPI(want)
	if w.api.Origin != provision.Created {
		t.Errorf("origin %s", w.api.Origin)
	}
}

func (w *world) existingApplication() logtotest.Application {
	w.Helper()
	id := w.server.CreateApplication("The cart", "made by hand")
	role, err := w.server.CreateRole("legacy", "made by hand")
	if err := cmpErr(err, w.server.GrantScope(role, payment, "read"), w.server.AssignRole(role, id), addSecret(w, id, "by hand")); err != nil {
		w.Fatal(err)
	}
	return w.onlyApplication()
}

func TestAdoptedClient(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	app := w.existingApplication()
	before := w.server.Snapshot()
	want := cart("write")
	want.Adopt = app.ID
	if drift := w.mustSyncClient(want); drift != nil {
		t.Errorf("drift: %q", drift)
	}
	if w.client.ID != app.ID || w.client.Origin != provision.Adopted || w.client.Creating {
		t.Errorf("state %+v", w.client)
	}
	all := w.server.Snapshot()
	got := all.Applications[0]
	if got.Name != app.Name || got.Description != app.Description || len(got.CustomData) > 0 || len(got.Secrets) != 3 || len(got.Roles) != 2 {
		t.Errorf("the adopted application is %+v", got)
	}
	own := all.Roles[slices.IndexFunc(all.Roles, func(r logtotest.Role) bool { return r.ID == w.client.GrantID })]
	if diff := cmp.Diff(map[string][]string{payment: {"write"}}, own.Scopes); diff != "" {
		t.Errorf("the operator's role has (-want +got):\n%s", diff)
	}
	w.wantToken("read", "write")

	if err := addSecret(w, app.ID, clientOwner.CredentialPrefix()+"99"); err != nil { // as of a state that was lost
		t.Fatal(err)
	}
	if drift := w.mustSyncClient(want); drift != nil {
		t.Errorf("drift: %q", drift)
	}
	if got := w.onlyApplication(); len(got.Secrets) != 3 {
		t.Errorf("the adopted application has the secrets %q", got.Secrets)
	}
	if err := provision.RemoveClient(t.Context(), w.driver, want, &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after its removal (-before +after):\n%s", diff)
	}
}

func TestClientsThatCannotBeAdopted(t *testing.T) {
	for name, tc := range map[string]struct {
		adopt func(w *world) string
		want  provision.ErrorKind
	}{
		"one that does not exist": {func(*world) string { return "nobody" }, provision.NotFound},
		"one of another cluster": {func(w *world) string {
			return w.server.CreateApplication("cart", otherOwner.Mark())
		}, provision.Conflict},
		"one of another cluster by its custom data": {func(w *world) string {
			id := w.server.CreateApplication("cart", "")
			if err := w.server.SetCustomData(id, map[string]any{"m2m-operator": map[string]any{"cluster": "c9", "kind": "M2MClient"}}); err != nil {
				w.Fatal(err)
			}
			return id
		}, provision.Conflict},
		"the operator's own": {func(w *world) string { return w.server.ManagementClientID() }, provision.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustSyncAPI(readWrite(payment))
			want := cart("read")
			want.Adopt = tc.adopt(w)
			before := w.server.Snapshot()
			_, err := w.syncClient(want)
			w.wantError(err, tc.want)
			if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
				t.Errorf("something was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// A client that becomes another one leaves nothing at the first.
func TestAdoptionComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	app := w.existingApplication()
	before := w.server.Snapshot()
	adopted := cart("write")
	adopted.Adopt = app.ID

	w.mustSyncClient(cart("write"))
	w.mustSyncClient(adopted)
	if w.client.ID != app.ID || w.client.Origin != provision.Adopted || len(w.server.Snapshot().Applications) != 1 {
		t.Errorf("created, then adopted: state %+v, server %+v", w.client, w.server.Snapshot())
	}
	w.wantToken("read", "write")
	w.mustSyncClient(cart("write"))
	if w.client.ID == app.ID || w.client.Origin != provision.Created || len(w.server.Snapshot().Applications) != 2 {
		t.Errorf("adopted, then created: state %+v, server %+v", w.client, w.server.Snapshot())
	}
	w.wantToken("write")
	if err := provision.RemoveClient(t.Context(), w.driver, cart("write"), &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("at the end (-before +after):\n%s", diff)
	}

	other := w.server.CreateApplication("another", "")
	w.mustSyncClient(adopted)
	second := adopted
	second.Adopt = other
	w.mustSyncClient(second)
	if err := provision.RemoveClient(t.Context(), w.driver, second, &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if err := w.server.DeleteApplication(other); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after two were adopted (-before +after):\n%s", diff)
	}

	// The application that the operator created becomes somebody's, and stays when the client goes.
	w.mustSyncClient(cart("write"))
	adopted.Adopt = w.client.ID
	w.mustSyncClient(adopted)
	if err := provision.RemoveClient(t.Context(), w.driver, adopted, &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if err := w.server.DeleteApplication(adopted.Adopt); err != nil {
		t.Errorf("the adopted application was deleted: %v", err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("after the created one was adopted (-before +after):\n%s", diff)
	}
}

func TestAdoptedClientThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	want := cart("write")
	want.Adopt = w.server.CreateApplication("The cart", "")
	w.mustSyncClient(want)
	if err := w.server.DeleteApplication(want.Adopt); err != nil {
		t.Fatal(err)
	}
	_, err := w.syncClient(want)
	w.wantError(err, provision.NotFound, want.Adopt)
	if len(w.client.Credentials) != 0 {
		t.Errorf("the credentials of what is gone are kept: %d", len(w.client.Credentials))
	}
	if err := provision.RemoveClient(t.Context(), w.driver, want, &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if all := w.server.Snapshot(); len(all.Roles) > 0 {
		t.Errorf("left behind: %+v", all.Roles)
	}
}

func TestRetain(t *testing.T) {
	for _, adopt := range []bool{false, true} {
		w := newWorld(t)
		w.mustSyncAPI(readWrite(payment))
		want := cart("write")
		kept := 0
		if adopt {
			want.Adopt, kept = w.existingApplication().ID, 2
		}
		w.mustSyncClient(want)
		want.Retain = true
		if err := provision.RemoveClient(t.Context(), w.driver, want, &w.client, w.keep); err != nil {
			t.Fatal(err)
		}
		app := w.onlyApplication()
		if len(app.Secrets) != kept || len(app.Roles) == 0 {
			t.Errorf("adopted %t: left is %+v", adopt, app)
		}
	}
}

func TestRoleOfTheNameIsAnothers(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	id, err := w.server.CreateRole(clientOwner.DisplayName(), "of somebody who likes the name")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.syncClient(cart("read"))
	w.wantError(err, provision.Conflict, clientOwner.DisplayName())
	if err := provision.RemoveClient(t.Context(), w.driver, cart("read"), &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if role := w.onlyRole(); role.ID != id || len(w.server.Snapshot().Applications) != 0 {
		t.Errorf("after removal there is %+v", w.server.Snapshot())
	}
}

func TestRecordedThingsAreMarkedAsAnothers(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	if err := w.server.DescribeRole(w.client.GrantID, otherOwner.Mark()); err != nil {
		t.Fatal(err)
	}
	_, err := w.syncClient(cart("read"))
	w.wantError(err, provision.Conflict)
	if err := cmpErr(w.server.DescribeRole(w.client.GrantID, ""), w.server.DescribeApplication(w.client.ID, otherOwner.Mark())); err != nil {
		t.Fatal(err)
	}
	_, err = w.syncClient(cart("read"))
	w.wantError(err, provision.Conflict)
	if err := provision.RemoveClient(t.Context(), w.driver, cart("read"), &w.client, w.keep); err != nil {
		t.Fatal(err)
	}
	if all := w.server.Snapshot(); len(all.Applications) != 1 || len(all.Roles) != 0 {
		t.Errorf("after removal there is %+v", all)
	}
}

// If the answer to a creation was lost, what it left goes when the client becomes another one.
func TestAdoptionAfterAnInterruptedCreation(t *testing.T) {
	for _, itself := range []bool{false, true} {
		w := newWorld(t)
		w.mustSyncAPI(readWrite(payment))
		w.fault("POST", "/api/applications", 1, logtotest.Fault{Drop: true, Apply: true})
		_, err := w.syncClient(cart("write"))
		w.wantError(err, provision.Unavailable)
		w.kill()
		want := cart("write")
		if want.Adopt = w.onlyApplication().ID; !itself {
			want.Adopt = w.server.CreateApplication("The cart", "")
		}
		w.mustSyncClient(want)
		if app := w.onlyApplication(); app.ID != want.Adopt {
			t.Errorf("left is %+v", app)
		}
	}
}

// A recorded id counts only while the resource there has the right identifier.
func TestRecordedIDOfAnotherAPI(t *testing.T) {
	w := newWorld(t)
	other, err := w.server.CreateResource(apiOwner.DisplayName(), "https://other.example.com", 0, "read")
	if err != nil {
		t.Fatal(err)
	}
	before := w.server.Snapshot()
	w.api = provision.APIState{ID: other, Origin: provision.Created}
	w.mustSyncAPI(readWrite(payment))
	if w.api.ID == other || len(w.server.Snapshot().Resources) != 2 {
		t.Errorf("state %+v, server %+v", w.api, w.server.Snapshot().Resources)
	}
	w.api.ID = other
	if err := w.driver.RemoveAPI(t.Context(), readWrite(payment), &w.api, w.keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.server.Snapshot()); diff != "" {
		t.Errorf("the other API (-before +after):\n%s", diff)
	}
}
