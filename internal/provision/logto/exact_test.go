// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// Where nothing is to be done, nothing is written, neither at the server nor in Kubernetes.
func TestNothingToDo(t *testing.T) {
	adopted := func(w *world) provision.Client {
		want := cart("read")
		want.Adopt = w.existingApplication().ID
		return want
	}
	own := func(*world) provision.Client { return cart("read") }
	for name, tc := range map[string]struct {
		api    provision.API
		client func(*world) provision.Client
		reads  map[string]int
	}{
		"created": {readWrite(payment), own, map[string]int{
			"GET /api/resources/{id}": 1, "GET /api/resources/{id}/scopes": 1, "GET /api/applications": 1, "GET /api/applications/{id}/roles": 1,
			"GET /api/roles/{id}/scopes": 1, "GET /api/roles/{id}/applications": 1, "GET /api/applications/{id}/secrets": 1,
		}},
		"adopted": {withAdoption(readWrite(payment)), adopted, map[string]int{
			"GET /api/resources/{id}": 1, "GET /api/resources/{id}/scopes": 1, "GET /api/applications/{id}": 1, "GET /api/applications/{id}/roles": 1,
			"GET /api/roles/{id}/scopes": 1, "GET /api/roles/{id}/applications": 1, "GET /api/applications/{id}/secrets": 1,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if tc.api.Adopt {
				w.existingAPI("read")
			}
			w.mustSyncAPI(tc.api)
			client := tc.client(w)
			w.mustSyncClient(client)
			w.server.ResetRequests()
			api, state := roundTrip(t, w.api), roundTrip(t, w.client)
			keep := func(context.Context) error { t.Error("something was kept"); return nil }
			if drift, err := w.driver.SyncAPI(t.Context(), tc.api, &w.api, keep); err != nil || drift != nil {
				t.Errorf("%v, drift %q", err, drift)
			}
			if drift, err := w.driver.SyncClient(t.Context(), client, &w.client, keep); err != nil || drift != nil {
				t.Errorf("%v, drift %q", err, drift)
			}
			if diff := cmp.Diff(api, w.api) + cmp.Diff(state, w.client); diff != "" {
				t.Errorf("the state (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(tc.reads, w.server.Requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// A state that lost who created something, as an edited or restored status may have, says so again.
func TestOriginThatIsNotRecorded(t *testing.T) {
	w := newWorld(t)
	api := readWrite(payment)
	w.mustSyncAPI(api)
	w.mustSyncClient(cart("read"))
	w.client.Origin = ""
	w.mustSyncClient(cart("read"))
	if w.client.Origin != provision.Created {
		t.Errorf("the origin of the client is %q", w.client.Origin)
	}
	w.api.Origin, api.Observe = "", true
	w.mustSyncAPI(api)
	if w.api.Origin != provision.Observed {
		t.Errorf("the origin of the API is %q", w.api.Origin)
	}
}

// A lifetime that nobody declares is the server's, and stays recorded as it is.
func TestLifetimeOfTokens(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	theirs := w.server.Snapshot().Resources[0].AccessTokenTTL
	if theirs <= 0 || w.api.TokenLifetime != time.Duration(theirs)*time.Second {
		t.Errorf("the server has %d, and the state %s", theirs, w.api.TokenLifetime)
	}
	if err := w.server.RenameResource(payment, "Payments"); err != nil {
		t.Fatal(err)
	}
	w.mustSyncAPI(readWrite(payment))
	if got := w.server.Snapshot().Resources[0].AccessTokenTTL; got != theirs || w.api.TokenLifetime != time.Duration(theirs)*time.Second {
		t.Errorf("after it was named, the server has %d, and the state %s", got, w.api.TokenLifetime)
	}

	w = newWorld(t)
	want := readWrite(payment)
	want.TokenLifetime = 7 * time.Minute
	w.mustSyncAPI(want)
	if got := w.server.Snapshot().Resources[0].AccessTokenTTL; got != 420 || w.server.Requests()["PATCH /api/resources/{id}"] > 0 {
		t.Errorf("it is created with %d by %v", got, w.server.Requests())
	}
}

// Each scope is judged by itself, whatever becomes of those before it.
func TestScopesInAnyOrder(t *testing.T) {
	scopes := func(names ...string) provision.API {
		want := provision.API{Owner: apiOwner, Identifier: payment}
		for _, name := range names {
			want.Scopes = append(want.Scopes, provision.Scope{Name: name, Description: name})
		}
		return want
	}
	all := scopes("a", "b", "c", "d")
	w := newWorld(t)
	w.mustSyncAPI(all)
	for _, name := range []string{"a", "c"} { // what is right follows what is wrong, and the other way round
		if err := w.server.DescribeScope(payment, name, "theirs"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.server.AddScope(payment, "theirs", "of an administrator"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.server.AddScope(payment, "e", "of an administrator"); err != nil {
		t.Fatal(err)
	}
	all.Scopes = append(all.Scopes, provision.Scope{Name: "e", Description: "e"}) // the operator's from now on
	want := drifts(`The description of scope "a" had been changed`, `The description of scope "c" had been changed`)
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(w.mustSyncAPI(all)))); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	for _, c := range w.server.Snapshot().Resources[0].Scopes {
		if wantText := apiOwner.Annotate(c.Name); c.Name != "theirs" && c.Description != wantText {
			t.Errorf("scope %q is described as %q", c.Name, c.Description)
		}
	}

	// Each creation loses a race with an identical one.
	w = newWorld(t)
	w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		return logtotest.Fault{LoseRace: r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/scopes")}
	})
	w.mustSyncAPI(all)
	if got := len(w.server.Snapshot().Resources[0].Scopes); got != 5 || len(w.api.Scopes) != 5 {
		t.Errorf("the server has %d scopes, and the state %q", got, w.api.Scopes)
	}
}

// While nothing is put back, the state still says what the operator made.
func TestStateWhileObserving(t *testing.T) {
	w := newWorld(t)
	made := readWrite(payment)
	made.Scopes = append(made.Scopes, provision.Scope{Name: "refund"})
	w.mustSyncAPI(made)
	id := w.api.ID
	if err := cmpErr(w.server.RemoveScope(payment, "refund"), w.server.DescribeScope(payment, "write", "theirs")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.server.AddScope(payment, "theirs", ""); err != nil {
		t.Fatal(err)
	}
	observed := readWrite(payment)
	observed.Observe, observed.Scopes = true, observed.Scopes[:1]
	for range 2 {
		w.mustSyncAPI(observed)
		want := provision.APIState{ID: id, Origin: provision.Created, Scopes: []string{"read", "write"}, TokenLifetime: time.Hour}
		if diff := cmp.Diff(want, w.api); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
	}
	if err := w.driver.RemoveAPI(t.Context(), observed, &w.api, w.keep); err != nil {
		t.Fatal(err)
	}
	if len(w.server.Snapshot().Resources) != 1 || w.keptAPI.ID != "" {
		t.Errorf("after removal of what is only observed there is %+v, and the state is %+v", w.server.Snapshot().Resources, w.keptAPI)
	}
}

// What one API lacks is granted, though the role has all of the API before it.
func TestSecondAPILacksAScope(t *testing.T) {
	const shipping = "https://shipping.example.com/api"
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	if _, err := w.server.CreateResource("Shipping", shipping, 0, "track"); err != nil {
		t.Fatal(err)
	}
	want := cart("read")
	want.Access = append(want.Access, provision.Access{Resource: shipping, Scopes: []string{"track"}})
	w.mustSyncClient(want)
	if err := w.server.RevokeScope(w.client.GrantID, shipping, "track"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(drifts(`Scope "track" of API "`+shipping+`" was not granted`), w.mustSyncClient(want)); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string][]string{payment: {"read"}, shipping: {"track"}}, w.onlyRole().Scopes); diff != "" {
		t.Errorf("the role's scopes (-want +got):\n%s", diff)
	}
}

// A scope of a role whose API is not named could be anything.
func TestScopesOfARoleNameTheirAPI(t *testing.T) {
	for _, without := range []string{`"resource":null`, `"resource":{"id":"x"}`} {
		w := newWorld(t)
		if err := withClient(w); err != nil {
			t.Fatal(err)
		}
		w.rewrite(func(r *http.Request, body string) string {
			if i := strings.Index(body, `"resource":{`); i >= 0 && strings.HasSuffix(r.URL.Path, "/scopes") {
				return body[:i] + without + body[i+strings.Index(body[i:], "}")+1:]
			}
			return body
		})
		_, err := w.syncClient(cart("read"))
		w.wantError(err, provision.Unavailable, "does not name the API of each scope")
	}
}

// The second application of a client takes the place of the first one when that is deleted, and is recorded.
func TestSecondApplicationTakesOver(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	late := w.server.CreateApplication(clientOwner.DisplayName(), clientOwner.Mark())
	if err := w.server.DeleteApplication(w.client.ID); err != nil {
		t.Fatal(err)
	}
	w.mustSyncClient(cart("read"))
	if w.client.ID != late || w.keptClient.ID != late {
		t.Errorf("the state names %q, kept is %q, want %q", w.client.ID, w.keptClient.ID, late)
	}
	w.wantWhole("read")
}

// Of two roles of a client the one with its name stays, because no other may have that name.
func TestSecondRoleIsDeleted(t *testing.T) {
	for seed := range uint64(4) { // of the identifiers
		w := newWorld(t, logtotest.WithSeed(seed))
		if err := withClient(w); err != nil {
			t.Fatal(err)
		}
		id := w.client.GrantID
		for _, name := range []string{"a", "z"} {
			if _, err := w.server.CreateRole(name, clientOwner.Mark()); err != nil {
				t.Fatal(err)
			}
		}
		w.client = provision.ClientState{Creating: true}
		w.mustSyncClient(cart("read"))
		if w.client.GrantID != id {
			t.Errorf("the role %q is kept, want %q", w.client.GrantID, id)
		}
		w.wantWhole("read")
	}
}

// That the application is gone is told once, though the process ends before its successor is recorded.
func TestMissingApplicationIsToldOnce(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	if err := w.server.DeleteApplication(w.client.ID); err != nil {
		t.Fatal(err)
	}
	w.fault(http.MethodPost, "/api/applications", 1, logtotest.Fault{Drop: true, Apply: true})
	drift, err := w.syncClient(cart("read"))
	w.wantError(err, provision.Unavailable)
	w.kill()
	again := w.mustSyncClient(cart("read"))
	missing := provision.Drift("The application was missing")
	if !slices.Contains(drift, missing) || slices.Contains(again, missing) {
		t.Errorf("drift %q, and then %q", drift, again)
	}
	w.wantWhole("read")
}

// What is looked for depends on what is known: a search through all applications is dear.
func TestSearchesForAnApplication(t *testing.T) {
	const list, roles, ofRole, one = "GET /api/applications", "GET /api/roles", "GET /api/roles/{id}/applications", "GET /api/applications/{id}"
	for name, tc := range map[string]struct {
		change func(w *world) error
		state  func(w *world)
		want   map[string]int
	}{
		"it is recorded":                        {want: map[string]int{list: 1, ofRole: 1}},
		"nothing is recorded, and it has marks": {state: func(w *world) { w.client = provision.ClientState{} }, want: map[string]int{list: 1, roles: 1, ofRole: 1}},
		"nothing is recorded, it may have been made, and it has marks": {
			state: func(w *world) { w.client = provision.ClientState{Creating: true} }, want: map[string]int{list: 1, roles: 1, ofRole: 1},
		},
		"it is gone": {
			change: func(w *world) error { return w.server.DeleteApplication(w.client.ID) }, want: map[string]int{list: 1, one: 1, ofRole: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := withClient(w); err != nil {
				t.Fatal(err)
			}
			if tc.change != nil {
				if err := tc.change(w); err != nil {
					t.Fatal(err)
				}
			}
			if tc.state != nil {
				tc.state(w)
			}
			w.server.ResetRequests()
			w.mustSyncClient(cart("read"))
			got := w.server.Requests()
			maps.DeleteFunc(got, func(what string, _ int) bool { return what != list && what != roles && what != ofRole && what != one })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}
