// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// interruptions are the possible fates of one request, and of the next one. After each of them the process is killed.
var interruptions = map[string][]logtotest.Fault{
	"is not carried out":                        {{Drop: true}},
	"is carried out and not heard":              {{Drop: true, Apply: true}},
	"is answered with 500":                      {{Status: 500}},
	"is done and answered with 500":             {{Status: 500, Apply: true}},
	"is done and answered with 502":             {{Status: 502, Body: "<html>" + sentinel, ContentType: "text/html", Apply: true}},
	"loses a race":                              {{LoseRace: true}},
	"loses a race, and the next is not heard":   {{LoseRace: true}, {Drop: true}},
	"is answered with 500, and the next is not": {{Status: 500}, {Drop: true}},
	"is answered with half a body":              {{Status: 200, Body: `{"id":`, ContentType: "application/json", Apply: true}},
}

// eachRequest runs a test once for every interruption of every request that call makes. A request without an answer
// always fails the call.
func eachRequest(t *testing.T, prepare, call func(w *world) error, check func(w *world)) {
	for name, faults := range interruptions {
		for n := 1; ; n++ {
			reached, dropped := false, false
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, logtotest.WithCheapKey())
				if err := prepare(w); err != nil {
					t.Fatal(err)
				}
				_ = w.keep(t.Context())
				w.server.ResetRequests()
				w.server.SetFault(func(r *http.Request, i int) logtotest.Fault {
					if i < n || i >= n+len(faults) {
						return logtotest.Fault{}
					}
					reached = true
					dropped = dropped || faults[i-n].Drop
					t.Logf("request %d, %s %s, %s", i, r.Method, r.URL.Path, name)
					return faults[i-n]
				})
				switch err := call(w); {
				case err == nil && dropped:
					t.Error("the call succeeds without an answer")
				case err != nil && provision.KindOf(err) != provision.Unavailable:
					t.Errorf("got error %v of kind %q", err, provision.KindOf(err))
				case err != nil && faults[0].LoseRace && !dropped:
					t.Errorf("a lost race is not settled by looking again: %v", err)
				}
				w.server.SetFault(nil)
				w.kill()
				if reached {
					check(w)
				}
			})
			if !reached {
				if n < 4 {
					t.Fatalf("only %d requests", n-1)
				}
				break
			}
		}
	}
}

func nothing(*world) error { return nil }

func withAPI(w *world) error {
	_, err := w.syncAPI(readWrite(payment))
	return err
}

func withClient(w *world) error {
	if err := withAPI(w); err != nil {
		return err
	}
	_, err := w.syncClient(cart("read"))
	return err
}

// wantWhole checks that everything exists once, exactly as wanted.
func (w *world) wantWhole(scopes ...string) {
	w.Helper()
	app, role := w.onlyApplication(), w.onlyRole()
	if diff := cmp.Diff(map[string][]string{payment: scopes}, role.Scopes); diff != "" {
		w.Errorf("the role's scopes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{app.ID}, role.Applications); diff != "" {
		w.Errorf("the role's applications (-want +got):\n%s", diff)
	}
	if len(app.Secrets) != 1 || app.Secrets[0] != w.client.Current().Name {
		w.Errorf("the application has the secrets %q", app.Secrets)
	}
	if app.Name != clientOwner.DisplayName() || role.Name != clientOwner.DisplayName() || role.Type != "MachineToMachine" || len(role.Description) > 128 {
		w.Errorf("application %+v, role %+v", app, role)
	}
	if w.client.Creating || w.client.Origin != provision.Created {
		w.Errorf("the state is %+v", w.client)
	}
	w.wantToken(scopes...)
}

func TestSyncAPIIsCarriedOn(t *testing.T) {
	eachRequest(t, nothing, withAPI, func(w *world) {
		if drift := w.mustSyncAPI(readWrite(payment)); drift != nil {
			w.Errorf("what was left is drift: %q", drift)
		}
		all := w.server.Snapshot().Resources
		if len(all) != 1 || len(all[0].Scopes) != 2 || all[0].ID != w.api.ID || w.api.Origin != provision.Created {
			w.Errorf("there is %+v", all)
		}
	})
}

func TestSyncClientIsCarriedOn(t *testing.T) {
	sync := func(w *world) error { _, err := w.syncClient(cart("read")); return err }
	eachRequest(t, withAPI, sync, func(w *world) {
		if drift := w.mustSyncClient(cart("read")); drift != nil {
			w.Errorf("what was left is drift: %q", drift)
		}
		w.wantWhole("read")
	})
}

func TestChangeOfAccessIsCarriedOn(t *testing.T) {
	sync := func(w *world) error { _, err := w.syncClient(cart("write")); return err }
	eachRequest(t, withClient, sync, func(w *world) {
		w.mustSyncClient(cart("write"))
		w.wantWhole("write")
	})
}

// TestWhatIsWithdrawnIsNotRecordedAnyMore when the server is told: a token request in between must not ask for it. That
// the process ends in between is no drift.
func TestWhatIsWithdrawnIsNotRecordedAnyMore(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	_ = w.keep(t.Context())
	withdrawn := false
	w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.Method != http.MethodDelete {
			return logtotest.Fault{}
		}
		withdrawn = true
		for _, a := range w.keptClient.Access {
			if slices.Contains(a.Scopes, "read") {
				t.Errorf("the scope is withdrawn, and the record is %+v", w.keptClient.Access)
			}
		}
		return logtotest.Fault{Drop: true}
	})
	if _, err := w.syncClient(cart("write")); err == nil || !withdrawn {
		t.Fatalf("nothing was withdrawn: %v", err)
	}
	w.server.SetFault(nil)
	w.kill()
	if drift := w.mustSyncClient(cart("write")); drift != nil {
		t.Errorf("what was left is drift: %q", drift)
	}
	w.wantWhole("write")
}

// An administrator may delete what the operator made but has not recorded yet.
func TestWhatWasRenamedBeforeItWasRecordedIsFound(t *testing.T) {
	sync := func(w *world) error { _, err := w.syncClient(cart("read")); return err }
	eachRequest(t, withAPI, sync, func(w *world) {
		all := w.server.Snapshot()
		for _, a := range all.Applications {
			if err := w.server.RenameApplication(a.ID, "tidy"); err != nil {
				w.Fatal(err)
			}
		}
		for _, r := range all.Roles {
			if err := w.server.RenameRole(r.ID, "tidy"); err != nil {
				w.Fatal(err)
			}
		}
		w.mustSyncClient(cart("read"))
		w.wantWhole("read")
	})
}

func TestRemoveClientIsCarriedOn(t *testing.T) {
	remove := func(w *world) error {
		return provision.RemoveClient(w.Context(), w.driver, cart("read"), &w.client, w.keep)
	}
	check := func(w *world) {
		if err := remove(w); err != nil {
			w.Fatal(err)
		}
		if all := w.server.Snapshot(); len(all.Applications)+len(all.Roles) > 0 {
			w.Errorf("left behind: %+v", all)
		}
	}
	eachRequest(t, withClient, remove, check)
	t.Run("after a creation that was interrupted", func(t *testing.T) {
		sync := func(w *world) error { _, err := w.syncClient(cart("read")); return err }
		eachRequest(t, withAPI, sync, check)
		eachRequest(t, withAPI, sync, func(w *world) {
			all := w.server.Snapshot()
			for _, a := range all.Applications {
				if err := w.server.RenameApplication(a.ID, "tidy"); err != nil {
					w.Fatal(err)
				}
			}
			check(w)
		})
	})
}

func TestRemoveAPIIsCarriedOn(t *testing.T) {
	eachRequest(t, nothing, withAPI, func(w *world) {
		if err := w.driver.RemoveAPI(w.Context(), readWrite(payment), &w.api, w.keep); err != nil {
			w.Fatal(err)
		}
		if all := w.server.Snapshot().Resources; len(all) > 0 {
			w.Errorf("left behind: %+v", all)
		}
	})
}

// A request that was given up may still be carried out after the next call looked for what it made.
func TestLateApplicationIsDeleted(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	late := w.server.CreateApplication(clientOwner.DisplayName(), clientOwner.Mark())
	foreign := w.server.CreateApplication(clientOwner.DisplayName(), "of somebody who likes the name")
	if drift := w.mustSyncClient(cart("read")); drift != nil {
		t.Errorf("drift: %q", drift)
	}
	all := w.server.Snapshot().Applications
	for _, a := range all {
		if a.ID == late {
			t.Error("the second application is still there")
		}
	}
	if len(all) != 2 || (all[0].ID != foreign && all[1].ID != foreign) {
		t.Errorf("there is %+v", all)
	}
}
