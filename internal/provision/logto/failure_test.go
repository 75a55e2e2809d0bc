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

// named is a snapshot with names for identifiers.
func named(all logtotest.Snapshot) logtotest.Snapshot {
	names := map[string]string{}
	for i := range all.Roles {
		names[all.Roles[i].ID], all.Roles[i].ID = all.Roles[i].Name, ""
	}
	for i := range all.Applications {
		a := &all.Applications[i]
		names[a.ID], a.ID = a.Name, ""
	}
	for i := range all.Resources {
		all.Resources[i].ID = ""
		for j := range all.Resources[i].Scopes {
			all.Resources[i].Scopes[j].ID = ""
		}
	}
	rename := func(ids []string) {
		for i := range ids {
			ids[i] = names[ids[i]]
		}
		slices.Sort(ids)
	}
	for i := range all.Roles {
		rename(all.Roles[i].Applications)
	}
	for i := range all.Applications {
		rename(all.Applications[i].Roles)
	}
	return all
}

// mess has others change all that a client consists of, each thing twice.
func mess(w *world) error {
	app, role := w.client.ID, w.client.GrantID
	errs := []error{
		w.server.RenameApplication(app, "cart"), w.server.DescribeApplication(app, ""), w.server.ClearCustomData(app),
		w.server.RenameRole(role, "cart"), w.server.DescribeRole(role, "the cart's"),
		w.server.RevokeScope(role, payment, "read"), w.server.UnassignRole(role, app),
	}
	for _, n := range []string{"1", "2"} {
		id, err := w.server.CreateRole("theirs "+n, "everything")
		_, added := w.server.AddScope(payment, "theirs:"+n, "")
		errs = append(errs, err, added, w.server.AssignRole(id, app), w.server.GrantScope(role, payment, "theirs:"+n), addSecret(w, app, "theirs "+n),
			w.server.AssignRole(role, w.server.CreateApplication("theirs "+n, "")))
		w.server.CreateApplication(clientOwner.DisplayName()+" "+n, description(clientOwner)) // late, as after a request that was given up
	}
	return cmpErr(errs...)
}

func description(o provision.Owner) string { return o.Mark() + " M2MClient" }

// Whatever one request meets, the call fails or ends well, and the next one gets where an undisturbed one does.
func TestEachRequestMayFail(t *testing.T) {
	changed := readWrite(payment)
	changed.TokenLifetime = time.Hour
	changed.Scopes = []provision.Scope{{Name: "cancel"}, {Name: "kept", Description: "in other words"}, {Name: "kept:too", Description: "as well"}, {Name: "refund"}}
	begin := readWrite(payment)
	begin.Scopes = append(begin.Scopes, provision.Scope{Name: "kept"}, provision.Scope{Name: "kept:too"})
	adoptable := func(w *world) provision.Client {
		want := cart("read", "write")
		for _, a := range w.server.Snapshot().Applications {
			if a.Name == "The cart" {
				want.Adopt = a.ID
			}
		}
		return want
	}
	sync := func(want func(*world) provision.Client) func(w *world) error {
		return func(w *world) error { _, err := w.syncClient(want(w)); return err }
	}
	remove := func(want func(*world) provision.Client) func(w *world) error {
		return func(w *world) error {
			return provision.RemoveClient(w.Context(), w.driver, want(w), &w.client, w.keep)
		}
	}
	own := func(*world) provision.Client { return cart("read", "write") }
	retained := func(*world) provision.Client {
		want := cart("read")
		want.Retain = true
		return want
	}
	lent := func(w *world) provision.Client {
		want := adoptable(w)
		want.Retain = true
		return want
	}
	denied := func(*world) provision.Client {
		want := cart("read")
		want.Retain, want.Denied = true, true
		return want
	}
	existing := func(w *world) error { w.existingApplication(); return nil }
	both := func(calls ...func(*world) error) func(*world) error {
		return func(w *world) error {
			for _, call := range calls {
				if err := call(w); err != nil {
					return err
				}
			}
			return nil
		}
	}
	stray := func(w *world) error {
		for _, n := range []string{"98", "99"} {
			if err := addSecret(w, w.client.ID, clientOwner.CredentialPrefix()+n); err != nil {
				return err
			}
		}
		return nil
	}
	for name, tc := range map[string]struct{ prepare, call func(w *world) error }{
		"an API that changes in Git and at the console": {
			func(w *world) error {
				_, err := w.syncAPI(begin)
				return cmpErr(err, w.server.RenameResource(payment, "Payments"), w.server.DescribeScope(payment, "kept", "theirs"))
			},
			func(w *world) error { _, err := w.syncAPI(changed); return err },
		},
		"an API that was replaced": {
			func(w *world) error { return cmpErr(withAPI(w), w.server.DeleteResource(payment)) },
			func(w *world) error { _, err := w.syncAPI(changed); return err },
		},
		"an adopted API that loses its scopes": {
			func(w *world) error {
				w.existingAPI("theirs")
				_, err := w.syncAPI(withAdoption(readWrite(payment)))
				return err
			},
			func(w *world) error {
				_, err := w.syncAPI(withAdoption(provision.API{Owner: apiOwner, Identifier: payment}))
				return err
			},
		},
		"an adopted API that goes": {
			func(w *world) error {
				w.existingAPI("theirs")
				_, err := w.syncAPI(withAdoption(readWrite(payment)))
				return err
			},
			func(w *world) error {
				return w.driver.RemoveAPI(w.Context(), withAdoption(readWrite(payment)), &w.api, w.keep)
			},
		},
		"a client that others changed":                {both(withClient, mess), sync(own)},
		"a client that others changed, and that goes": {both(withClient, mess), remove(own)},
		"a client that others changed, and of which nothing is recorded": {
			both(withClient, mess, func(w *world) error {
				id, role := w.client.ID, w.client.GrantID
				w.client = provision.ClientState{Creating: true}
				return cmpErr(w.server.DescribeApplication(id, description(clientOwner)), w.server.DescribeRole(role, description(clientOwner)))
			}), sync(own),
		},
		"a client that others changed, and that is retained": {both(withClient, mess), remove(retained)},
		"a client that others changed, and that is denied":   {both(withClient, mess), remove(denied)},
		"a client that is adopted":                           {both(withAPI, existing), sync(adoptable)},
		"a client that becomes an adopted one":               {both(withClient, func(w *world) error { w.server.CreateApplication("The cart", ""); return nil }), sync(adoptable)},
		"an adopted client that becomes the operator's":      {both(withAPI, existing, sync(adoptable)), sync(own)},
		"an adopted client that changes":                     {both(withAPI, existing, sync(adoptable), mess, stray), sync(adoptable)},
		"an adopted client that is retained":                 {both(withAPI, existing, sync(adoptable), stray), remove(lent)},
		"an adopted client that goes":                        {both(withAPI, existing, sync(adoptable), stray), remove(adoptable)},
	} {
		t.Run(name, func(t *testing.T) {
			undisturbed := newWorld(t)
			if err := cmpErr(tc.prepare(undisturbed), tc.call(undisturbed)); err != nil {
				t.Fatal(err)
			}
			want := named(undisturbed.server.Snapshot())
			eachRequest(t, tc.prepare, tc.call, func(w *world) {
				if err := tc.call(w); err != nil {
					w.Fatal(err)
				}
				if diff := cmp.Diff(want, named(w.server.Snapshot())); diff != "" {
					w.Errorf("the server (-undisturbed +interrupted):\n%s", diff)
				}
			})
		})
	}
}
