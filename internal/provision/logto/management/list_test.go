// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

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
	_, err = w.resources()
	w.wantError(err, provision.Unavailable, "changed while it was read")
}

// A page may exceed the bound of an answer.
func TestLargePages(t *testing.T) {
	w := newWorld(t)
	for range 120 {
		w.server.CreateApplication("x", strings.Repeat("y", 20_000))
	}
	all, err := management.List[application](t.Context(), w.api, "read the applications", "/applications", nil)
	if want := 120 + 1; err != nil || len(all) != want { // and the operator's own
		t.Errorf("%d applications, %v, want %d", len(all), err, want)
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
}
