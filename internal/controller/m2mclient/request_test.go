// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// request annotates a client with a request for new tokens, "" for none.
func request(t *testing.T, c *v1alpha1.M2MClient, value string) {
	t.Helper()
	operator.Change(t, c, func(c *v1alpha1.M2MClient) {
		c.Annotations = nil
		if value != "" {
			c.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: value}
		}
	})
}

// handled checks which request the status says was handled, and how many token requests
// were sent since the last check.
func handled(t *testing.T, s *operator.Stage, value string, requests int) {
	t.Helper()
	s.Settle()
	s.Requested(requests)
	s.AS.ResetRequests()
	s.Status()
	if got := s.Cart.Status.LastHandledRefreshAt; got != value {
		t.Errorf("the status says that %q was handled, want %q", got, value)
	}
}

// TestRefreshOnRequest requests new tokens in every way.
func TestRefreshOnRequest(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	old := s.Token()
	request(t, s.Cart, "2026-11-29T17:00:00Z")
	handled(t, s, "2026-11-29T17:00:00Z", 1)
	if s.Token() == old {
		t.Error("the token is the old one")
	}
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	operator.Told(t, s.Cart, v1alpha1.ReasonTokenIssued, "(Requested)")

	// The value counts once, whatever else happens.
	op.Advance(time.Minute)
	handled(t, s, "2026-11-29T17:00:00Z", 0)
	request(t, s.Cart, "")
	handled(t, s, "2026-11-29T17:00:00Z", 0)
	s.Due()
	handled(t, s, "2026-11-29T17:00:00Z", 1)
	request(t, s.Cart, "2026-11-29T17:00:00Z")
	handled(t, s, "2026-11-29T17:00:00Z", 0)

	// Any other value is a request, also one of the past, but not two at once.
	request(t, s.Cart, "1999-01-01T00:00:00Z")
	handled(t, s, "1999-01-01T00:00:00Z", 1)
	request(t, s.Cart, "2999-01-01T00:00:00Z")
	handled(t, s, "1999-01-01T00:00:00Z", 0)
	op.Advance(pace.RequestInterval - time.Second)
	handled(t, s, "1999-01-01T00:00:00Z", 0)
	result, err := op.M2MClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.Cart)))
	if err != nil || result.RequeueAfter != time.Second {
		t.Errorf("the client is looked at again in %s (%v), want 1s", result.RequeueAfter, err)
	}
	op.Advance(time.Second)
	handled(t, s, "2999-01-01T00:00:00Z", 1)

	// A value that no status can keep is none.
	op.Advance(time.Minute)
	request(t, s.Cart, fmt.Sprintf("%065d", 1))
	handled(t, s, "2999-01-01T00:00:00Z", 0)
}

// TestRefreshOnRequestOfWhatFails requests new tokens while the server refuses them.
func TestRefreshOnRequestOfWhatFails(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	old := s.Token()
	s.AS.SetFault(oidc.Token, operator.Answer(400, `{"error":"invalid_scope"}`))

	// The token is not due. It stays, and the client says that the request failed until it
	// succeeds.
	request(t, s.Cart, "1")
	handled(t, s, "1", 1)
	for range 3 {
		op.Advance(time.Second)
		handled(t, s, "1", 0)
		operator.Says(t, s.Cart, v1alpha1.ConditionFresh, v1alpha1.ReasonTokenRequestRefused, "invalid_scope")
	}
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
	if s.Token() != old {
		t.Error("the working token is gone")
	}

	// After many failures, the wait is long. A request is not bound by it.
	for range 6 {
		op.Clock.SetTime(s.Status().Failure.NextAttemptAt.Time)
		handled(t, s, "1", 1)
	}
	if wait := s.Status().Failure.NextAttemptAt.Sub(op.Clock.Now()); wait < 4*time.Minute {
		t.Fatalf("the next attempt is in %s already", wait)
	}
	op.Advance(10 * time.Second)
	request(t, s.Cart, "2")
	handled(t, s, "2", 1)
	if n := s.Status().Failure.Attempts; n != 1 {
		t.Errorf("the back-off counts %d attempts, want 1", n)
	}
	s.AS.ClearFaults()
	op.Advance(10 * time.Second)
	s.Settle()
	s.AS.ResetRequests()
	request(t, s.Cart, "3")
	s.Settle()
	if s.Token() == old {
		t.Error("the token is the old one")
	}
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if s.Status().Failure.Reason != "" {
		t.Error("the status still shows the failure")
	}
}

// TestRefreshOnRequestSurvivesARestart kills the operator between the writes of the Secret
// and of the status. The next one mints nothing. Neither does one whose client lost its
// status, as a restore from a backup has it.
func TestRefreshOnRequestSurvivesARestart(t *testing.T) {
	answer := func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return nil, context.Canceled
	}
	w := operator.NewWorld(t)
	_, cart := w.Story()
	cfg, fault := operator.Broken(http.MethodPatch, "/m2mclients/cart/status", 0, answer)
	op := operator.StartSteppedOver(t, cfg)
	op.Settle(w.Payments, w.Shop)
	request(t, cart, "2026-11-29T17:00:00Z")
	op.CatchUp(w.Payments, w.Shop)
	w.AS.ResetRequests()
	fault.Armed.Store(1)
	if err := op.ReconcileClient(cart); err == nil {
		t.Fatal("the failed write of the status caused no error")
	}
	w.TheRequest()
	op.Stop()

	again := func() {
		t.Helper()
		next := operator.StartStepped(t, func(o *controller.Options) { o.Clock = clocktesting.NewFakePassiveClock(op.Clock.Now()) })
		defer next.Stop()
		next.Settle(w.Payments, w.Shop)
		w.TheRequest()
		operator.IsReady(t, cart)
		if got := cart.Status.LastHandledRefreshAt; got != "2026-11-29T17:00:00Z" {
			t.Errorf("the status says that %q was handled", got)
		}
	}
	again()
	again()
	cart.Status = v1alpha1.M2MClientStatus{}
	if err := operator.Kube.Status().Update(t.Context(), cart); err != nil {
		t.Fatal(err)
	}
	again()
}

// TestRefreshOnRequestTakesNoTurn lets a client ask for new tokens while another one's are
// due. The budget is used up: the one whose token expires first comes first.
func TestRefreshOnRequestTakesNoTurn(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	stock := s.Another("stock")
	s.Settle()
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.Requests = v1alpha1.RequestBudget{PerSecond: 1, Burst: 1} })
	op.Advance(20 * time.Minute)
	s.Settle()
	s.AS.ResetRequests()
	request(t, s.Cart, "1")
	handled(t, s, "1", 1) // which uses up the budget, and makes the cart's token the younger one
	operator.Change(t, stock, func(c *v1alpha1.M2MClient) { c.Spec.Refresh.AtPercent = 10 })
	op.CatchUp(s.Payments, s.Shop)
	op.Advance(pace.RequestInterval)
	request(t, s.Cart, "2")
	op.CatchUp(s.Payments, s.Shop)
	reconcileBoth := func() {
		t.Helper()
		for _, c := range []client.Object{s.Cart, stock} {
			if _, err := op.M2MClients.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := op.ReconcileClient(s.Another("report")); err != nil { // uses up the budget
		t.Fatal(err)
	}
	reconcileBoth()
	op.Advance(time.Second)
	s.AS.ResetRequests()
	reconcileBoth()
	if cart, other := s.RequestsOf(operator.CartID), s.RequestsOf("stock"); cart != 0 || other != 1 {
		t.Errorf("the cart, which asked, sent %d requests, and the one whose token is due %d; want 0 and 1", cart, other)
	}
}

// TestRefreshOnRequestIsWatched annotates a client while the operator runs by itself.
func TestRefreshOnRequestIsWatched(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	old := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	request(t, cart, "2026-11-29T17:00:00Z")
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == old {
			return fmt.Errorf("the token is the old one")
		}
		return nil
	})
}

// TestRefusedClientsDoNotDelayANewOne: the tokens of eight clients of a namespace are due, and
// the server refuses them from then on. A client that joins them gets its token at once.
func TestRefusedClientsDoNotDelayANewOne(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	w.Story()
	var refused []*v1alpha1.M2MClient
	for i := range 8 {
		refused = append(refused, w.Another(fmt.Sprintf("refused-%d", i)))
	}
	op.Settle(w.Payments, w.Shop)
	for _, c := range refused {
		operator.IsReady(t, c)
		fault := operator.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`)
		fault.ClientID = c.Name
		w.AS.AddFault(oidc.Token, fault)
	}
	op.Advance(45 * time.Minute)
	op.Settle(w.Payments, w.Shop)
	for range 8 {
		op.Advance(10 * time.Second)
		op.Settle(w.Shop)
	}
	for _, c := range refused {
		operator.HasCondition(t, c, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	}
	fresh := w.Another("fresh")
	op.Settle(w.Shop)
	operator.IsReady(t, fresh)
}
