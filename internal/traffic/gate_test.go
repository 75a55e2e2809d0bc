// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"container/heap"
	"fmt"
	"testing"
	"time"
)

// turnstile is a gate with a clock of its own.
type turnstile struct {
	*Gate
	t   *testing.T
	now time.Time
}

func newTurnstile(t *testing.T, workers int) *turnstile {
	t.Helper()
	return &turnstile{Gate: NewGate(workers), t: t, now: start}
}

// at sets the clock to a time after the start.
func (s *turnstile) at(d time.Duration) { s.now = start.Add(d) }

// endpointOf returns an endpoint with a budget and a burst as large.
func endpointOf(name string, perSecond, burst int) Endpoint {
	return Endpoint{Account: name, Route: name, Owner: name, Own: Budget{float64(perSecond), burst}}
}

// of returns a client of a tenant without a token.
func of(tenant, client string) Need { return Need{Asker: Asker{Tenant: tenant, Client: client}} }

// holding returns a client of a tenant whose token expires some time after the start.
func holding(tenant, client string, in time.Duration) Need {
	n := of(tenant, client)
	n.ExpiresAt, n.Proven = start.Add(in), true
	return n
}

func (s *turnstile) ask(e Endpoint, n Need) Answer { return s.Ask(s.now, e, n) }

// admitted asks for a client that must be admitted.
func (s *turnstile) admitted(e Endpoint, n Need) *Ticket {
	s.t.Helper()
	a := s.ask(e, n)
	if a.Ticket == nil {
		s.t.Fatalf("%s of %q is to wait %s for %s", n.Client, n.Tenant, a.Wait, a.Cause)
	}
	return a.Ticket
}

// waits asks for a client that must wait, and returns for how long.
func (s *turnstile) waits(e Endpoint, n Need, why Cause) time.Duration {
	s.t.Helper()
	a := s.ask(e, n)
	switch {
	case a.Ticket != nil:
		s.t.Fatalf("%s of %q was let through", n.Client, n.Tenant)
	case a.Cause != why:
		s.t.Fatalf("%s of %q waits for %s, want %s", n.Client, n.Tenant, a.Cause, why)
	case a.Wait <= 0:
		s.t.Fatalf("%s of %q is to ask again after %s, which is a hot loop", n.Client, n.Tenant, a.Wait)
	}
	return a.Wait
}

// done ends a request.
func (s *turnstile) done(t *Ticket, how Outcome) { s.Done(s.now, t, how, 0) }

// once sends a request of a client that ends at once.
func (s *turnstile) once(e Endpoint, n Need, how Outcome) {
	s.t.Helper()
	s.done(s.admitted(e, n), how)
}

// asking is the time when a client asks next, or when its request is answered.
type asking struct {
	at     time.Duration
	who    string
	ticket *Ticket
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

// TestBudgetHoldsForManyClients lets many clients come at once, and come again when they are
// told to. In no window are more admitted than rate and burst allow, and all are admitted in
// the time that the rate needs.
func TestBudgetHoldsForManyClients(t *testing.T) {
	for name, tc := range map[string]struct {
		perSecond, burst int
		clients, tenants int
		takes            time.Duration // a request
	}{
		"a burst as large as the rate":              {perSecond: 100, burst: 100, clients: 1000, tenants: 1, takes: 20 * time.Millisecond},
		"a burst that is smaller than the rate":     {perSecond: 100, burst: 1, clients: 1000, tenants: 1, takes: 5 * time.Millisecond},
		"a burst that is larger than the rate":      {perSecond: 5, burst: 40, clients: 300, tenants: 1, takes: 50 * time.Millisecond},
		"one per second":                            {perSecond: 1, burst: 1, clients: 60, tenants: 1, takes: 10 * time.Millisecond},
		"a server that is slower than its budget":   {perSecond: 1000, burst: 1000, clients: 200, tenants: 1, takes: time.Second},
		"more clients than a limiter could promise": {perSecond: 10, burst: 10, clients: 3000, tenants: 1, takes: time.Millisecond},
		"many tenants":                              {perSecond: 100, burst: 100, clients: 1000, tenants: 50, takes: 20 * time.Millisecond},
		"as many tenants as clients":                {perSecond: 20, burst: 1, clients: 500, tenants: 500, takes: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s, e := newTurnstile(t, 20), endpointOf("auth", tc.perSecond, tc.burst)
			var a agenda
			for i := range tc.clients {
				heap.Push(&a, asking{who: fmt.Sprintf("client-%d", i)})
			}
			tenant := func(who string) string {
				return fmt.Sprint(spread(who, time.Duration(tc.tenants)))
			}
			var through []time.Duration
			for inFlight := 0; a.Len() > 0; {
				next := heap.Pop(&a).(asking)
				s.at(next.at)
				if next.ticket != nil {
					inFlight--
					s.done(next.ticket, Served)
					continue
				}
				answer := s.ask(e, of(tenant(next.who), next.who))
				if answer.Ticket == nil {
					heap.Push(&a, asking{at: next.at + max(answer.Wait, time.Millisecond), who: next.who})
					continue
				}
				if inFlight++; inFlight > s.workers {
					t.Fatalf("%d requests are under way at once, want at most %d", inFlight, s.workers)
				}
				through = append(through, next.at)
				heap.Push(&a, asking{next.at + tc.takes, next.who, answer.Ticket})
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
				if n, most := last-first+1, int(window*float64(tc.perSecond))+tc.burst+1; n > most {
					t.Fatalf("%d requests were let through within %.2f s, want at most %d", n, window, most)
				}
			}
			ideal := max(float64(tc.clients-tc.burst)/float64(tc.perSecond), float64(tc.clients)/float64(s.workers/2)*tc.takes.Seconds())
			if took := through[len(through)-1].Seconds(); took > 1.5*ideal+1 {
				t.Errorf("the last client got through after %.1f s, where %.1f s are enough", took, ideal)
			}
			if left := len(s.accounts["auth"].line.entries); left != 0 {
				t.Errorf("%d turns are left over", left)
			}
		})
	}
}

func TestAClientKeepsItsTurn(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 1, 1)
	s.once(e, newcomer("first"), Served)
	if wait := s.waits(e, newcomer("second"), CauseBudget); wait != time.Second {
		t.Errorf("the second client waits %s, want 1s", wait)
	}
	// It comes back early, for example because of an event: its turn stays the same.
	for range 5 {
		s.at(400 * time.Millisecond)
		if wait := s.waits(e, newcomer("second"), CauseBudget); wait != 600*time.Millisecond {
			t.Errorf("the second client, early, waits %s, want 600ms", wait)
		}
	}
	if wait := s.waits(e, newcomer("third"), CauseBudget); wait != 1600*time.Millisecond {
		t.Errorf("the third client waits %s, want 1.6s: the second came back and took no second turn", wait)
	}
	s.at(time.Second)
	s.once(e, newcomer("second"), Served)
	s.at(2 * time.Second)
	s.once(e, newcomer("third"), Served)
}

// A turn taken late pushes the next one back: the budget bounds what is sent.
func TestALateTurnPushesTheNextOneBack(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 1, 1)
	s.once(e, newcomer("first"), Served)
	s.waits(e, newcomer("second"), CauseBudget)
	s.waits(e, newcomer("third"), CauseBudget)
	s.at(1500 * time.Millisecond)
	s.once(e, newcomer("second"), Served)
	s.at(2 * time.Second)
	if wait := s.waits(e, newcomer("third"), CauseBudget); wait != 500*time.Millisecond {
		t.Errorf("the third client waits %s, want 500ms", wait)
	}
	s.at(2500 * time.Millisecond)
	s.once(e, newcomer("third"), Served)
}

func TestATurnThatIsNotTakenLapses(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 1, 1)
	s.once(e, newcomer("first"), Served)
	s.waits(e, newcomer("second"), CauseBudget)
	s.at(time.Second + turnSlack + time.Nanosecond)
	s.once(e, newcomer("third"), Served)
	// The second could have come long ago; now it waits for what comes next.
	if wait := s.waits(e, newcomer("second"), CauseBudget); wait != time.Second {
		t.Errorf("the second client waits %s, want 1s", wait)
	}
}

func TestADeletedClientLeavesEveryLine(t *testing.T) {
	s, one, other := newTurnstile(t, 20), endpointOf("one", 1, 1), endpointOf("other", 1, 1)
	for _, e := range []Endpoint{one, other} {
		s.once(e, newcomer("first"), Served)
		s.waits(e, newcomer("second"), CauseBudget)
	}
	s.Leave("second")
	for name, a := range s.accounts {
		if n := len(a.line.entries); n != 0 {
			t.Errorf("%d turns are left at server %q", n, name)
		}
	}
}

func TestOneClientAtATimeTriesADownServer(t *testing.T) {
	for how, why := range map[Outcome]Cause{Unanswered: CauseEndpoint, Failed: CauseTenant} {
		t.Run(string(how), func(t *testing.T) {
			s, e := newTurnstile(t, 200), endpointOf("auth", 1000, 1000)
			var tickets []*Ticket
			for i := range breakerThreshold {
				tickets = append(tickets, s.admitted(e, newcomer(fmt.Sprint(i))))
			}
			for _, ticket := range tickets {
				s.done(ticket, how)
			}
			probes := 0
			for i := range 120 { // two minutes, 200 clients asking every second
				s.at(time.Duration(i+1) * time.Second)
				var let []*Ticket
				for c := range 200 {
					if a := s.ask(e, newcomer(fmt.Sprint(c))); a.Ticket != nil {
						let = append(let, a.Ticket)
					}
				}
				if len(let) > 1 {
					t.Fatalf("%d clients were let through to a server that is down", len(let))
				}
				for _, ticket := range let {
					probes++
					s.done(ticket, how)
				}
			}
			if probes < 5 || probes > 9 { // after 1, 2, 4, 8, 16, 30, 30, … seconds
				t.Errorf("%d probes were sent in two minutes, want 5 to 9", probes)
			}

			s.at(time.Hour)
			probe := s.admitted(e, newcomer("probe"))
			s.waits(e, newcomer("other"), why)
			s.done(probe, Served)
			s.once(e, newcomer("other"), Served)
		})
	}
}

// TestAProbeThatIsNotSentIsPassedOn: a client whose credentials turn out to be unusable after
// it was admitted must not keep others from trying.
func TestAProbeThatIsNotSentIsPassedOn(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	for range breakerThreshold {
		s.once(e, newcomer("any"), Unanswered)
	}
	s.at(time.Minute)
	probe := s.admitted(e, newcomer("without credentials"))
	s.waits(e, newcomer("other"), CauseEndpoint)
	s.Abandon(s.now, probe)
	s.at(time.Minute + 2*time.Second)
	s.admitted(e, newcomer("other"))
}

func TestAChangedBudgetCountsAtOnce(t *testing.T) {
	s := newTurnstile(t, 200)
	narrow, wide := endpointOf("auth", 1, 1), endpointOf("auth", 100, 100)
	s.admitted(narrow, newcomer("first"))
	s.waits(narrow, newcomer("second"), CauseBudget)
	s.at(2 * time.Second)
	s.admitted(wide, newcomer("second"))
	for i := range 50 {
		s.at(2*time.Second + time.Duration(i+1)*10*time.Millisecond)
		s.admitted(wide, newcomer(fmt.Sprint(i)))
	}
}

func TestAForgottenOwnerStartsAfresh(t *testing.T) {
	s := newTurnstile(t, 20)
	e := endpointOf("auth", 1, 1)
	former := s.admitted(e, newcomer("first"))
	s.waits(e, newcomer("second"), CauseBudget)
	s.Forget(e.Owner)
	if len(s.accounts)+len(s.routes)+len(s.owners) != 0 {
		t.Error("something of it is left")
	}
	s.done(former, Unanswered) // a late result of the former one's request
	s.admitted(e, newcomer("second"))

	moved := e
	moved.Account, moved.Route = "elsewhere", "elsewhere"
	s.admitted(moved, newcomer("third"))
	if len(s.accounts) != 1 || len(s.routes) != 1 {
		t.Errorf("%d accounts and %d routes are kept for one owner that moved", len(s.accounts), len(s.routes))
	}
}

func TestAHangingServerLeavesWorkersForOthers(t *testing.T) {
	s, hanging, other := newTurnstile(t, 20), endpointOf("hanging", 1000, 1000), endpointOf("other", 1000, 1000)
	var under []*Ticket
	for i := range 8 {
		under = append(under, s.admitted(hanging, newcomer(fmt.Sprintf("client-%d", i))))
	}
	if wait := s.waits(hanging, newcomer("client-8"), CausePlaces); wait > time.Second {
		t.Errorf("the ninth client is to wait %s, want less than a second", wait)
	}
	s.once(other, of("good", "client"), Served)
	s.done(under[0], Unanswered)
	next := s.admitted(hanging, newcomer("client-8"))
	s.Abandon(s.now, next)
	s.admitted(hanging, newcomer("client-9"))
	s.waits(hanging, newcomer("client-10"), CausePlaces)
}

func TestOneWorkerIsEnoughToAsk(t *testing.T) {
	s, e := newTurnstile(t, 1), endpointOf("auth", 100, 100)
	s.admitted(e, newcomer("client"))
	s.waits(e, newcomer("other"), CausePlaces)
}

// TestARefreshHasTheFirstFreePlaceAtASlowServer: if the limit is the number of concurrent
// requests and not the budget, new clients do not get ahead of refreshes either.
func TestARefreshHasTheFirstFreePlaceAtASlowServer(t *testing.T) {
	s, e := newTurnstile(t, 4), endpointOf("slow", 1000, 1000) // two at a time
	one, two := s.admitted(e, newcomer("one")), s.admitted(e, newcomer("two"))
	due := expiring("due", 0)
	for i := range 50 {
		s.waits(e, newcomer(fmt.Sprintf("new-%d", i)), CausePlaces)
	}
	wait := s.waits(e, due, CausePlaces)
	s.done(one, Served)
	s.waits(e, newcomer("new-0"), CausePlaces)
	s.at(wait)
	s.admitted(e, due)
	s.done(two, Served)
	s.admitted(e, newcomer("new-0"))
}

// TestAWholeLineDoesNotPollASlowServer counts how often 10,000 clients ask in vain within ten
// seconds.
func TestAWholeLineDoesNotPollASlowServer(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("slow", 100, 100)
	for i := range 8 {
		s.admitted(e, newcomer(fmt.Sprintf("under-way-%d", i)))
	}
	var h arrivalHeap
	for i := range 10000 {
		heap.Push(&h, arrival{Need: newcomer(fmt.Sprintf("new-%d", i))})
	}
	asked := -10000 // each once
	for h[0].at < 10*time.Second {
		next := heap.Pop(&h).(arrival)
		asked++
		s.at(next.at)
		answer := s.ask(e, next.Need)
		if answer.Ticket != nil {
			t.Fatal("a ninth request is under way")
		}
		next.at += answer.Wait
		heap.Push(&h, next)
	}
	if asked > 10000 {
		t.Errorf("they asked %d times within 10 s", asked)
	}
}

// provisioning returns a request that was made some time after the start.
func provisioning(number string, after time.Duration) Need {
	return Need{Asker: Asker{Access: number}, Since: start.Add(after)}
}

func TestProvisioningTakesItsTurn(t *testing.T) {
	const tick = 100 * time.Millisecond // one request's share
	t.Run("behind each token that is due, and before younger clients", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 10, 1)
		s.once(e, newcomer("first"), Served)
		older, younger := newcomer("older"), newcomer("younger")
		older.Since, younger.Since = start.Add(-time.Second), start.Add(time.Second)
		for _, n := range []Need{younger, older, expiring("due", 0)} {
			s.waits(e, n, CauseBudget)
		}
		if wait := s.Turn(s.now, e, provisioning("1", 0)); wait != 3*tick {
			t.Errorf("it waits %s, want %s", wait, 3*tick)
		}
		for i, n := range []Need{expiring("due", 0), older} {
			s.at(time.Duration(i+1) * tick)
			if wait := s.Turn(s.now, e, provisioning("1", 0)); wait == 0 {
				t.Fatalf("it was before %s", n.Client)
			}
			s.once(e, n, Served)
		}
		s.at(3 * tick)
		s.waits(e, younger, CauseBudget)
		if wait := s.Turn(s.now, e, provisioning("1", 0)); wait != 0 {
			t.Errorf("it still waits %s", wait)
		}
	})
	t.Run("while refreshes leave room in the budget", func(t *testing.T) {
		s, e, sent := newTurnstile(t, 20), endpointOf("auth", 10, 1), 0
		for i := range 100 { // nine out of ten
			s.at(time.Duration(i) * tick)
			if i%10 != 0 {
				s.once(e, expiring(fmt.Sprint(i), time.Hour), Served)
			}
			if s.Turn(s.now, e, provisioning(fmt.Sprint(sent), 0)) == 0 {
				sent++
			}
		}
		if sent != 10 {
			t.Errorf("%d provisioning requests were sent, want 10", sent)
		}
	})
	t.Run("while the token endpoint hangs and many wait for it", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 50)
		s.once(e, newcomer("quick"), Served) // so that ten may be under way
		for i := range s.workers / 2 {
			s.admitted(e, newcomer(fmt.Sprint(i)))
		}
		for i := range 100 {
			s.waits(e, expiring(fmt.Sprintf("due-%d", i), 0), CausePlaces)
		}
		for i := range 49 - s.workers/2 {
			if wait := s.Turn(s.now, e, provisioning(fmt.Sprint(i), 0)); wait != 0 {
				t.Fatalf("request number %d waits %s, and the budget is not used up", i, wait)
			}
		}
		if wait := s.Turn(s.now, e, provisioning("last", 0)); wait == 0 {
			t.Error("the budget was overrun")
		}
	})
}

// TestBudgetHoldsForLateTurns: clients whose turn came while the server was
// slow do not all ask at once when it is fast again.
func TestBudgetHoldsForLateTurns(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("slow", 40, 40)
	waiting := map[string]bool{}
	for i := range 200 {
		waiting[fmt.Sprint(i)] = true
	}
	admitted := func(under int) (n int, tickets []*Ticket) {
		for who := range waiting {
			a := s.ask(e, newcomer(who))
			if a.Ticket == nil {
				continue
			}
			delete(waiting, who)
			if n++; n > under {
				s.done(a.Ticket, Served)
			} else {
				tickets = append(tickets, a.Ticket)
			}
		}
		return n, tickets
	}
	if n, _ := admitted(0); n != 40 {
		t.Fatalf("%d requests at once, want the burst of 40", n)
	}
	// Now all have their turns, and the server becomes slow.
	s.at(time.Second)
	under, tickets := admitted(s.workers / 2)
	if under != s.workers/2 {
		t.Fatalf("%d requests are under way, want %d", under, s.workers/2)
	}
	for second := range 10 {
		s.at(time.Duration(second+2) * time.Second)
		if n, _ := admitted(0); n != 0 {
			t.Fatalf("%d more requests are under way", n)
		}
	}
	for _, ticket := range tickets {
		s.done(ticket, Served)
	}
	if n, _ := admitted(0); n != 40 {
		t.Errorf("%d requests at once, want the burst of 40", n)
	}
	for second := 12; len(waiting) > 0; second++ {
		if second > 60 {
			t.Fatalf("%d clients still wait", len(waiting))
		}
		s.at(time.Duration(second) * time.Second)
		if n, _ := admitted(0); n > 40 {
			t.Errorf("%d requests in second %d, want at most 40", n, second)
		}
	}
}
