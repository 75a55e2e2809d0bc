// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// status refuses with an answer of the API server.
func status(code int, reason string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	return func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
		return &http.Response{
			StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
			Body: io.NopCloser(bytes.NewBufferString(body)), ContentLength: int64(len(body)),
		}, nil
	}
}

// hang never answers while the operator lives.
func hang(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// lost executes the request and loses the answer.
func lost(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	resp, err := next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the connection broke: %w", resp.Body.Close())
}

// TestARestartCostsNothing starts the operator again with a hundred clients whose
// tokens are good.
func TestARestartCostsNothing(t *testing.T) {
	const clients = 100
	w := operator.NewWorld(t)
	w.Story()
	for i := range clients - 1 {
		c := w.Cart()
		c.Name = fmt.Sprintf("cart-%02d", i)
		operator.Create(t, c)
	}
	op := operator.Start(t)
	ready := func() error {
		var list v1alpha1.M2MClientList
		if err := operator.Kube.List(t.Context(), &list, client.InNamespace(w.Shop)); err != nil {
			return err
		}
		n := 0
		for i := range list.Items {
			if operator.HasToken(&list.Items[i]) {
				n++
			}
		}
		if n != clients {
			return fmt.Errorf("%d of %d clients are ready", n, clients)
		}
		return operator.Idle(t, operator.EveryController...)
	}
	operator.Eventually(t, ready)
	op.Stop()
	if n := len(w.AS.TokenRequests()); n != clients {
		t.Fatalf("%d token requests were sent for %d clients", n, clients)
	}
	w.AS.ResetRequests()

	seen := map[string]int{}
	for _, c := range operator.EveryController {
		seen[c] = operator.Reconciled(t, c)
	}
	op = operator.Start(t)
	operator.Eventually(t, func() error {
		for c, least := range map[string]int{"authorizationserver": 2, "apiresource": 1, "m2mclient": clients} {
			if n := operator.Reconciled(t, c) - seen[c]; n < least {
				return fmt.Errorf("controller %s has reconciled %d of %d", c, n, least)
			}
		}
		return ready()
	})
	if n := len(w.AS.TokenRequests()); n != 0 {
		t.Errorf("a restart sent %d token requests", n)
	}
	if diff := cmp.Diff([]string{}, op.Requests.Writes()); diff != "" {
		t.Errorf("a restart wrote (-want +got):\n%s", diff)
	}
	// The caches' lists and watches have a query. The operator reads nothing else,
	// neither a client's Secret nor its credentials.
	if diff := cmp.Diff([]string{}, slices.DeleteFunc(op.Requests.Reads(), func(r string) bool {
		return strings.HasPrefix(r, "GET api") // the API server's groups and kinds
	})); diff != "" {
		t.Errorf("a restart read (-want +got):\n%s", diff)
	}
	if n := len(op.Requests.Sent()); n > 60 {
		t.Errorf("a restart with %d clients cost %d requests; they must not grow with the clients", clients, n)
	}
}

// TestKilledBeforeTheStatusIsWritten: the token is in the Secret, but the status does
// not mention it. The next operator completes the status and mints nothing.
func TestKilledBeforeTheStatusIsWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		stepsBefore int // 1: the status write of the first token is lost; 2: that of its successor
		answer      func(*http.Request, http.RoundTripper) (*http.Response, error)
	}{
		"the API server fails, first token":   {1, status(http.StatusInternalServerError, "InternalError")},
		"the API server fails, second token":  {2, status(http.StatusInternalServerError, "InternalError")},
		"the write hangs until it is killed":  {1, hang},
		"the write hangs at the second token": {2, hang},
		"the answer to the write is lost":     {2, lost},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			_, cart := w.Story()
			cfg, fault := operator.Broken(http.MethodPatch, "/m2mclients/cart/status", 0, tc.answer)
			op := operator.StartSteppedOver(t, cfg)
			if tc.stepsBefore == 2 {
				op.Settle(w.Payments, w.Shop)
				operator.IsReady(t, cart)
				op.Advance(45 * time.Minute)
			} else {
				op.SettleServers(w)
			}
			w.AS.ResetRequests()
			fault.Armed.Store(1)
			killed := make(chan error, 1)
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			go func() {
				_, err := op.M2MClients.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cart)})
				killed <- err
			}()
			<-fault.Met
			kill()
			if err := <-killed; err == nil {
				t.Error("the failed status write caused no error")
			}
			w.TheRequest()
			published := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			if published == "" {
				t.Fatal("the Secret was not written before the status")
			}
			now := op.Clock.Now()
			op.Stop()

			next := operator.StartStepped(t, func(o *controller.Options) { o.Clock = clocktesting.NewFakePassiveClock(now) })
			next.Settle(w.Payments, w.Shop)
			w.TheRequest()
			operator.IsReady(t, cart)
			if got := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); got != published {
				t.Error("the next operator replaced the token")
			}
			if issued := cart.Status.Tokens[0].IssuedAt; !issued.Time.Equal(now) {
				t.Errorf("the status says that the token was issued at %v, want %v", issued, now)
			}
			for _, r := range next.Requests.Writes() {
				if r != "PATCH m2mclients/status" {
					t.Errorf("the next operator sent %s", r)
				}
			}
		})
	}
}

// TestAFailedSecretWriteKeepsTheToken: if a token was issued but could not be stored,
// the next attempt stores it. The operator requests no other.
func TestAFailedSecretWriteKeepsTheToken(t *testing.T) {
	edit := func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		// Another writer is faster, so the API server itself refuses.
		parts := strings.Split(req.URL.Path, "/")
		s := &corev1.Secret{}
		name := client.ObjectKey{Namespace: parts[len(parts)-3], Name: parts[len(parts)-1]}
		if err := operator.Kube.Get(req.Context(), name, s); err != nil {
			return nil, err
		}
		s.Labels["edited"] = "by-somebody"
		if err := operator.Kube.Update(req.Context(), s); err != nil {
			return nil, err
		}
		return next.RoundTrip(req)
	}
	for name, tc := range map[string]struct {
		first  bool // the write creates the Secret
		answer func(*http.Request, http.RoundTripper) (*http.Response, error)
	}{
		"conflict with another writer":           {false, edit},
		"conflict on update":                     {false, status(http.StatusConflict, "Conflict")},
		"server error on update":                 {false, status(http.StatusInternalServerError, "InternalError")},
		"server error on creation":               {true, status(http.StatusInternalServerError, "InternalError")},
		"a stale replica answers already exists": {true, status(http.StatusConflict, "AlreadyExists")},
		"answer to an update is lost":            {false, lost},
		"answer to a creation is lost":           {true, lost},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
			w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = clock.Now })
			_, cart := w.Story()
			method, path := http.MethodPut, "/secrets/cart-token"
			if tc.first {
				method, path = http.MethodPost, "/"+w.Shop+"/secrets"
			}
			cfg, fault := operator.Broken(method, path, 0, tc.answer)
			op := operator.StartSteppedOver(t, cfg, func(o *controller.Options) { o.Clock = clock })
			op.Clock = clock
			op.SettleServers(w)
			if !tc.first {
				op.Settle(w.Payments, w.Shop)
				operator.IsReady(t, cart)
				op.Advance(45 * time.Minute)
			}
			before := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			w.AS.ResetRequests()
			fault.Armed.Store(1)
			if err := op.ReconcileClient(cart); err == nil {
				t.Fatal("the failed write of the Secret caused no error")
			}
			operator.Eventually(t, func() error { return op.ReconcileClient(cart) }) // the cache may have to catch up
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			got := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			if got == "" || got == before {
				t.Error("the fresh token is not in the Secret")
			}
			if sent := w.TheRequest(); sent.TokenHash != oidc.Hash(got) {
				t.Error("the token in the Secret is not the one that was issued")
			}

			// The next refresh starts from a clean state.
			op.Advance(45 * time.Minute)
			op.Settle(w.Payments, w.Shop)
			if n := len(w.AS.TokenRequests()); n != 2 {
				t.Errorf("%d token requests were sent by the next refresh, want 2 in all", n)
			}
			if next := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); next == got {
				t.Error("the next refresh did not replace the token")
			}
		})
	}
}

// TestAnEditedLabelMintsNothing edits a label of the credentials' Secret between two
// operators. Only its resourceVersion changes.
func TestAnEditedLabelMintsNothing(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	op.Stop()
	operator.Change(t, w.Secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Labels = map[string]string{"team": "shop"} })
	op = operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	w.TheRequest()
	operator.IsReady(t, cart)

	// The same while the operator runs.
	operator.Change(t, w.Secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Labels = nil })
	op.Settle(w.Payments, w.Shop)
	w.TheRequest()
}
