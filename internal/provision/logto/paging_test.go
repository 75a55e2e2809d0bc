// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// Everything to be found is beyond the first page of its list.
func TestMoreThanAPage(t *testing.T) {
	for _, version := range []string{"1.37", "1.42"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, logtotest.WithVersion(version))
			api := readWrite(payment)
			var names []string
			api.Scopes = nil
			for i := range 230 {
				name := fmt.Sprintf("scope:%03d", i)
				names = append(names, name)
				api.Scopes = append(api.Scopes, provision.Scope{Name: name})
				if _, err := w.server.CreateResource(name, "https://example.com/"+name, 0); err != nil {
					t.Fatal(err)
				}
				if _, err := w.server.CreateRole(name, name); err != nil {
					t.Fatal(err)
				}
				w.server.CreateApplication(name, name)
			}
			w.mustSyncAPI(api)
			id := w.api.ID
			w.api = provision.APIState{}
			if drift := w.mustSyncAPI(api); drift != nil || w.api.ID != id || len(w.api.Scopes) != 230 {
				t.Errorf("found %+v with drift %q", w.api, drift)
			}
			w.mustSyncClient(cart(names...))
			if diff := cmp.Diff(provision.Access{Resource: payment, ResourceID: id, Scopes: names}, w.client.Access[0]); diff != "" {
				t.Errorf("access (-want +got):\n%s", diff)
			}
			w.restart()
			if drift := w.mustSyncClient(cart(names...)); drift != nil {
				t.Errorf("drift %q", drift)
			}

			all := w.server.Snapshot()
			roleID, appID := w.client.GrantID, w.client.ID
			for _, r := range all.Roles { // and 230 roles on the application, our role on 230 applications
				if r.ID != roleID {
					if err := w.server.AssignRole(r.ID, appID); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, a := range all.Applications {
				if a.ID != appID {
					if err := w.server.AssignRole(roleID, a.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := len(w.mustSyncClient(cart("scope:007"))); got != 460 {
				t.Errorf("%d drifts, want 460", got)
			}
			for _, a := range w.server.Snapshot().Applications {
				if want := a.ID == appID; want != slices.Equal(a.Roles, []string{roleID}) || !want && len(a.Roles) > 0 {
					t.Errorf("application %q has the roles %q", a.Name, a.Roles)
				}
			}

			// Renamed before they were recorded.
			if err := cmpErr(w.server.RenameApplication(appID, "x"), w.server.RenameRole(roleID, "x")); err != nil {
				t.Fatal(err)
			}
			w.client = provision.ClientState{Creating: true}
			w.mustSyncClient(cart("scope:007"))
			if w.client.ID != appID || w.client.GrantID != roleID {
				t.Errorf("found another application or role: %+v", w.client)
			}
		})
	}
}

func TestAccessThatTheServerDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	id := w.api.ID
	want := provision.Client{Owner: clientOwner, Access: []provision.Access{
		{Resource: "https://unknown.example.com", Scopes: []string{"read"}},
		{Resource: "https://unknown.example.com/2", ResourceID: "unknown", Scopes: []string{"read"}},
		{Resource: payment, Scopes: []string{"read", "refund"}},
	}}
	w.mustSyncClient(want)
	if diff := cmp.Diff([]provision.Access{{Resource: payment, ResourceID: id, Scopes: []string{"read"}}}, w.client.Access); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
	// It comes to be known within the life of the catalog.
	if _, err := w.server.AddScope(payment, "refund", ""); err != nil {
		t.Fatal(err)
	}
	unknown, err := w.server.CreateResource("x", "https://unknown.example.com", 0, "read")
	if err != nil {
		t.Fatal(err)
	}
	w.mustSyncClient(want)
	if diff := cmp.Diff([]provision.Access{
		{Resource: payment, ResourceID: id, Scopes: []string{"read", "refund"}},
		{Resource: "https://unknown.example.com", ResourceID: unknown, Scopes: []string{"read"}},
	}, w.client.Access); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}

	// An API of the identifier with another id is not meant.
	want.Access = []provision.Access{{Resource: payment, ResourceID: "another", Scopes: []string{"read"}}}
	w.mustSyncClient(want)
	if role := w.onlyRole(); w.client.Access != nil || role.Scopes != nil {
		t.Errorf("access %+v, role %+v", w.client.Access, role)
	}
	// An API without scopes is known, and there is nothing to grant.
	want.Access = []provision.Access{{Resource: payment}}
	w.mustSyncClient(want)
	if diff := cmp.Diff([]provision.Access{{Resource: payment, ResourceID: id}}, w.client.Access); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
}

// What the driver remembers of an API may be wrong by now.
func TestStaleCatalog(t *testing.T) {
	for name, change := range map[string]func(w *world) error{
		"the scope was made anew": func(w *world) error {
			_, err := w.server.AddScope(payment, "other", "")
			return cmpErr(err, w.server.RemoveScope(payment, "write"), func() error { _, err := w.server.AddScope(payment, "write", ""); return err }())
		},
		"the API was made anew": func(w *world) error {
			_, err := w.server.CreateResource("x", "https://x.example.com", 0)
			return cmpErr(err, w.server.DeleteResource(payment), func() error {
				_, err := w.server.CreateResource("x", payment, 0, "read", "write")
				return err
			}())
		},
		"the scope has another name": func(w *world) error {
			return cmpErr(w.renameScope("write", "pay"), func() error { _, err := w.server.AddScope(payment, "write", ""); return err }())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustSyncAPI(readWrite(payment))
			w.server.ResetRequests()
			w.mustSyncClient(cart("read", "write"))
			w.mustSyncClient(cart("read"))
			w.mustSyncClient(cart("read", "write"))
			if got := w.server.Requests(); got["GET /api/resources"]+got["GET /api/resources/{id}/scopes"] != 0 {
				t.Errorf("what SyncAPI left is read again: %v", got)
			}
			if err := change(w); err != nil {
				t.Fatal(err)
			}
			w.mustSyncClient(cart("read", "write"))
			w.wantWhole("read", "write")
			w.wantToken("read", "write")
		})
	}
}

// renameScope does what an administrator can do too.
func (w *world) renameScope(from, to string) error {
	api := w.server.Snapshot().Resources[0]
	i := slices.IndexFunc(api.Scopes, func(c logtotest.Scope) bool { return c.Name == from })
	client := &http.Client{Transport: w.server.Transport()}
	token, err := oauth.Exchange(w.Context(), client, oauth.TokenRequest{
		Endpoint: w.server.TokenURL(), Resource: logtotest.ManagementAPI, Scopes: []string{"all"}, Now: w.now,
		Authentication: oauth.ClientSecretBasic(w.server.ManagementClientID(), w.server.ManagementClientSecret()),
	})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(w.Context(), http.MethodPatch, endpoint+"/api/resources/"+api.ID+"/scopes/"+api.Scopes[i].ID,
		strings.NewReader(fmt.Sprintf(`{"name":%q}`, to)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token.Value)
	resp, err := client.Do(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return err
}

// A withdrawn grant leaves the server even if another one cannot be added.
func TestWithdrawalComesFirst(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	w.mustSyncClient(cart("read"))
	w.fault("POST", "/scopes", -1, logtotest.Fault{Status: 500})
	_, err := w.syncClient(cart("write"))
	w.wantError(err, provision.Unavailable, "grant scopes")
	if role := w.onlyRole(); role.Scopes != nil || len(w.client.Access) != 1 || w.client.Access[0].Scopes != nil {
		t.Errorf("role %+v, state %+v", role, w.client.Access)
	}
}

// Many clients of one API that appear at once read it once, and share one token.
func TestManyClientsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	w.restart()
	w.server.ResetRequests()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := cart("read")
			want.Owner.Name = fmt.Sprintf("cart-%d", i)
			var state provision.ClientState
			if _, err := w.driver.SyncClient(t.Context(), want, &state, func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := w.server.Requests()
	if got["POST /oidc/token"] != 1 || got["GET /api/resources"] != 1 || got["GET /api/resources/{id}/scopes"] != 1 {
		t.Errorf("requests %v", got)
	}
	if all := w.server.Snapshot(); len(all.Applications) != 50 || len(all.Roles) != 50 {
		t.Errorf("%d applications and %d roles", len(all.Applications), len(all.Roles))
	}
}
