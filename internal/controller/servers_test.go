// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"container/heap"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// turnstile is the admission to token endpoints alone, on a clock of its own.
type turnstile struct {
	*servers
	t     *testing.T
	clock *clocktesting.FakePassiveClock
	start time.Time
}

func newTurnstile(t *testing.T, workers int) *turnstile {
	t.Helper()
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock := clocktesting.NewFakePassiveClock(start)
	o := Options{Workers: workers, Clock: clock}
	o.setDefaults()
	return &turnstile{servers: newServers(o, nil, nil), t: t, clock: clock, start: start}
}

// admit is what is said at once.
func (s *turnstile) admit(srv *server, n need) (time.Duration, *problem) {
	wait, p, _ := s.ask(srv, n)
	return wait, p
}

// at sets the clock to so long after the start.
func (s *turnstile) at(d time.Duration) { s.clock.SetTime(s.start.Add(d)) }

// serverOf returns a server of a budget; 0 is the default.
func serverOf(name string, perSecond, burst int32) *server {
	o := &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec:       v1alpha1.AuthorizationServerSpec{Requests: v1alpha1.RequestBudget{PerSecond: perSecond, Burst: burst}},
	}
	return &server{key: keyOfObject(o), object: o, spec: specOf(o), status: statusOf(o)}
}

// newcomer is a client without a token.
func newcomer(who types.UID) need { return need{asker: asker{client: who}} }

// admitted asks for a client that is to be let through, and returns its wait
// otherwise.
func (s *turnstile) admitted(srv *server, who types.UID) {
	s.t.Helper()
	if wait, p := s.admit(srv, newcomer(who)); p != nil {
		s.t.Fatalf("%s is to wait %s: %s", who, wait, p.message)
	}
}

// waits asks for a client that is to wait, and returns for how long.
func (s *turnstile) waits(srv *server, who types.UID, reason string) time.Duration {
	s.t.Helper()
	wait, p := s.admit(srv, newcomer(who))
	if p == nil {
		s.t.Fatalf("%s was let through", who)
	}
	if p.reason != reason {
		s.t.Fatalf("%s waits for %s, want %s", who, p.reason, reason)
	}
	if wait <= 0 {
		s.t.Fatalf("%s is to ask again after %s, which is a hot loop", who, wait)
	}
	return wait
}

// asking is when a client asks next, or when its request is answered.
type asking struct {
	at   time.Duration
	who  types.UID
	done bool
}

type agenda []asking

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(asking)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// TestBudgetHoldsForManyClients lets many clients come at once, and each come
// again when it was told to: in no window are more let through than the rate
// and the burst allow, and all get through in the time that the rate needs.
func TestBudgetHoldsForManyClients(t *testing.T) {
	for name, tc := range map[string]struct {
		perSecond, burst int32
		rate, most       int // what must hold
		clients          int
		takes            time.Duration // a request
	}{
		"the default budget":                        {rate: 100, most: 100, clients: 1000, takes: 20 * time.Millisecond},
		"a burst that is smaller than the rate":     {perSecond: 100, burst: 1, rate: 100, most: 1, clients: 1000, takes: 5 * time.Millisecond},
		"a burst that is larger than the rate":      {perSecond: 5, burst: 40, rate: 5, most: 40, clients: 300, takes: 50 * time.Millisecond},
		"one per second":                            {perSecond: 1, burst: 1, rate: 1, most: 1, clients: 60, takes: 10 * time.Millisecond},
		"a server that is slower than its budget":   {perSecond: 1000, rate: 1000, most: 1000, clients: 200, takes: time.Second},
		"more clients than a limiter could promise": {perSecond: 10, burst: 10, rate: 10, most: 10, clients: 3000, takes: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s, srv := newTurnstile(t, 20), serverOf("auth", tc.perSecond, tc.burst)
			var a agenda
			for i := range tc.clients {
				heap.Push(&a, asking{0, types.UID(fmt.Sprintf("client-%d", i)), false})
			}
			var through []time.Duration
			asked := map[types.UID]int{}
			for inFlight := 0; a.Len() > 0; {
				next := heap.Pop(&a).(asking)
				s.at(next.at)
				if next.done {
					inFlight--
					s.done(srv, true, 0)
					continue
				}
				asked[next.who]++
				wait, p := s.admit(srv, newcomer(next.who))
				if p != nil {
					heap.Push(&a, asking{next.at + max(wait, time.Millisecond), next.who, false})
					continue
				}
				if inFlight++; inFlight > s.inFlightMax {
					t.Fatalf("%d requests are under way at once, want at most %d", inFlight, s.inFlightMax)
				}
				through = append(through, next.at)
				heap.Push(&a, asking{next.at + tc.takes, next.who, true})
			}
			if len(through) != tc.clients {
				t.Fatalf("%d requests were let through for %d clients", len(through), tc.clients)
			}
			first := 0
			for last := range through { // in every window of ten seconds
				for through[last]-through[first] > 10*time.Second {
					first++
				}
				window := (through[last] - through[first]).Seconds()
				if n, most := last-first+1, int(window*float64(tc.rate))+tc.most+1; n > most {
					t.Fatalf("%d requests were let through within %.2f s, want at most %d", n, window, most)
				}
			}
			ideal := max(float64(tc.clients-tc.most)/float64(tc.rate), float64(tc.clients)/float64(s.inFlightMax)*tc.takes.Seconds())
			if took := through[len(through)-1].Seconds(); took > 1.5*ideal+1 {
				t.Errorf("the last client got through after %.1f s, where %.1f s are enough", took, ideal)
			}
			if left := len(s.runtime(srv.object).turns.line); left != 0 {
				t.Errorf("%d turns are left over", left)
			}
		})
	}
}

func TestAClientKeepsItsTurn(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 1, 1)
	s.admitted(srv, "first")
	s.done(srv, true, 0)
	if wait := s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget); wait != time.Second {
		t.Errorf("the second client waits %s, want 1s", wait)
	}
	// It comes back early, as an event may have it: its turn stays what it was.
	for range 5 {
		s.at(400 * time.Millisecond)
		if wait := s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget); wait != 600*time.Millisecond {
			t.Errorf("the second client, early, waits %s, want 600ms", wait)
		}
	}
	if wait := s.waits(srv, "third", v1alpha1.ReasonWaitingForBudget); wait != 1600*time.Millisecond {
		t.Errorf("the third client waits %s, want 1.6s: the second came back and took no second turn", wait)
	}
	s.at(time.Second)
	s.admitted(srv, "second")
	s.at(2 * time.Second)
	s.admitted(srv, "third")
}

// A turn taken late pushes the next one back: the budget bounds what is sent.
func TestALateTurnPushesTheNextOneBack(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 1, 1)
	s.admitted(srv, "first")
	s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget)
	s.waits(srv, "third", v1alpha1.ReasonWaitingForBudget)
	s.at(1500 * time.Millisecond)
	s.admitted(srv, "second")
	s.at(2 * time.Second)
	if wait := s.waits(srv, "third", v1alpha1.ReasonWaitingForBudget); wait != 500*time.Millisecond {
		t.Errorf("the third client waits %s, want 500ms", wait)
	}
	s.at(2500 * time.Millisecond)
	s.admitted(srv, "third")
}

func TestATurnThatIsNotTakenLapses(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 1, 1)
	s.admitted(srv, "first")
	s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget)
	s.at(time.Second + turnSlack + time.Nanosecond)
	s.admitted(srv, "third")
	// The second could have come long ago; now it waits for what comes next.
	if wait := s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget); wait != time.Second {
		t.Errorf("the second client waits %s, want 1s", wait)
	}
}

func TestADeletedClientLeavesEveryQueue(t *testing.T) {
	s, one, other := newTurnstile(t, 20), serverOf("one", 1, 1), serverOf("other", 1, 1)
	for _, srv := range []*server{one, other} {
		s.admitted(srv, "first")
		s.waits(srv, "second", v1alpha1.ReasonWaitingForBudget)
	}
	s.leave("second")
	for _, srv := range []*server{one, other} {
		if n := len(s.runtime(srv.object).turns.line); n != 0 {
			t.Errorf("%d turns are left at server %q", n, srv.key.name)
		}
	}
}

func TestAnOutageDropsTurns(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 1, 5)
	for i := range breakerThreshold {
		s.admitted(srv, types.UID(fmt.Sprint(i)))
	}
	s.waits(srv, "late", v1alpha1.ReasonWaitingForBudget)
	for range breakerThreshold {
		s.done(srv, false, 0)
	}
	s.at(time.Second - time.Millisecond)
	if wait := s.waits(srv, "late", v1alpha1.ReasonWaitingForBudget); wait != time.Millisecond {
		t.Errorf("the late client waits %s, want 1ms", wait)
	}
	s.done(srv, false, 30*time.Second)
	s.at(2 * time.Second)
	// At its turn it meets the open breaker: the turn is over, and it is not to
	// come back before the server may be asked.
	if wait := s.waits(srv, "late", v1alpha1.ReasonAuthorizationServerUnavailable); wait < 28*time.Second || wait > 30*time.Second {
		t.Errorf("the late client waits %s, want from 28 to 30 s", wait)
	}
	if n := len(s.runtime(srv.object).turns.line); n != 0 {
		t.Errorf("%d turns are left", n)
	}
}

func TestOneClientAtATimeTriesADownServer(t *testing.T) {
	s, srv := newTurnstile(t, 200), serverOf("auth", 1000, 0)
	for i := range breakerThreshold {
		s.admitted(srv, types.UID(fmt.Sprint(i)))
	}
	for range breakerThreshold {
		s.done(srv, false, 0)
	}
	probes := 0
	for i := range 120 { // two minutes, 200 clients asking every second
		s.at(time.Duration(i+1) * time.Second)
		let := 0
		for c := range 200 {
			if _, p := s.admit(srv, newcomer(types.UID(fmt.Sprint(c)))); p == nil {
				let++
			}
		}
		if let > 1 {
			t.Fatalf("%d clients were let through to a server that is down", let)
		}
		if let == 1 {
			probes++
			s.done(srv, false, 0)
		}
	}
	if probes < 5 || probes > 9 { // after 1, 2, 4, 8, 16, 30, 30, … seconds
		t.Errorf("%d probes were sent in two minutes, want 5 to 9", probes)
	}

	s.at(time.Hour)
	s.admitted(srv, "probe")
	s.waits(srv, "other", v1alpha1.ReasonAuthorizationServerUnavailable)
	s.done(srv, true, 0)
	s.admitted(srv, "other")
}

// TestAProbeThatIsNotSentIsPassedOn: a client whose credentials turn out
// unusable after it was let through must not keep others from trying.
func TestAProbeThatIsNotSentIsPassedOn(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 0, 0)
	for range breakerThreshold {
		s.admitted(srv, "any")
		s.done(srv, false, 0)
	}
	s.at(time.Minute)
	s.admitted(srv, "without credentials")
	s.waits(srv, "other", v1alpha1.ReasonAuthorizationServerUnavailable)
	s.abandon(srv)
	s.admitted(srv, "other")
}

func TestAHangingServerLeavesWorkersForOthers(t *testing.T) {
	s, hanging, other := newTurnstile(t, 20), serverOf("hanging", 1000, 0), serverOf("other", 1000, 0)
	for i := range 10 {
		s.admitted(hanging, types.UID(fmt.Sprintf("client-%d", i)))
	}
	if wait := s.waits(hanging, "client-10", v1alpha1.ReasonWaitingForBudget); wait > time.Second {
		t.Errorf("the eleventh client is to wait %s, want less than a second", wait)
	}
	s.admitted(other, "client-11")
	s.done(hanging, false, 0)
	s.admitted(hanging, "client-10")
	s.abandon(hanging)
	s.admitted(hanging, "client-12")
	s.waits(hanging, "client-13", v1alpha1.ReasonWaitingForBudget)
}

// TestAWorkerWaitsForAPlaceAtAQuickServer has an eleventh client come while ten
// requests are under way and others end all the time.
func TestAWorkerWaitsForAPlaceAtAQuickServer(t *testing.T) {
	filled := func(t *testing.T) (*turnstile, *server) {
		s, quick := newTurnstile(t, 20), serverOf("quick", 1000, 0)
		s.admitted(quick, "client-0")
		s.done(quick, true, 0)
		for i := range 10 {
			s.admitted(quick, types.UID(fmt.Sprintf("client-%d", i)))
		}
		for len(s.runtime(quick.object).freed) > 0 {
			<-s.runtime(quick.object).freed
		}
		return s, quick
	}
	type answer struct {
		wait time.Duration
		p    *problem
	}
	asks := func(t *testing.T, s *turnstile, srv *server) <-chan answer {
		answers := make(chan answer, 1)
		go func() {
			wait, p := s.servers.admit(t.Context(), srv, newcomer("client-10"))
			answers <- answer{wait, p}
		}()
		return answers
	}
	t.Run("it gets the next one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick := filled(t)
			answers := asks(t, s, quick)
			synctest.Wait()
			select {
			case a := <-answers:
				t.Fatalf("it is to ask again after %s, want it to wait", a.wait)
			default:
			}
			s.done(quick, true, 0)
			if a := <-answers; a.p != nil {
				t.Errorf("it is to wait %s: %s", a.wait, a.p.message)
			}
		})
	})
	t.Run("it does not wait for long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick := filled(t)
			started := time.Now()
			if a := <-asks(t, s, quick); a.p == nil || a.wait <= 0 {
				t.Error("an eleventh request was let through")
			}
			if took := time.Since(started); took != turnover {
				t.Errorf("it held a worker up for %s, want %s", took, turnover)
			}
		})
	})
	t.Run("where none ends it does not wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick := filled(t)
			s.at(turnover)
			started := time.Now()
			if a := <-asks(t, s, quick); a.p == nil {
				t.Error("an eleventh request was let through")
			}
			if took := time.Since(started); took != 0 {
				t.Errorf("it held a worker up for %s", took)
			}
		})
	})
}

func TestOneWorkerIsEnoughToAsk(t *testing.T) {
	s, srv := newTurnstile(t, 1), serverOf("auth", 0, 0)
	s.admitted(srv, "client")
	s.waits(srv, "other", v1alpha1.ReasonWaitingForBudget)
}

func TestRetryAfterIsHonoured(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("auth", 0, 0)
	s.admitted(srv, "first")
	s.done(srv, false, time.Minute)
	s.at(30 * time.Second)
	if wait := s.waits(srv, "second", v1alpha1.ReasonAuthorizationServerUnavailable); wait < 30*time.Second || wait > 31*time.Second {
		t.Errorf("the second client waits %s, want 30 to 31 s", wait)
	}
	s.at(time.Minute)
	s.admitted(srv, "second")
}

func TestAChangedBudgetCountsAtOnce(t *testing.T) {
	s := newTurnstile(t, 200)
	narrow, wide := serverOf("auth", 1, 1), serverOf("auth", 100, 100)
	s.admitted(narrow, "first")
	s.waits(narrow, "second", v1alpha1.ReasonWaitingForBudget)
	s.at(2 * time.Second)
	s.admitted(wide, "second")
	for i := range 50 {
		s.at(2*time.Second + time.Duration(i+1)*10*time.Millisecond)
		s.admitted(wide, types.UID(fmt.Sprint(i)))
	}
}

func TestAServerWithoutABudgetHasTheDefaultOne(t *testing.T) {
	o := Options{Workers: 200, Clock: clocktesting.NewFakePassiveClock(turnsStart), RequestsPerSecond: 3}
	o.setDefaults()
	s := &turnstile{servers: newServers(o, nil, nil), t: t}
	for name, tc := range map[string]struct{ perSecond, burst, want int32 }{
		"none": {0, 0, 3}, "its own": {7, 0, 7}, "a burst of its own": {7, 2, 2},
	} {
		srv := serverOf(name, tc.perSecond, tc.burst)
		for i := range tc.want {
			s.admitted(srv, types.UID(fmt.Sprint(i)))
		}
		s.waits(srv, "another", v1alpha1.ReasonWaitingForBudget)
	}
}

func TestAnotherServerOfTheSameNameStartsAfresh(t *testing.T) {
	s, before, after := newTurnstile(t, 2), serverOf("auth", 1, 1), serverOf("auth", 1, 1)
	after.object.SetUID("another")
	s.admitted(before, "first")
	s.waits(before, "second", v1alpha1.ReasonWaitingForBudget)
	s.admitted(after, "second")
	s.done(before, false, time.Hour) // late news of the former one's
	s.waits(after, "third", v1alpha1.ReasonWaitingForBudget)
	s.forget(after.key)
	s.admitted(after, "third")
}
