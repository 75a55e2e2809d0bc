// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/oidctest"
)

// TestNoStampede has 200 clients ask a server that has ten faults at once, each
// for another tenth of the requests, and counts what comes to it when it recovers.
func TestNoStampede(t *testing.T) {
	const clients, perSecond, burst = 200, 40, 40
	w := newWorld(t)
	// No five in a row, of the first ten, have the breaker open before all are met.
	faults := []*oidctest.Fault{
		answer(500, ""),
		answer(503, `{"error":"temporarily_unavailable"}`),
		{Delay: 300 * time.Millisecond, Status: 504},
		answer(401, `{"error":"invalid_client"}`),
		{Cut: true, Status: 502, Body: `{"error":"server_error"}`},
		{Malformed: true},
		{Empty: true},
		{Redirect: "https://elsewhere.example.com/"},
		{Hang: true},
		askLater("2"),
	}
	// Each request meets the next fault, so that ten requests meet all: how many
	// are sent is the breaker's decision.
	var requests atomic.Int64
	var numbers sync.Map // request → number
	var met [10]atomic.Bool
	for i, f := range faults {
		f.Match = func(r *http.Request) bool {
			n, ok := numbers.Load(r)
			if !ok {
				n, _ = numbers.LoadOrStore(r, requests.Add(1)-1)
			}
			meets := n.(int64)%int64(len(faults)) == int64(i)
			if meets {
				met[i].Store(true)
			}
			return meets
		}
		w.as.AddFault(oidctest.Token, f)
	}
	server := w.server(w.shop)
	server.Spec.Requests = v1alpha1.RequestBudget{PerSecond: perSecond, Burst: burst}
	create(t, w.server(w.payments), server, w.api())
	for i := range clients {
		w.another(fmt.Sprintf("client-%d", i))
	}

	startOperator(t)
	eventually(t, func() error {
		for i := range met {
			if !met[i].Load() {
				return fmt.Errorf("nobody met the fault %d", i)
			}
		}
		return nil
	})
	recovered := time.Now()
	w.as.ClearFaults()
	var ready int
	for last := recovered; ready < clients && time.Since(last) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if n := countReady(t, w.shop); n > ready {
			ready, last = n, time.Now()
		}
	}
	if ready != clients {
		t.Fatalf("%d of %d clients recovered", ready, clients)
	}

	var at []time.Time
	issued := map[string]int{}
	for _, r := range w.as.TokenRequests() {
		if !r.At.Before(recovered) {
			at = append(at, r.At)
		}
		if r.TokenHash != "" { // which no fault's answer has
			issued[r.ClientID]++
		}
	}
	for id, n := range issued {
		if n != 1 {
			t.Errorf("%d tokens were issued to %s", n, id)
		}
	}
	if len(issued) != clients {
		t.Errorf("tokens were issued to %d clients, want %d", len(issued), clients)
	}
	// A request may reach the server a little later than it was sent.
	const slack = burst / 4
	for _, seconds := range []int{1, 2, 3} {
		if n := busiest(at, time.Duration(seconds)*time.Second); n > burst+seconds*perSecond+slack {
			t.Errorf("%d requests within %d s after the recovery; the budget is %d/s and %d at once", n, seconds, perSecond, burst)
		}
	}
}

// busiest returns the most moments that lie within a window of time.
func busiest(at []time.Time, window time.Duration) (most int) {
	slices.SortFunc(at, time.Time.Compare)
	first := 0
	for i := range at {
		for at[i].Sub(at[first]) > window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func countReady(t *testing.T, namespace string) (ready int) {
	t.Helper()
	var list v1alpha1.M2MClientList
	if err := kube.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, v1alpha1.ConditionReady) {
			ready++
		}
	}
	return ready
}

// TestBudgetHoldsForLateTurns: clients whose turn came while the server was
// slow do not all ask at once when it is fast again.
func TestBudgetHoldsForLateTurns(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	o := Options{Clock: clock}
	o.setDefaults()
	s := newServers(o, nil, nil)
	as := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "slow", UID: "1"}}
	as.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 40, Burst: 40}
	srv := &server{key: keyOfObject(as), object: as, spec: &as.Spec, status: &as.Status}
	waiting := map[types.UID]bool{}
	for i := range 200 {
		waiting[types.UID(strconv.Itoa(i))] = true
	}
	admitted := func(under int) (n int) {
		for who := range waiting {
			if _, p, _ := s.ask(srv, newcomer(who)); p == nil {
				delete(waiting, who)
				if n++; n > under {
					s.done(srv, true, 0)
				}
			}
		}
		return n
	}
	if n := admitted(0); n != 40 {
		t.Fatalf("%d requests at once, want the burst of 40", n)
	}
	// Now all have their turns, and the server becomes slow.
	clock.SetTime(clock.Now().Add(time.Second))
	under := admitted(s.inFlightMax)
	if under != s.inFlightMax {
		t.Fatalf("%d requests are under way, want %d", under, s.inFlightMax)
	}
	for range 10 {
		clock.SetTime(clock.Now().Add(time.Second))
		if n := admitted(0); n != 0 {
			t.Fatalf("%d more requests are under way", n)
		}
	}
	for range under {
		s.done(srv, true, 0)
	}
	if n := admitted(0); n != 40 {
		t.Errorf("%d requests at once, want the burst of 40", n)
	}
	for second := 1; len(waiting) > 0; second++ {
		if second > 60 {
			t.Fatalf("%d clients still wait", len(waiting))
		}
		clock.SetTime(clock.Now().Add(time.Second))
		if n := admitted(0); n > 40 {
			t.Errorf("%d requests in second %d, want at most 40", n, second)
		}
	}
}
