// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

type resource struct {
	ID        string `json:"id"`
	Indicator string `json:"indicator"`
}

func (r resource) Key() string { return r.ID }

func (w *world) resources() ([]resource, error) {
	return management.List[resource](w.Context(), w.api, "read the APIs", "/resources", nil)
}

// createResources creates n resources, and returns their indicators.
func (w *world) createResources(n int) map[string]bool {
	w.Helper()
	all := map[string]bool{}
	for i := range n {
		indicator := fmt.Sprintf("https://example.com/%d", i)
		if _, err := w.server.CreateResource("x", indicator, 0); err != nil {
			w.Fatal(err)
		}
		all[indicator] = true
	}
	return all
}

// wantResources requires that a list has each resource once, besides the Management API.
func (w *world) wantResources(got []resource, want map[string]bool) {
	w.Helper()
	found := map[string]bool{}
	for _, r := range got {
		if found[r.Indicator] {
			w.Errorf("%s is there twice", r.Indicator)
		}
		found[r.Indicator] = true
	}
	delete(found, logtotest.ManagementAPI)
	if !maps.Equal(found, want) {
		w.Errorf("found %d resources, want %d: %v", len(found), len(want), found)
	}
}

// Lists change while they are read.
func TestListThatChanges(t *testing.T) {
	w := newWorld(t)
	want := w.createResources(150)
	times := 2
	w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.URL.Path == "/api/resources" && r.URL.Query().Get("page") == "2" && times > 0 {
			times--
			for i := range 60 { // rows that were updated move to another place
				_ = w.server.RenameResource(fmt.Sprintf("https://example.com/%d", i+times), "y")
			}
			gone := fmt.Sprintf("https://example.com/%d", 140+times)
			_ = w.server.DeleteResource(gone)
			delete(want, gone)
		}
		return logtotest.Fault{}
	})
	got, err := w.resources()
	if err != nil || times != 0 {
		t.Fatalf("%v with %d changes to come", err, times)
	}
	w.wantResources(got, want)
	times = 99
	w.server.ResetRequests()
	_, err = w.resources()
	w.wantError(err, provision.Unavailable, "changed while it was read")
	if asked := w.server.Requests()["GET /api/resources"]; asked != 4*2 {
		t.Errorf("%d requests, want four times two pages", asked)
	}
}

// A list is read to its end, and no further.
func TestPages(t *testing.T) {
	for total, pages := range map[int]int{1: 1, 99: 1, 100: 1, 101: 2, 200: 2, 201: 3} {
		w := newWorld(t)
		want := w.createResources(total - 1) // there is the Management API too
		got, err := w.resources()
		if err != nil {
			t.Fatal(err)
		}
		w.wantResources(got, want)
		if asked := w.server.Requests()["GET /api/resources"]; asked != pages {
			t.Errorf("%d resources took %d requests, want %d", total, asked, pages)
		}
	}
}

// A page may exceed the bound of an answer: then pages of 20 are read, or of 4.
func TestLargePages(t *testing.T) {
	for name, tc := range map[string]struct{ things, bytes, requests int }{
		"of 100":                    {things: 40, bytes: 10_000, requests: 1},
		"of 20":                     {things: 40, bytes: 20_000, requests: 1 + 3},
		"of 4":                      {things: 40, bytes: 100_000, requests: 1 + 1 + 11},
		"of 4, which are too large": {things: 4, bytes: 200_000, requests: 1 + 1 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for range tc.things {
				w.server.CreateApplication("x", strings.Repeat("y", tc.bytes))
			}
			all, err := management.List[application](t.Context(), w.api, "read the applications", "/applications", nil)
			if 4*tc.bytes > egress.MaxBody {
				w.wantError(err, provision.Unavailable, "larger than")
			} else if want := tc.things + 1; err != nil || len(all) != want { // and the operator's own
				t.Errorf("%d applications, %v, want %d", len(all), err, want)
			}
			if asked := w.server.Requests()["GET /api/applications"]; asked != tc.requests {
				t.Errorf("%d requests, want %d", asked, tc.requests)
			}
		})
	}
}

// A deletion moves what follows it to the page that was just read.
func TestListThatShrinks(t *testing.T) {
	w := newWorld(t)
	total, on := []int{101, 100, 100}, []int{100, 0, 100} // of each answer, and how many resources it has
	made := 0
	w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.URL.Path != "/api/resources" {
			return logtotest.Fault{}
		}
		if len(on) == 0 {
			t.Error("a request too many")
			return logtotest.Fault{Drop: true}
		}
		var page []resource
		for range on[0] {
			made++
			page = append(page, resource{ID: fmt.Sprint(made)})
		}
		body, err := json.Marshal(page)
		if err != nil {
			t.Error(err)
		}
		f := logtotest.Fault{Status: 200, Body: string(body), ContentType: "application/json", Header: http.Header{"Total-Number": {fmt.Sprint(total[0])}}}
		total, on = total[1:], on[1:]
		return f
	})
	if got, err := w.resources(); err != nil || len(got) != 100 || got[0].ID != "101" || len(on) > 0 {
		t.Errorf("got %d resources, %v, with %d answers to come", len(got), err, len(on))
	}
}

func TestAnswersWithoutATotal(t *testing.T) {
	w := newWorld(t)
	w.fault("GET", "/api/resources", 1, logtotest.Fault{Status: 200, Body: "[]", ContentType: "application/json"})
	_, err := w.resources()
	w.wantError(err, provision.Unavailable, "lacks the total")
	w.fault("GET", "/api/resources", 1, logtotest.Fault{Status: 200, Body: "[{}]", ContentType: "application/json", Header: http.Header{"Total-Number": {"1"}}})
	_, err = w.resources()
	w.wantError(err, provision.Unavailable, "without an id")
	w.fault("GET", "/api/resources", 1, logtotest.Fault{Status: 200, Body: "[]", ContentType: "application/json", Header: http.Header{"Total-Number": {"-1"}}})
	_, err = w.resources()
	w.wantError(err, provision.Unavailable, "lacks the total")
	w.fault("GET", "/api/resources", 1, logtotest.Fault{Status: 200, Body: "[]", ContentType: "application/json", Header: http.Header{"Total-Number": {"0"}}})
	if got, err := w.resources(); err != nil || len(got) > 0 {
		t.Errorf("an empty list is %v, %v", got, err)
	}
}
