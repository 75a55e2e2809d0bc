// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestNoStampede: 200 clients send requests at once to a server with ten faults, each for
// another tenth of the requests. The test counts what arrives when the server recovers.
func TestNoStampede(t *testing.T) {
	const clients, perSecond, burst = 200, 40, 40
	w := operator.NewWorld(t)
	// The first ten faults have no five failures in a row that would open the breaker
	// before all of them are met.
	faults := []*oidc.Fault{
		operator.Answer(500, ""),
		operator.Answer(503, `{"error":"temporarily_unavailable"}`),
		{Delay: 300 * time.Millisecond, Status: 504},
		operator.Answer(401, `{"error":"invalid_client"}`),
		{Cut: true, Status: 502, Body: `{"error":"server_error"}`},
		{Malformed: true},
		{Empty: true},
		{Redirect: "https://elsewhere.example.com/"},
		{Hang: true},
		operator.AskLater("2"),
	}
	// Each request meets the next fault, so ten requests meet all of them. The breaker
	// decides how many are sent.
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
		w.AS.AddFault(oidc.Token, f)
	}
	server := w.Server(w.Shop)
	server.Spec.Requests = v1alpha1.RequestBudget{PerSecond: perSecond, Burst: burst}
	operator.Create(t, w.Server(w.Payments), server, w.API())
	for i := range clients {
		w.Another(fmt.Sprintf("client-%d", i))
	}

	op := operator.Start(t)
	// If the first failures arrive in another order, the breaker opens before all faults are
	// met, and its probes meet the rest.
	kubetest.Within(t, 2*time.Minute, func() error {
		for i := range met {
			if !met[i].Load() {
				return fmt.Errorf("no request met the fault %d", i)
			}
		}
		return nil
	})
	recovered := time.Now()
	w.AS.ClearFaults()
	var ready int
	for last := recovered; ready < clients && time.Since(last) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if n := countReady(t, op, w.Shop); n > ready {
			ready, last = n, time.Now()
		}
	}
	if ready != clients {
		t.Fatalf("%d of %d clients recovered", ready, clients)
	}

	var at []time.Time
	issued := map[string]int{}
	for _, r := range w.AS.TokenRequests() {
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

// busiest returns the largest number of times within a window.
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

func countReady(t *testing.T, op *operator.Operator, namespace string) (ready int) {
	t.Helper()
	var list v1alpha1.M2MClientList
	err := op.Client.List(t.Context(), &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, v1alpha1.ConditionReady) {
			ready++
		}
	}
	return ready
}
