// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// TestLookup asks a catalog that others have read into, and compares what is found and what is asked of the server.
func TestLookup(t *testing.T) {
	const (
		payment, shipping = "https://payment.example.com", "https://shipping.example.com"
		list, get, scopes = "GET /api/resources", "GET /api/resources/{id}", "GET /api/resources/{id}/scopes"
	)
	type found struct{ Resource, Scope string }
	for name, tc := range map[string]struct {
		before time.Duration // how old the entries are when the lookup begins
		during time.Duration // how much older when they are used, or since somebody else read them meanwhile
		others bool          // somebody else reads after the lookup began
		id     string        // of the API that is asked for: "" if that is not given, "this", "stale"
		scope  string        // default: read
		want   found         // default: this, read
		asked  map[string]int
	}{
		"just read":                                          {},
		"just read, and the id is given":                     {id: "this"},
		"almost a minute old":                                {before: time.Minute - 1},
		"a minute old":                                       {before: time.Minute, asked: map[string]int{list: 1, scopes: 1}},
		"a minute old, and the id is given":                  {before: time.Minute, id: "this", asked: map[string]int{get: 1, scopes: 1}},
		"an id of another API":                               {id: "stale", want: found{"", "read"}, asked: map[string]int{get: 1}},
		"a scope that came since":                            {scope: "later", want: found{"this", "later"}, asked: map[string]int{scopes: 1}},
		"a scope that does not exist":                        {scope: "none", want: found{"this", ""}, asked: map[string]int{scopes: 1}},
		"read by others meanwhile":                           {before: time.Hour, others: true},
		"read by others meanwhile, long ago":                 {before: time.Hour, others: true, during: time.Hour},
		"the id of another API was read by others meanwhile": {before: time.Hour, others: true, id: "stale", want: found{"", "read"}},
		"a scope that came since others read":                {before: time.Hour, others: true, scope: "later", want: found{"this", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			server, err := logtotest.New(logtotest.WithClock(func() time.Time { return now }))
			if err != nil {
				t.Fatal(err)
			}
			d := New(Config{
				Endpoint: server.Endpoint(), ClientID: server.ManagementClientID(), ClientSecret: provision.Sensitive(server.ManagementClientSecret()),
				HTTP: &http.Client{Transport: server.Transport()}, Now: func() time.Time { return now },
			})
			id, err := server.CreateResource("Payments", payment, 0, "read")
			if err != nil {
				t.Fatal(err)
			}
			known := server.Snapshot().Resources[0].Scopes[0]
			later, err := server.AddScope(payment, "later", "")
			if err != nil {
				t.Fatal(err)
			}
			d.catalog.put(now, resource{ID: id, Indicator: payment}, []scope{{ID: known.ID, Name: "read"}})
			now = now.Add(tc.before)
			look := d.newLookup()
			if tc.others {
				d.catalog.put(now, resource{ID: id, Indicator: payment}, []scope{{ID: known.ID, Name: "read"}})
			}
			now = now.Add(tc.during)

			names := map[string]string{"": "", id: "this", known.ID: "read", later: "later"}
			asks := provision.Access{Resource: payment, ResourceID: tc.id}
			if tc.id == "this" {
				asks.ResourceID = id
			}
			if tc.scope == "" {
				tc.scope = "read"
			}
			if tc.want == (found{}) {
				tc.want = found{"this", "read"}
			}
			for range 2 { // nothing is asked twice, unless it is by an id that does not exist
				r, err := look.resource(t.Context(), asks)
				if err != nil {
					t.Fatal(err)
				}
				s, err := look.scope(t.Context(), id, tc.scope)
				if err != nil {
					t.Fatal(err)
				}
				if got := (found{names[r], names[s]}); got != tc.want {
					t.Errorf("found %+v, want %+v", got, tc.want)
				}
				if tc.id == "stale" {
					break
				}
			}
			got := server.Requests()
			delete(got, "POST /oidc/token")
			if diff := cmp.Diff(tc.asked, got); diff != "" && len(tc.asked)+len(got) > 0 {
				t.Errorf("requests (-want +got):\n%s", diff)
			}

			// A list that was just read is not read again for what was not in it, except by an id.
			server.ResetRequests()
			look = d.newLookup()
			for _, a := range []provision.Access{{Resource: shipping}, {Resource: "https://none.example.com"}, {Resource: shipping, ResourceID: "stale"}} {
				if r, err := look.resource(t.Context(), a); r != "" || err != nil {
					t.Errorf("%+v is %q, %v", a, r, err)
				}
			}
			got = server.Requests()
			delete(got, "POST /oidc/token")
			if diff := cmp.Diff(map[string]int{list: 1, get: 1}, got); diff != "" {
				t.Errorf("requests for what does not exist (-want +got):\n%s", diff)
			}
		})
	}
}
