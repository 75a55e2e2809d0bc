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

// tidy has a snapshot without what differs from creation to creation.
func tidy(all logtotest.Snapshot) logtotest.Snapshot {
	for i := range all.Resources {
		all.Resources[i].ID = ""
		for j := range all.Resources[i].Scopes {
			all.Resources[i].Scopes[j].ID = ""
		}
	}
	for i := range all.Applications {
		all.Applications[i].ID, all.Applications[i].Roles = "", []string{"1"}[:min(1, len(all.Applications[i].Roles))]
		all.Applications[i].Secrets = []string{"1"}[:min(1, len(all.Applications[i].Secrets))]
	}
	for i := range all.Roles {
		all.Roles[i].ID, all.Roles[i].Applications = "", []string{"1"}[:min(1, len(all.Roles[i].Applications))]
	}
	return all
}

func TestDriftIsPutBack(t *testing.T) {
	ttl := readWrite(payment)
	ttl.TokenLifetime = 20 * time.Minute
	for name, tc := range map[string]struct {
		change            func(w *world, app logtotest.Application, role logtotest.Role) error
		wantAPI, wantCart []provision.Drift
	}{
		"nothing changes": {change: func(*world, logtotest.Application, logtotest.Role) error { return nil }},
		"the API is renamed": {
			change: func(w *world, _ logtotest.Application, _ logtotest.Role) error {
				return w.server.RenameResource(payment, "Payments")
			},
			wantAPI: drifts("The API had been renamed"),
		},
		"the lifetime of tokens is changed": {
			change: func(w *world, _ logtotest.Application, _ logtotest.Role) error {
				return w.server.SetResourceTTL(payment, 60)
			},
			wantAPI: drifts("The access token lifetime was 1m0s instead of 20m0s"),
		},
		"a scope is deleted": {
			change: func(w *world, _ logtotest.Application, _ logtotest.Role) error {
				return w.server.RemoveScope(payment, "read")
			},
			wantAPI:  drifts(`Scope "read" was missing`),
			wantCart: drifts(`Scope "read" of API "https://payment.example.com/api" was not granted`),
		},
		"a scope loses its description and mark": {
			change: func(w *world, _ logtotest.Application, _ logtotest.Role) error {
				return w.server.DescribeScope(payment, "read", "reads")
			},
			wantAPI: drifts(`The description of scope "read" had been changed`),
		},
		"the API is deleted": {
			change: func(w *world, _ logtotest.Application, _ logtotest.Role) error {
				return w.server.DeleteResource(payment)
			},
			wantAPI:  drifts("The API was missing"),
			wantCart: drifts(`Scope "read" of API "https://payment.example.com/api" was not granted`),
		},
		"the application is renamed": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return w.server.RenameApplication(app.ID, "cart")
			},
			wantCart: drifts("The application had been renamed"),
		},
		"the application loses its description": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return w.server.DescribeApplication(app.ID, "the cart")
			},
			wantCart: drifts("The application had lost the mark of its owner"),
		},
		"the application loses its custom data": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return w.server.ClearCustomData(app.ID)
			},
			wantCart: drifts("The application had lost the mark of its owner"),
		},
		"the application loses name and all marks": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return cmpErr(w.server.RenameApplication(app.ID, "cart"), w.server.DescribeApplication(app.ID, ""), w.server.ClearCustomData(app.ID))
			},
			wantCart: drifts("The application had been renamed", "The application had lost the mark of its owner"),
		},
		"the application is deleted": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return w.server.DeleteApplication(app.ID)
			},
			wantCart: drifts("The application was missing", "The client secret was missing"),
		},
		"the role is renamed": {
			change: func(w *world, _ logtotest.Application, role logtotest.Role) error {
				return w.server.RenameRole(role.ID, "cart")
			},
			wantCart: drifts("The role had been renamed"),
		},
		"the role loses its description": {
			change: func(w *world, _ logtotest.Application, role logtotest.Role) error {
				return w.server.DescribeRole(role.ID, "the cart's")
			},
			wantCart: drifts("The role had lost the mark of its owner"),
		},
		"the role is deleted": {
			change: func(w *world, _ logtotest.Application, role logtotest.Role) error {
				return w.server.DeleteRole(role.ID)
			},
			wantCart: drifts("The role was missing"),
		},
		"the role is taken from the application": {
			change: func(w *world, app logtotest.Application, role logtotest.Role) error {
				return w.server.UnassignRole(role.ID, app.ID)
			},
			wantCart: drifts("The role was not assigned to the application"),
		},
		"the role is given to another application": {
			change: func(w *world, app logtotest.Application, role logtotest.Role) error {
				thief := w.server.CreateApplication("thief", "")
				return cmpErr(w.server.AssignRole(role.ID, thief), w.server.UnassignRole(role.ID, app.ID))
			},
			wantCart: drifts("The role had been assigned to another application", "The role was not assigned to the application"),
		},
		"the application is given another role": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				id, err := w.server.CreateRole("everything", "everything")
				return cmpErr(err, w.server.GrantScope(id, payment, "write"), w.server.AssignRole(id, app.ID))
			},
			wantCart: drifts("The application had been given another role"),
		},
		"the role is given another scope": {
			change: func(w *world, _ logtotest.Application, role logtotest.Role) error {
				return w.server.GrantScope(role.ID, payment, "write")
			},
			wantCart: drifts(`Scope "write" of API "https://payment.example.com/api" had been granted`),
		},
		"a scope is taken from the role": {
			change: func(w *world, _ logtotest.Application, role logtotest.Role) error {
				return w.server.RevokeScope(role.ID, payment, "read")
			},
			wantCart: drifts(`Scope "read" of API "https://payment.example.com/api" was not granted`),
		},
		"the secret is deleted": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return w.server.DeleteSecret(app.ID, app.Secrets[0])
			},
			wantCart: drifts("The client secret was missing"),
		},
		"the secret is replaced by one of its name": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				_, err := w.server.AddSecret(app.ID, "x", time.Time{})
				_, again := w.server.AddSecret(app.ID, app.Secrets[0]+"0", time.Time{})
				return cmpErr(err, again, w.server.DeleteSecret(app.ID, app.Secrets[0]), addSecret(w, app.ID, app.Secrets[0]))
			},
			wantCart: drifts("The client secret was missing", "A client secret had been added"),
		},
		"a secret is added": {
			change: func(w *world, app logtotest.Application, _ logtotest.Role) error {
				return addSecret(w, app.ID, "mine/too ?")
			},
			wantCart: drifts("A client secret had been added"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustSyncAPI(ttl)
			w.mustSyncClient(cart("read"))
			before := w.server.Snapshot()
			app, role := w.onlyApplication(), w.onlyRole()
			if err := tc.change(w, app, role); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.wantAPI, w.mustSyncAPI(ttl)); diff != "" {
				t.Errorf("drift of the API (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantCart, w.mustSyncClient(cart("read"))); diff != "" {
				t.Errorf("drift of the client (-want +got):\n%s", diff)
			}
			after := w.server.Snapshot()
			after.Applications = slices.DeleteFunc(after.Applications, func(a logtotest.Application) bool { return a.Name == "thief" && len(a.Roles) == 0 })
			after.Roles = slices.DeleteFunc(after.Roles, func(r logtotest.Role) bool { return r.Name == "everything" && len(r.Applications) == 0 })
			if diff := cmp.Diff(tidy(before), tidy(after)); diff != "" {
				t.Errorf("the server (-before +after):\n%s", diff)
			}
			w.wantToken("read")
			if drift := append(w.mustSyncAPI(ttl), w.mustSyncClient(cart("read"))...); drift != nil {
				t.Errorf("drift is found twice: %q", drift)
			}
		})
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func addSecret(w *world, app, name string) error {
	_, err := w.server.AddSecret(app, name, time.Time{})
	return err
}

// A change in Git is not drift.
func TestChangesOfTheSpecAreNoDrift(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	w.mustSyncClient(cart("read"))
	api := provision.API{Owner: apiOwner, Identifier: payment, TokenLifetime: time.Minute,
		Scopes: []provision.Scope{{Name: "write", Description: "other words"}, {Name: "refund"}}}
	if _, err := w.server.AddScope(payment, "theirs", "of an administrator"); err != nil {
		t.Fatal(err)
	}
	// It lost its mark, and was the operator's all the same.
	if err := w.server.DescribeScope(payment, "read", "reads"); err != nil {
		t.Fatal(err)
	}
	if drift := w.mustSyncAPI(api); drift != nil {
		t.Errorf("drift of the API: %q", drift)
	}
	if diff := cmp.Diff(provision.APIState{ID: w.api.ID, Origin: provision.Created, Scopes: []string{"refund", "write"}, TokenLifetime: time.Minute}, w.api); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	var scopes []string
	for _, c := range w.server.Snapshot().Resources[0].Scopes {
		scopes = append(scopes, c.Name+": "+c.Description)
	}
	mark := " [m2m-operator:" + apiOwner.ID() + "]"
	if diff := cmp.Diff([]string{"refund: " + mark[1:], "theirs: of an administrator", "write: other words" + mark}, scopes); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	next := cart("write", "refund")
	if drift := w.mustSyncClient(next); drift != nil {
		t.Errorf("drift of the client: %q", drift)
	}
	w.wantWhole("refund", "write")
	next.Access = nil
	if drift := w.mustSyncClient(next); drift != nil {
		t.Errorf("drift of the client: %q", drift)
	}
	if role := w.onlyRole(); role.Scopes != nil || w.client.Access != nil {
		t.Errorf("without access the role has %v, and the state %v", role.Scopes, w.client.Access)
	}
}

// The client of the next object of the same name takes over what the first one left.
func TestNextObjectOfTheNameTakesOver(t *testing.T) {
	w := newWorld(t)
	if err := withClient(w); err != nil {
		t.Fatal(err)
	}
	id := w.client.ID
	w.client = provision.ClientState{}
	next := cart("read")
	next.Owner.UID = "99999999-9999-4999-8999-999999999999"
	if drift := w.mustSyncClient(next); drift != nil {
		t.Errorf("drift: %q", drift)
	}
	app := w.onlyApplication()
	if app.ID != id || app.Description[:len(next.Owner.Mark())] != next.Owner.Mark() || app.CustomData["m2m-operator"].(map[string]any)["uid"] != next.Owner.UID {
		t.Errorf("the application is %+v", app)
	}
	w.wantToken("read")
	w.server.ResetRequests()
	w.mustSyncClient(next)
	if n := w.server.Count(); n != 5 {
		t.Errorf("%d requests where nothing is to be done", n)
	}
}

// An application that somebody changed while no object owned it is found by any of its marks, and no second one is
// made.
func TestNextObjectFindsWhatWasChangedMeanwhile(t *testing.T) {
	for name, change := range map[string]func(w *world, app, role string) error{
		"the application's name": func(w *world, app, _ string) error { return w.server.RenameApplication(app, "tidy") },
		"the role's name":        func(w *world, _, role string) error { return w.server.RenameRole(role, "tidy") },
		"both names": func(w *world, app, role string) error {
			return cmpErr(w.server.RenameApplication(app, "tidy"), w.server.RenameRole(role, "tidy"))
		},
		"name and custom data": func(w *world, app, _ string) error {
			return cmpErr(w.server.RenameApplication(app, "tidy"), w.server.ClearCustomData(app))
		},
		"all but custom data": func(w *world, app, role string) error {
			return cmpErr(w.server.RenameApplication(app, "tidy"), w.server.DescribeApplication(app, "tidy"), w.server.RenameRole(role, "tidy"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := withClient(w); err != nil {
				t.Fatal(err)
			}
			id, grant := w.client.ID, w.client.GrantID
			former := cart("read")
			former.Retain = true
			if err := provision.RemoveClient(t.Context(), w.driver, former, &w.client, w.keep); err != nil {
				t.Fatal(err)
			}
			w.client = provision.ClientState{}
			if err := change(w, id, grant); err != nil {
				t.Fatal(err)
			}
			next := cart("read")
			next.Owner.UID = "99999999-9999-4999-8999-999999999999"
			w.mustSyncClient(next)
			if w.client.ID != id || w.client.GrantID != grant {
				t.Errorf("found application %q and role %q, want %q and %q", w.client.ID, w.client.GrantID, id, grant)
			}
			w.wantWhole("read")
		})
	}
}

// An expired secret is as good as none.
func TestExpiredSecretIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	w.mustSyncClient(provision.Client{Owner: clientOwner})
	name := clientOwner.CredentialPrefix() + "1"
	value, err := w.server.AddSecret(w.client.ID, name, w.now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	w.client.Sequence = 1
	w.client.Credentials = []provision.Credential{{Name: name, Stage: provision.Current, ClientID: w.client.ID, Secret: provision.Sensitive(value)}}
	w.mustSyncClient(cart("read"))
	if c := w.client.Current(); c.Name != name {
		t.Errorf("before its expiry it was replaced by %q", c.Name)
	}
	w.now = w.now.Add(time.Minute)
	if diff := cmp.Diff(drifts("The client secret was missing"), w.mustSyncClient(cart("read"))); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	w.wantWhole("read")
}
