// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// Whoever could ask for tokens of the Management API would own the server.
func TestManagementAPIIsForbidden(t *testing.T) {
	w := newWorld(t)
	for _, identifier := range []string{
		logtotest.ManagementAPI, "https://default.logto.app/api/", "HTTPS://Default.Logto.App/api", "https://default.logto.app:443/api",
		"https://default.logto.app./api", "https://t4x7.logto.app/api", "http://t4x7.logto.app/api//", "https://default.logto.app/%61pi", " https://default.logto.app/api",
	} {
		api := provision.API{Owner: apiOwner, Identifier: identifier, Adopt: true}
		_, err := w.syncAPI(api)
		w.wantError(err, provision.Forbidden)
		api.Observe = true
		_, err = w.syncAPI(api)
		w.wantError(err, provision.Forbidden)
		_, err = w.syncClient(provision.Client{Owner: clientOwner, Access: []provision.Access{
			{Resource: payment, Scopes: []string{"read"}}, {Resource: identifier, Scopes: []string{"all"}},
		}})
		w.wantError(err, provision.Forbidden)
		for _, api.Observe = range []bool{false, true} {
			if err := w.driver.RemoveAPI(t.Context(), api, &w.api, w.keep); err != nil {
				t.Errorf("removal: %v", err)
			}
		}
	}
	if n := w.server.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
	for _, identifier := range []string{"https://default.logto.app/apis", "https://logto.app.example.com/api", "urn:payment", "payment"} {
		if _, err := w.syncAPI(provision.API{Owner: apiOwner, Identifier: identifier}); err != nil {
			t.Errorf("%s: %v", identifier, err)
		}
		w.api = provision.APIState{}
	}
	c := w.config()
	c.ManagementAPI = "https://admin.example.com/api"
	_, err := logto.New(c).SyncAPI(t.Context(), provision.API{Owner: apiOwner, Identifier: "https://ADMIN.example.com/api/"}, &w.api, w.keep)
	w.wantError(err, provision.Forbidden)
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	if err := w.driver.Check(t.Context()); err != nil || w.server.Count() != 2 {
		t.Errorf("%v after %d requests", err, w.server.Count())
	}
	w.fault("GET", "/api/applications", 1, logtotest.Fault{Status: 403})
	w.wantError(w.driver.Check(t.Context()), provision.Refused, "read the applications", "Logto Management API access")
}

// Every answer repeats everything that was sent and everything that the server knows. None of it comes out.
func TestNoSecretInErrors(t *testing.T) {
	for status := 200; status < 600; status += 100 {
		for _, body := range []string{`{"code":"%s","message":"%s"}`, `{"code":"entity.not_found","id":"%s","data":"%s"}`, `%s %s`, `[{"value":"%s%s"}]`} {
			body := fmt.Sprintf(body, sentinel, sentinel)
			for n := 1; n <= 14; n++ {
				w := newWorld(t)
				if err := withAPI(w); err != nil {
					t.Fatal(err)
				}
				w.restart()
				w.server.ResetRequests()
				w.server.SetFault(func(_ *http.Request, i int) logtotest.Fault {
					if i < n {
						return logtotest.Fault{}
					}
					return logtotest.Fault{Status: status, Body: body, ContentType: "application/json"}
				})
				_, err := w.syncClient(cart("read"))
				if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), sentinel) {
					t.Errorf("status %d from request %d on: %v", status, n, err)
				}
			}
		}
	}
}

// rewriting changes the answers of the double into others that Logto may give.
type rewriting struct {
	base   http.RoundTripper
	change func(r *http.Request, body string) string
}

func (t rewriting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(t.change(r, string(body))))
	return resp, err
}

func (w *world) rewrite(change func(r *http.Request, body string) string) {
	c := w.config()
	c.HTTP = &http.Client{Transport: rewriting{w.server.Transport(), change}}
	w.driver = logto.New(c)
}

func TestApplicationOfAnotherTypeIsNotAdopted(t *testing.T) {
	w := newWorld(t)
	w.mustSyncAPI(readWrite(payment))
	want := cart("read")
	want.Adopt = w.server.CreateApplication("The shop", "")
	w.rewrite(func(_ *http.Request, body string) string {
		return strings.ReplaceAll(body, `"type":"MachineToMachine"`, `"type":"Traditional"`)
	})
	_, err := w.syncClient(want)
	w.wantError(err, provision.Refused, "machine-to-machine")
}

// A member that nobody expects in that form does not keep the operator from reading the rest.
func TestOddCustomData(t *testing.T) {
	for _, odd := range []string{`null`, `[]`, `{"m2m-operator":"x"}`, `{"m2m-operator":{"uid":7}}`} {
		w := newWorld(t)
		if err := withClient(w); err != nil {
			t.Fatal(err)
		}
		want := w.onlyApplication()
		if err := w.server.SetCustomData(want.ID, map[string]any{"odd": 1}); err != nil {
			t.Fatal(err)
		}
		w.rewrite(func(_ *http.Request, body string) string { return strings.ReplaceAll(body, `{"odd":1}`, odd) })
		w.mustSyncClient(cart("read"))
		got := w.onlyApplication()
		delete(got.CustomData, "odd") // of others: it stays
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", odd, diff)
		}
	}
}
