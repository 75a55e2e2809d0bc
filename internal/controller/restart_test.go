// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// settleServers settles the story's servers and APIs, and no client.
func (op *operator) settleServers(w *world) {
	op.t.Helper()
	for _, ns := range []string{w.payments, w.shop} {
		name := types.NamespacedName{Namespace: ns, Name: "auth"}
		if _, err := op.server[0].Reconcile(op.t.Context(), reconcile.Request{NamespacedName: name}); err != nil {
			op.t.Fatal(err)
		}
	}
	api := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: w.payments, Name: "payment-api"}}
	if _, err := op.resource.Reconcile(op.t.Context(), api); err != nil {
		op.t.Fatal(err)
	}
}

// reconcileClient reconciles one client of a stepped operator.
func (op *operator) reconcileClient(c *v1alpha1.M2MClient) error {
	_, err := op.reconcilers.client.Reconcile(op.t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c)})
	return err
}

// breakdown stands between the operator and the API server, and lets one request
// fail.
type breakdown struct {
	next   http.RoundTripper
	method string
	path   string       // how the path of the request ends
	armed  atomic.Int32 // how many requests are to fail
	met    chan struct{}
	// answer fails the request; it may carry it out first.
	answer func(*http.Request, http.RoundTripper) (*http.Response, error)
}

// broken returns a connection on which the next requests fail.
func broken(method, path string, times int32, answer func(*http.Request, http.RoundTripper) (*http.Response, error)) (*rest.Config, *breakdown) {
	b := &breakdown{method: method, path: path, met: make(chan struct{}, 16), answer: answer}
	b.armed.Store(times)
	cfg := rest.CopyConfig(restConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		b.next = next
		return b
	})
	return cfg, b
}

func (b *breakdown) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != b.method || !strings.HasSuffix(req.URL.Path, b.path) || b.armed.Add(-1) < 0 {
		return b.next.RoundTrip(req)
	}
	b.met <- struct{}{}
	return b.answer(req, b.next)
}

// status answers as an API server does that refuses.
func status(code int, reason string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	return func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
		return &http.Response{
			StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
			Body: io.NopCloser(bytes.NewBufferString(body)), ContentLength: int64(len(body)),
		}, nil
	}
}

// hang answers never, as long as the operator lives.
func hang(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// lost carries the request out and loses the answer.
func lost(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	resp, err := next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the connection broke: %w", resp.Body.Close())
}

// TestARestartCostsNothing starts the operator anew beside a hundred clients
// whose tokens are good.
func TestARestartCostsNothing(t *testing.T) {
	const clients = 100
	w := newWorld(t)
	w.story()
	for i := range clients - 1 {
		c := w.cart()
		c.Name = fmt.Sprintf("cart-%02d", i)
		create(t, c)
	}
	op := startOperator(t)
	ready := func() error {
		var list v1alpha1.M2MClientList
		if err := kube.List(t.Context(), &list, client.InNamespace(w.shop)); err != nil {
			return err
		}
		n := 0
		for i := range list.Items {
			if hasToken(&list.Items[i]) {
				n++
			}
		}
		if n != clients {
			return fmt.Errorf("%d of %d clients are ready", n, clients)
		}
		return idle(t, everyController...)
	}
	eventually(t, ready)
	op.stop()
	if n := len(w.as.TokenRequests()); n != clients {
		t.Fatalf("%d token requests were sent for %d clients", n, clients)
	}
	w.as.ResetRequests()

	seen := map[string]int{}
	for _, c := range everyController {
		seen[c] = reconciled(t, c)
	}
	op = startOperator(t)
	eventually(t, func() error {
		for c, least := range map[string]int{"authorizationserver": 2, "apiresource": 1, "m2mclient": clients} {
			if n := reconciled(t, c) - seen[c]; n < least {
				return fmt.Errorf("controller %s has reconciled %d of %d", c, n, least)
			}
		}
		return ready()
	})
	if n := len(w.as.TokenRequests()); n != 0 {
		t.Errorf("a restart sent %d token requests", n)
	}
	if diff := cmp.Diff([]string{}, op.requests.writes()); diff != "" {
		t.Errorf("a restart wrote (-want +got):\n%s", diff)
	}
	// What a cache lists and watches has a query. Beyond that nothing is read,
	// neither a client's Secret nor its credentials.
	if diff := cmp.Diff([]string{}, slices.DeleteFunc(op.requests.reads(), func(r string) bool {
		return strings.HasPrefix(r, "GET api") // the API server's groups and kinds
	})); diff != "" {
		t.Errorf("a restart read (-want +got):\n%s", diff)
	}
	op.requests.mu.Lock()
	defer op.requests.mu.Unlock()
	if n := len(op.requests.all); n > 60 {
		t.Errorf("a restart with %d clients cost %d requests; they must not grow with the clients", clients, n)
	}
}

// TestKilledBeforeTheStatusIsWritten: the token is in the Secret and the status
// says nothing of it. The next operator completes the status, and mints nothing.
func TestKilledBeforeTheStatusIsWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		stepsBefore int // 1: the status of the first token is lost; 2: that of its successor
		answer      func(*http.Request, http.RoundTripper) (*http.Response, error)
	}{
		"the API server fails, first token":   {1, status(http.StatusInternalServerError, "InternalError")},
		"the API server fails, second token":  {2, status(http.StatusInternalServerError, "InternalError")},
		"the write hangs until it is killed":  {1, hang},
		"the write hangs at the second token": {2, hang},
		"the answer to the write is lost":     {2, lost},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, cart := w.story()
			cfg, fault := broken(http.MethodPatch, "/m2mclients/cart/status", 0, tc.answer)
			op := startSteppedOver(t, cfg)
			if tc.stepsBefore == 2 {
				op.settle(w.payments, w.shop)
				isReady(t, cart)
				op.advance(45 * time.Minute)
			} else {
				op.settleServers(w)
			}
			w.as.ResetRequests()
			fault.armed.Store(1)
			killed := make(chan error, 1)
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			go func() {
				_, err := op.reconcilers.client.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cart)})
				killed <- err
			}()
			<-fault.met
			kill()
			if err := <-killed; err == nil {
				t.Error("the failed status write is no error")
			}
			w.theRequest()
			published := tokenIn(t, w.shop, "cart-token", "payment-api")
			if published == "" {
				t.Fatal("the Secret was not written before the status")
			}
			now := op.clock.Now()
			op.stop()

			next := startStepped(t, func(o *Options) { o.Clock = clocktesting.NewFakePassiveClock(now) })
			next.settle(w.payments, w.shop)
			w.theRequest()
			isReady(t, cart)
			if got := tokenIn(t, w.shop, "cart-token", "payment-api"); got != published {
				t.Error("the next operator replaced the token")
			}
			if issued := cart.Status.Tokens[0].IssuedAt; !issued.Time.Equal(now) {
				t.Errorf("the status says that the token was issued at %v, want %v", issued, now)
			}
			for _, r := range next.requests.writes() {
				if r != "PATCH m2mclients/status" {
					t.Errorf("the next operator sent %s", r)
				}
			}
		})
	}
}

// TestAFailedSecretWriteKeepsTheToken: a token that was issued and could not be
// stored is stored with the next attempt; no other is asked for.
func TestAFailedSecretWriteKeepsTheToken(t *testing.T) {
	edit := func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		// Somebody else is faster, so that the API server itself refuses.
		parts := strings.Split(req.URL.Path, "/")
		s := &corev1.Secret{}
		name := client.ObjectKey{Namespace: parts[len(parts)-3], Name: parts[len(parts)-1]}
		if err := kube.Get(req.Context(), name, s); err != nil {
			return nil, err
		}
		s.Labels["edited"] = "by-somebody"
		if err := kube.Update(req.Context(), s); err != nil {
			return nil, err
		}
		return next.RoundTrip(req)
	}
	for name, tc := range map[string]struct {
		first  bool // the write creates the Secret
		answer func(*http.Request, http.RoundTripper) (*http.Response, error)
	}{
		"conflict with another writer":         {false, edit},
		"conflict on update":                   {false, status(http.StatusConflict, "Conflict")},
		"server error on update":               {false, status(http.StatusInternalServerError, "InternalError")},
		"server error on creation":             {true, status(http.StatusInternalServerError, "InternalError")},
		"already exists, says a stale replica": {true, status(http.StatusConflict, "AlreadyExists")},
		"answer to an update is lost":          {false, lost},
		"answer to a creation is lost":         {true, lost},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
			w := newWorld(t, func(o *oidc.Options) { o.Now = clock.Now })
			_, cart := w.story()
			method, path := http.MethodPut, "/secrets/cart-token"
			if tc.first {
				method, path = http.MethodPost, "/"+w.shop+"/secrets"
			}
			cfg, fault := broken(method, path, 0, tc.answer)
			op := startSteppedOver(t, cfg, func(o *Options) { o.Clock = clock })
			op.clock = clock
			op.settleServers(w)
			if !tc.first {
				op.settle(w.payments, w.shop)
				isReady(t, cart)
				op.advance(45 * time.Minute)
			}
			before := tokenIn(t, w.shop, "cart-token", "payment-api")
			w.as.ResetRequests()
			fault.armed.Store(1)
			if err := op.reconcileClient(cart); err == nil {
				t.Fatal("the failed write of the Secret is no error")
			}
			eventually(t, func() error { return op.reconcileClient(cart) }) // the cache may have to catch up
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			got := tokenIn(t, w.shop, "cart-token", "payment-api")
			if got == "" || got == before {
				t.Error("the fresh token is not in the Secret")
			}
			if sent := w.theRequest(); sent.TokenHash != oidc.Hash(got) {
				t.Error("the token in the Secret is not the one that was issued")
			}

			// Nothing of it is left over for the next refresh.
			op.advance(45 * time.Minute)
			op.settle(w.payments, w.shop)
			if n := len(w.as.TokenRequests()); n != 2 {
				t.Errorf("%d token requests were sent by the next refresh, want 2 in all", n)
			}
			if next := tokenIn(t, w.shop, "cart-token", "payment-api"); next == got {
				t.Error("the next refresh did not replace the token")
			}
		})
	}
}

// TestAnEditedLabelMintsNothing: between two operators somebody labels the
// credentials' Secret, which changes its resourceVersion and nothing else.
func TestAnEditedLabelMintsNothing(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	op := startStepped(t)
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	op.stop()
	change(t, w.secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Labels = map[string]string{"team": "shop"} })
	op = startStepped(t)
	op.settle(w.payments, w.shop)
	w.theRequest()
	isReady(t, cart)

	// And while the operator runs.
	change(t, w.secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Labels = nil })
	op.settle(w.payments, w.shop)
	w.theRequest()
}
