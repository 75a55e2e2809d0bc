// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestStory is the main job: after a client is applied, its Secret has a fresh,
// verified token.
func TestStory(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	operator.IsReady(t, api)
	if token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); token == "" {
		t.Error("there is no token in the Secret")
	}
}

// TestRefreshCosts counts the requests of a refresh at the API server and the
// authorization server, and checks that nothing else costs anything.
func TestRefreshCosts(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	first := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")

	op.Requests.Reset()
	w.AS.ResetRequests()
	op.Settle(w.Payments, w.Shop)
	if diff := cmp.Diff([]string{}, op.Requests.Writes()); diff != "" {
		t.Errorf("a pass with nothing to do wrote (-want +got):\n%s", diff)
	}
	if n := len(w.AS.TokenRequests()); n != 0 {
		t.Errorf("a pass with nothing to do sent %d token requests", n)
	}

	op.Advance(45 * time.Minute)
	op.Requests.Reset()
	op.Settle(w.Shop)
	if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, op.Requests.Writes()); diff != "" {
		t.Errorf("a refresh wrote (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{}, op.Requests.Reads()); diff != "" {
		t.Errorf("a refresh bypassed the cache (-want +got):\n%s", diff)
	}
	if n := len(w.AS.TokenRequests()); n != 1 {
		t.Errorf("a refresh sent %d token requests", n)
	}
	if second := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); second == first || second == "" {
		t.Error("the token was not replaced")
	}
}
