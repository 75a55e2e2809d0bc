// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// fastClock runs by itself: at the real pace, and faster while a caller waits for it.
// Requeued objects wait by the real clock, so they come later by this one than they
// should, never sooner.
type fastClock struct {
	*clocktesting.FakeClock
	pace atomic.Int64 // while a caller waits
}

const (
	fastPace = 12
	realPace = 1
)

func startFastClock(t *testing.T) *fastClock {
	t.Helper()
	c := &fastClock{FakeClock: clocktesting.NewFakeClock(time.Now().Truncate(time.Second))}
	c.pace.Store(fastPace)
	done := make(chan struct{})
	var stopped sync.WaitGroup
	stopped.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-done:
				return
			case now := <-tick.C:
				// Do not leap after a moment without a processor.
				elapsed := min(now.Sub(last), 5*time.Millisecond)
				last = now
				if c.HasWaiters() {
					elapsed *= time.Duration(c.pace.Load())
				}
				c.Step(elapsed)
			}
		}
	})
	t.Cleanup(func() { close(done); stopped.Wait() })
	return c
}

// arrivals are the times, by the operator's clock, of the requests to a server that
// count against its budget.
type arrivals struct {
	mu sync.Mutex
	at []time.Time
}

func (a *arrivals) recordingOf(l *logtotest.Server, now func() time.Time) {
	l.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/oidc/token" {
			a.mu.Lock()
			a.at = append(a.at, now())
			a.mu.Unlock()
		}
		return logtotest.Fault{}
	})
}

func (a *arrivals) all() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.at)
}

// TestManyClientsKeepTheBudget creates 250 clients at once at a server that allows 20
// requests per second. The budget holds, the clients become ready one after the other
// at a steady rate, nothing exists twice, and an older client still gets its token in
// time. A client costs eleven requests, so the clients fill the longest window that is
// checked, and the rates are those of any greater number.
func TestManyClientsKeepTheBudget(t *testing.T) {
	const clients, perSecond, burst = 250, 20, 20
	start := time.Now()
	clock := startFastClock(t)
	l, err := logtotest.Start(logtotest.WithHTTP(), logtotest.WithSecretPrefix(operator.Sentinel), logtotest.WithClock(clock.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	w := &operator.Tenant{T: t, Logto: l, Shop: operator.NewNamespace(t, "shop", nil), Payments: operator.NewNamespace(t, "payments", nil)}
	t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operator.Namespace}}
	if err := operator.Kube.Create(t.Context(), system); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	as, api, early := w.Server(), w.API(), w.Cart()
	as.Spec.Requests = v1alpha1.RequestBudget{PerSecond: perSecond, Burst: burst}
	as.Spec.Provisioning.ResyncInterval = "1h"
	op := operator.Start(t, func(o *controller.Options) { o.Clock = clock })
	operator.Create(t, w.Management(), as, api, early)
	operator.IsReady(t, early)

	l.ResetRequests()
	var came arrivals
	came.recordingOf(l, clock.Now)
	began := clock.Now()
	names := crowdOf(w, clients)
	t.Logf("%d clients were created after %.1f s", clients, time.Since(start).Seconds())
	readyAt := map[string]time.Duration{}
	refreshed := []time.Duration{}
	// About 20 s on an idle machine with 2 cores.
	deadline := time.Now().Add(4 * time.Minute)
	for len(readyAt) < clients {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d clients are ready after %s of the clock", len(readyAt), clients, clock.Since(began))
		}
		for name := range readyClients(w, op) {
			if _, ok := readyAt[name]; !ok && names[name] {
				readyAt[name] = clock.Since(began)
			}
		}
		// A token is lost in the middle of each fifth.
		if n := len(refreshed); n < 5 && len(readyAt) >= clients*n/5+clients/10 {
			clock.pace.Store(realPace)
			refreshed = append(refreshed, refreshes(w, clock))
			clock.pace.Store(fastPace)
		}
		time.Sleep(150 * time.Millisecond)
	}
	took := clock.Since(began)
	op.Stop()

	// The budget limits what the operator sends, but the server sees what arrives. In
	// any interval, that is what was sent in it, and what was in flight when it began.
	// Half of the 20 workers may be busy with provisioning, and half with tokens.
	const underWay = 10 + 10
	at := came.all()
	if span := at[len(at)-1].Sub(at[0]); span < 60*time.Second {
		t.Errorf("the requests came within %s, which is less than the longest window", span)
	}
	for _, seconds := range []int{1, 10, 60} {
		if n := busiest(at, time.Duration(seconds)*time.Second); n > burst+seconds*perSecond+underWay {
			t.Errorf("%d requests within %d s of the operator's clock; the budget is %d/s and %d at once", n, seconds, perSecond, burst)
		}
	}
	order := slices.Sorted(maps.Values(readyAt))
	previous := time.Duration(0)
	var fifths []string
	for i := 1; i <= 5; i++ {
		end := order[clients*i/5-1]
		share := float64(end-previous) / float64(took)
		fifths = append(fifths, fmt.Sprintf("%.0f%%", 100*share))
		if share < .1 || share > .35 {
			t.Errorf("number %d of the five parts of the clients took %.0f%% of the time", i, 100*share)
		}
		previous = end
	}
	for _, d := range refreshed {
		if d > 3*time.Second {
			t.Errorf("a lost token was replaced after %s while others were provisioned", d)
		}
	}
	onceEach(w, clients+1)
	total := countRequests(w, clients)
	t.Logf("%d clients: %d requests, %.2f each; %.0f s of the operator's clock, %.1f requests per second (budget %d); the fifths took %s of it; lost tokens were replaced after %s; %.0f s by the real clock",
		clients, total, float64(total)/clients, took.Seconds(), float64(total)/took.Seconds(), perSecond, strings.Join(fifths, " "), refreshed, time.Since(start).Seconds())
}

// crowdOf creates many clients, and returns their names.
func crowdOf(w *operator.Tenant, n int) map[string]bool {
	w.T.Helper()
	names := map[string]bool{}
	g, ctx := errgroup.WithContext(w.T.Context())
	g.SetLimit(16)
	for i := range n {
		c := w.Cart()
		c.Name = fmt.Sprintf("cart-%03d", i)
		names[c.Name] = true
		g.Go(func() error { return operator.Kube.Create(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		w.T.Fatal(err)
	}
	return names
}

// readyClients returns the names of the clients that are ready, as the operator's cache has
// them: to ask the API server for all of them again and again costs more than what is tested.
func readyClients(w *operator.Tenant, op *operator.Operator) map[string]bool {
	w.T.Helper()
	var list v1alpha1.M2MClientList
	err := op.Client.List(w.T.Context(), &list, client.InNamespace(w.Shop), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		w.T.Fatal(err)
	}
	ready := map[string]bool{}
	for i := range list.Items {
		if operator.HasToken(&list.Items[i]) {
			ready[list.Items[i].Name] = true
		}
	}
	return ready
}

// refreshes removes the cart's token, and returns the time until it has another, by
// the operator's clock.
func refreshes(w *operator.Tenant, clock *fastClock) time.Duration {
	w.T.Helper()
	operator.Change(w.T, tokenSecretOf(w), func(s *corev1.Secret) { delete(s.Data, "payment-api") })
	lost := clock.Now()
	operator.Eventually(w.T, func() error {
		if operator.TokenIn(w.T, w.Shop, "cart-token", "payment-api") == "" {
			return fmt.Errorf("there is no new token after %s", clock.Since(lost))
		}
		return nil
	})
	return clock.Since(lost)
}

// onceEach checks that the server has each client once, with one role, one scope, and
// one secret.
func onceEach(w *operator.Tenant, clients int) {
	w.T.Helper()
	s := w.Logto.Snapshot()
	if len(s.Applications) != clients || len(s.Roles) != clients || len(s.Resources) != 1 {
		w.T.Errorf("there are %d applications, %d roles and %d APIs, want %d, %d and 1", len(s.Applications), len(s.Roles), len(s.Resources), clients, clients)
	}
	names := map[string]bool{}
	for _, a := range s.Applications {
		if names[a.Name] || len(a.Secrets) != 1 || len(a.Roles) != 1 {
			w.T.Errorf("application %q exists twice, or has the secrets %q and the roles %q", a.Name, a.Secrets, a.Roles)
		}
		names[a.Name] = true
	}
	for _, r := range s.Roles {
		for _, scopes := range r.Scopes {
			if !slices.Equal(scopes, []string{"payments:write"}) {
				w.T.Errorf("role %q has the scopes %q", r.Name, scopes)
			}
		}
		if len(r.Scopes) != 1 || len(r.Applications) != 1 {
			w.T.Errorf("role %q has scopes of %d APIs and %d applications", r.Name, len(r.Scopes), len(r.Applications))
		}
	}
}

// countRequests logs the cost of the clients, and checks it.
func countRequests(w *operator.Tenant, clients int) (total int) {
	w.T.Helper()
	counted := w.Logto.Requests()
	for _, pattern := range slices.Sorted(maps.Keys(counted)) {
		if strings.Contains(pattern, "jwks") || strings.Contains(pattern, "well-known") {
			continue
		}
		total += counted[pattern]
		w.T.Logf("%6d  %s", counted[pattern], pattern)
	}
	for _, pattern := range []string{
		"POST /api/applications", "POST /api/applications/{id}/secrets", "POST /api/roles", "POST /api/roles/{id}/scopes", "DELETE /api/applications/{id}/secrets/{name}",
	} {
		if counted[pattern] != clients {
			w.T.Errorf("%d times %s, want one for each of %d clients", counted[pattern], pattern, clients)
		}
	}
	return total
}

// tokenSecretOf is the Secret with cart's token.
func tokenSecretOf(w *operator.Tenant) *corev1.Secret {
	s := &corev1.Secret{}
	s.Name, s.Namespace = "cart-token", w.Shop
	return s
}
