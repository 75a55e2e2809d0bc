// SPDX-License-Identifier: Apache-2.0

package management_test

import (
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
