// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"container/heap"
	"fmt"
	"testing"
	"time"
)

// TestOneClientsFailuresAreItsOwn: if a server answers one client with 500, nobody
// else waits, however often that client asks. If it fails for several clients of a
// tenant, the tenant's clients wait. If it fails for one tenant after the other,
// all wait.
func TestOneClientsFailuresAreItsOwn(t *testing.T) {
	t.Run("one client", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		for range 10 * breakerThreshold {
			s.once(e, of("evil", "broken"), Failed)
		}
		s.once(e, of("evil", "working"), Served)
		s.once(e, of("good", "working"), Served)
	})
	t.Run("all clients of one tenant", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		for i := range breakerThreshold {
			s.once(e, of("evil", fmt.Sprint(i)), Failed)
		}
		s.waits(e, of("evil", "another"), CauseTenant)
		for range 90 {
			s.once(e, of("good", "working"), Served)
		}
		s.waits(e, of("evil", "another"), CauseTenant)
	})
	t.Run("two tenants in a row", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		for i := range breakerThreshold {
			s.once(e, of(fmt.Sprint("evil-", i%2), fmt.Sprint(i)), Failed)
		}
		s.waits(e, of("good", "working"), CauseEndpoint)
		s.at(breakerBase) // each client that has not failed is tried once
		s.once(e, of("good", "working"), Failed)
		s.waits(e, of("good", "working"), CauseEndpoint)
	})
	t.Run("two tenants, and a third that is served", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		for i := range 4 * breakerThreshold {
			if a := s.ask(e, of(fmt.Sprint("evil-", i%2), fmt.Sprint(i))); a.Ticket != nil {
				s.done(a.Ticket, Failed)
			}
			if i%4 == 3 {
				s.once(e, of("good", "working"), Served)
			}
		}
	})
}

// TestProbesGoRound: sources that failed come after those that did not, and among
// those the token that expires first is tried first.
func TestProbesGoRound(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	for i := range breakerThreshold {
		s.once(e, of(fmt.Sprint("evil-", i%2), "broken"), Failed)
	}
	var told []asking
	needs := map[string]Need{
		"late":   holding("good", "late", time.Hour),
		"soon":   holding("better", "soon", 10*time.Minute),
		"broken": holding("evil-0", "broken", time.Minute), // a forged expiry
	}
	for name, n := range needs {
		told = append(told, asking{at: s.waits(e, n, CauseEndpoint), who: name})
	}
	var order []string
	h := agenda(told)
	heap.Init(&h)
	for len(order) < 3 {
		next := heap.Pop(&h).(asking)
		s.at(next.at)
		a := s.ask(e, needs[next.who])
		if a.Ticket == nil {
			heap.Push(&h, asking{at: next.at + a.Wait, who: next.who})
			continue
		}
		order = append(order, next.who)
		s.done(a.Ticket, Failed)
	}
	if got := fmt.Sprint(order); got != "[soon late broken]" {
		t.Errorf("they tried in the order %s, want soon, late, broken", got)
	}
}

// TestNoHealthyTokenExpiresUntried: while others keep the endpoint's breaker open,
// a token that would expire before the next probe is tried, once.
func TestNoHealthyTokenExpiresUntried(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	for range breakerThreshold {
		s.once(e, of("evil", "broken"), Unanswered)
	}
	for opened := time.Second; opened < breakerMax; opened = min(breakerMax, 2*opened) {
		s.now = s.now.Add(opened)
		s.once(e, of("evil", "broken"), Unanswered)
	}
	urgent := holding("good", "short", s.now.Sub(start)+10*time.Second)
	ticket := s.admitted(e, urgent)
	s.waits(e, holding("better", "short", s.now.Sub(start)+10*time.Second), CauseEndpoint) // one a second
	s.done(ticket, Unanswered)
	s.now = s.now.Add(time.Second)
	s.waits(e, urgent, CauseEndpoint) // it was tried
	ticket = s.admitted(e, holding("better", "short", s.now.Sub(start)+10*time.Second))
	s.waits(e, of("good", "new"), CauseEndpoint)
	s.done(ticket, Served)
	s.once(e, of("good", "new"), Served)
}

// TestRetryAfterBindsWhomItWasTold: a client that gets a Retry-After is left to its own
// back-off. Once a second client of its tenant gets one, the tenant waits. Once a second
// tenant gets one, everybody waits, for a minute at most.
func TestRetryAfterBindsWhomItWasTold(t *testing.T) {
	told := func(s *turnstile, e Endpoint, n Need) {
		s.t.Helper()
		s.Done(s.now, s.admitted(e, n), Failed, 10*time.Minute)
	}
	t.Run("one client", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		for range 3 {
			told(s, e, of("evil", "greedy"))
		}
		s.once(e, of("evil", "other"), Served)
		s.once(e, of("good", "other"), Served)
	})
	t.Run("two clients of a tenant", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		told(s, e, of("evil", "greedy"))
		told(s, e, of("evil", "greedier"))
		s.waits(e, of("evil", "other"), CauseTenant)
		s.once(e, of("good", "other"), Served)
	})
	t.Run("two tenants", func(t *testing.T) {
		s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
		told(s, e, of("evil", "greedy"))
		told(s, e, of("bad", "greedy"))
		if wait := s.waits(e, of("good", "other"), CauseEndpoint); wait > toldMax+time.Second {
			t.Errorf("another tenant waits %s, want a minute at most", wait)
		}
		s.once(e, holding("good", "expiring", 30*time.Second), Failed) // it was tried at least
		s.at(toldMax + time.Second)
		s.once(e, of("good", "other"), Served)
		s.once(e, of("better", "other"), Served)
	})
}

// TestRefusalsOfATenantAreBounded: once the endpoint has refused some clients of a
// tenant, those that it never served wait. Those that it served do not wait, nor do
// other tenants.
func TestRefusalsOfATenantAreBounded(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	refused := 0
	for i := range 600 { // ten minutes of a hundred clients
		s.at(time.Duration(i) * time.Second)
		if a := s.ask(e, of("evil", fmt.Sprint(i%100))); a.Ticket != nil {
			refused++
			s.done(a.Ticket, Refused)
		}
	}
	if refused > refusedBurst+20 {
		t.Errorf("%d requests were refused in ten minutes, want at most %d", refused, refusedBurst+20)
	}
	s.waits(e, of("evil", "new"), CauseRefusals)
	s.once(e, holding("evil", "proven", time.Hour), Served)
	s.waits(e, of("evil", "new"), CauseRefusals)
	s.once(e, of("good", "new"), Served)
	s.at(11 * time.Minute)
	s.once(e, of("evil", "registered"), Served) // its owner has fixed it
	s.once(e, of("evil", "new"), Served)
}

// TestRefusedClientsLeaveATryToANewOne: a hundred clients of a tenant that are refused
// again and again delay a new client of it by nothing, and a second new one by the time
// of one try.
func TestRefusedClientsLeaveATryToANewOne(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	refused := 0
	everybodyTries := func(second int) {
		s.at(time.Duration(second) * time.Second)
		for i := range 100 {
			n := of("evil", fmt.Sprint(i))
			n.Failed = second > 0
			if a := s.ask(e, n); a.Ticket != nil {
				refused++
				s.done(a.Ticket, Refused)
			}
		}
	}
	for second := range 600 {
		everybodyTries(second)
	}
	if refused < refusedBurst+18 {
		t.Errorf("those that were refused tried %d times in ten minutes, want at least %d", refused, refusedBurst+18)
	}
	s.once(e, of("evil", "new"), Refused)
	wait := s.waits(e, of("evil", "newer"), CauseRefusals)
	if wait > refusedEvery+time.Second {
		t.Errorf("the second new client is told to wait for %v", wait)
	}
	for second := 600; second <= 600+int(wait.Seconds()); second++ {
		everybodyTries(second)
	}
	s.at(10*time.Minute + wait)
	s.once(e, of("evil", "newer"), Served)
	s.once(e, of("evil", "newest"), Served)
}

// TestManyAtOnceAreNotRefusedTogether: a request counts while it is under way,
// before its refusal.
func TestManyAtOnceAreNotRefusedTogether(t *testing.T) {
	s, e := newTurnstile(t, 200), endpointOf("auth", 100, 100)
	for i := range refusedBurst - 2 {
		s.once(e, of("evil", fmt.Sprint(i)), Refused)
	}
	s.admitted(e, of("evil", "a"))
	s.admitted(e, of("evil", "b"))
	s.waits(e, of("evil", "c"), CauseRefusals)
}

// TestTenantsTakeTurns: ten thousand clients of one tenant, with forged expiries,
// delay a new client of another by two turns, and its refresh by one.
func TestTenantsTakeTurns(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 10, 1)
	s.once(e, newcomer("first"), Served)
	for i := range 10000 {
		s.waits(e, holding("evil", fmt.Sprint(i), -24*time.Hour), CauseBudget)
	}
	const turn = time.Second / 10
	if wait := s.waits(e, of("good", "new"), CauseBudget); wait > 3*turn {
		t.Errorf("a new client waits %s, want at most two turns of the other and its own", wait)
	}
	if wait := s.waits(e, holding("better", "refresh", time.Minute), CauseBudget); wait > 2*turn {
		t.Errorf("a refresh waits %s, want at most a turn of the other and its own", wait)
	}
	if wait := s.waits(e, holding("evil", "10000", -time.Hour), CauseBudget); wait < 1000*turn {
		t.Errorf("the last of the flood waits %s", wait)
	}
}

// TestTheCeilingBindsWhateverNamesTheEndpoint: no owner gets a greater budget than
// the platform's, nor changes what others may send.
func TestTheCeilingBindsWhateverNamesTheEndpoint(t *testing.T) {
	platform := Endpoint{Account: "idp", Route: "idp", Owner: "platform", Own: Budget{5, 5}, Ceiling: Budget{5, 5}}
	greedy := Endpoint{Account: "idp", Route: "idp", Owner: "evil", Own: Budget{10000, 10000}, Ceiling: Budget{5, 5}}
	s := newTurnstile(t, 20)
	sent := 0
	for i := range 1000 { // ten seconds
		s.at(time.Duration(i) * 10 * time.Millisecond)
		for j := range 3 {
			if a := s.ask(greedy, of("evil", fmt.Sprint(j))); a.Ticket != nil {
				sent++
				s.done(a.Ticket, Served)
			}
		}
	}
	if sent > 55 {
		t.Errorf("%d requests were sent in ten seconds, want 5 per second", sent)
	}
	if wait := s.waits(platform, of("good", "new"), CauseBudget); wait > 400*time.Millisecond {
		t.Errorf("a client of the platform's waits %s", wait)
	}
	t.Run("a small budget binds its own owner only", func(t *testing.T) {
		s := newTurnstile(t, 20)
		tiny := Endpoint{Account: "idp", Route: "idp", Owner: "evil", Own: Budget{1, 1}}
		large := Endpoint{Account: "idp", Route: "idp", Owner: "good", Own: Budget{100, 100}}
		s.once(large, of("good", "0"), Served)
		for i := range 100 {
			if a := s.ask(tiny, of("evil", fmt.Sprint(i))); a.Ticket != nil {
				s.done(a.Ticket, Served)
			}
		}
		for i := range 90 {
			s.once(large, of("good", fmt.Sprint(i)), Served)
		}
		if wait := s.waits(tiny, of("evil", "more"), CauseBudget); wait < 50*time.Second {
			t.Errorf("the hundredth client of a budget of one per second waits %s", wait)
		}
	})
}
