// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func TestToken(t *testing.T) {
	w := newWorld(t)
	tokens := func(want int) {
		t.Helper()
		if err := read(t.Context(), w.api); err != nil {
			t.Fatal(err)
		}
		if got := w.server.Requests()["POST /oidc/token"]; got != want {
			t.Errorf("%d requests for a token, want %d", got, want)
		}
	}
	tokens(1)
	w.now = w.now.Add(58 * time.Minute)
	tokens(1)
	w.now = w.now.Add(time.Minute) // a minute before it expires
	tokens(2)
	w.fault("GET", "/api/applications", 1, logtotest.Fault{Status: 401, Body: `{"code":"auth.unauthorized"}`, ContentType: "application/json"})
	tokens(3)
	w.fault("GET", "/api/applications", 2, logtotest.Fault{Status: 401})
	w.wantError(read(t.Context(), w.api), provision.Refused)
	w.fault("GET", "/api/applications", 1, logtotest.Fault{Status: 403, Body: `{"code":"auth.forbidden"}`, ContentType: "application/json"})
	w.wantError(read(t.Context(), w.api), provision.Refused, "Logto Management API access")
	before := w.server.Requests()["POST /oidc/token"]
	tokens(before + 1) // the role may have been given meanwhile
}

// A token stays in the cache for as long as it is worth having.
func TestLifeOfAToken(t *testing.T) {
	for lifetime, want := range map[string]time.Duration{
		`,"expires_in":3600`: 59 * time.Minute, `,"expires_in":121`: 61 * time.Second, `,"expires_in":119`: 59500 * time.Millisecond,
		`,"expires_in":10`: 5 * time.Second, `,"expires_in":1`: time.Second, `,"expires_in":0`: time.Minute, "": time.Minute,
	} {
		w := newWorld(t)
		w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
			body := "[]"
			if r.URL.Path == "/oidc/token" {
				body = `{"access_token":"x","token_type":"Bearer","scope":"all"` + lifetime + "}"
			}
			return logtotest.Fault{Status: 200, Body: body, ContentType: "application/json"}
		})
		for i, step := range []time.Duration{0, want - time.Nanosecond, time.Nanosecond} {
			w.now = w.now.Add(step)
			if err := read(t.Context(), w.api); err != nil {
				t.Fatal(err)
			}
			if got := w.server.Requests()["POST /oidc/token"]; got != []int{1, 1, 2}[i] {
				t.Errorf("%q, %s: %d requests for a token", lifetime, step, got)
			}
		}
	}
}

// Two quick rotations drop the key of the token in use. The next call gets another token at once, and nobody notices.
func TestManagementTokenOfADroppedKey(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		if err := read(t.Context(), w.api); err != nil {
			t.Error(err)
		}
		w.server.RotateKeys(logtotest.Rotation{})
		w.server.RotateKeys(logtotest.Rotation{})
	}
}
