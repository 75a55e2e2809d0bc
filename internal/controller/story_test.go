// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStory is the main job: a client is applied, and a fresh, verified token
// is in its Secret.
func TestStory(t *testing.T) {
	w := newWorld(t)
	api, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	isReady(t, api)
	if token := tokenIn(t, w.shop, "cart-token", "payment-api"); token == "" {
		t.Error("there is no token in the Secret")
	}
}

// TestRefreshCosts counts what a refresh costs at the API server and at the
// authorization server, and that nothing else costs anything.
func TestRefreshCosts(t *testing.T) {
	op := startStepped(t)
	w := newWorld(t)
	_, cart := w.story()
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	first := tokenIn(t, w.shop, "cart-token", "payment-api")

	op.requests.reset()
	w.as.ResetRequests()
	op.settle(w.payments, w.shop)
	if diff := cmp.Diff([]string{}, op.requests.writes()); diff != "" {
		t.Errorf("a pass without anything to do wrote (-want +got):\n%s", diff)
	}
	if n := len(w.as.TokenRequests()); n != 0 {
		t.Errorf("a pass without anything to do sent %d token requests", n)
	}

	op.advance(45 * time.Minute)
	op.requests.reset()
	op.settle(w.shop)
	if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, op.requests.writes()); diff != "" {
		t.Errorf("a refresh wrote (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{}, op.requests.reads()); diff != "" {
		t.Errorf("a refresh read past the cache (-want +got):\n%s", diff)
	}
	if n := len(w.as.TokenRequests()); n != 1 {
		t.Errorf("a refresh sent %d token requests", n)
	}
	if second := tokenIn(t, w.shop, "cart-token", "payment-api"); second == first || second == "" {
		t.Error("the token was not replaced")
	}
}
