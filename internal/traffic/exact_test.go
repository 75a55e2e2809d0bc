// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"testing"
	"time"
)

// An owner that names another account, or another route of the same one, leaves nothing at the former.
func TestAnOwnerMoves(t *testing.T) {
	for _, moved := range []Endpoint{{Account: "auth", Route: "elsewhere"}, {Account: "elsewhere", Route: "auth"}} {
		s, e := newTurnstile(t, 20), endpointOf("auth", 10, 10)
		s.admitted(e, newcomer("a"))
		moved.Owner, moved.Own = e.Owner, e.Own
		s.admitted(moved, newcomer("b"))
		if len(s.accounts) != 1 || len(s.routes) != 1 {
			t.Errorf("moved to %+v: %d accounts and %d routes are kept", moved, len(s.accounts), len(s.routes))
		}
	}
}

// Without a ceiling the largest rate counts, and among equal ones the largest burst. Whoever has less has a line of its
// own.
func TestBudgetsOfOwners(t *testing.T) {
	a := &account{own: map[string]*line{}, owners: map[string]Budget{"slow": {5, 9}, "one": {10, 1}, "three": {10, 3}, "two": {10, 2}, "zero": {}}}
	for range 50 { // in any order
		if got := a.budget(Endpoint{}); got != (Budget{10, 3}) {
			t.Fatalf("the budget is %v", got)
		}
	}
	if got := a.budget(Endpoint{Ceiling: Budget{2, 1}}); got != (Budget{2, 1}) {
		t.Errorf("below a ceiling it is %v", got)
	}
	for owner, want := range map[string]bool{"slow": true, "one": true, "three": false} {
		for range 2 {
			if got := a.ownLine(start, Endpoint{Owner: owner, Own: a.owners[owner]}, Budget{10, 3}); (got != nil) != want || (a.own[owner] != nil) != want {
				t.Errorf("%s has a line of its own: %t", owner, got != nil)
			}
		}
	}
}

// Whoever may try an endpoint that fails, but has to wait for something else, keeps nobody from it meanwhile.
func TestWhoWaitsForSomethingElseStopsNobody(t *testing.T) {
	tiny := Endpoint{Account: "auth", Route: "auth", Owner: "tiny", Own: Budget{.01, 1}}
	large := Endpoint{Account: "auth", Route: "auth", Owner: "large", Own: Budget{100, 100}}
	for name, tc := range map[string]struct {
		opens        func(i int) Need
		how          Outcome
		first, other Need
	}{
		"an endpoint": {
			func(i int) Need { return of(fmt.Sprint("evil-", i%2), fmt.Sprint(i)) }, Failed, of("good", "a"), of("better", "b"),
		},
		"a tenant": {func(i int) Need { return of("shop", fmt.Sprint(i)) }, Failed, of("shop", "a"), of("shop", "b")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTurnstile(t, 20)
			s.once(large, of("any", "any"), Served)
			s.once(tiny, of("any", "any"), Served)
			for i := range breakerThreshold {
				s.once(large, tc.opens(i), tc.how)
			}
			s.at(time.Minute)
			s.waits(tiny, tc.first, CauseBudget)
			if ticket := s.admitted(large, tc.other); !ticket.urgent {
				t.Error("a request to what fails is taken for one like any other")
			}
		})
	}
}

// A client that was refused comes when there is a try, or within a second after, and not before.
func TestWaitAfterRefusals(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	for i := range refusedBurst {
		s.once(e, of("evil", fmt.Sprint(i)), Refused)
	}
	for i := range 20 {
		if wait := s.waits(e, of("evil", fmt.Sprint("new-", i)), CauseRefusals); wait < refusedEvery || wait > refusedEvery+time.Second {
			t.Errorf("client %d waits %s", i, wait)
		}
	}
}

// What was refused is forgotten when all tries are there again, and not before.
func TestRefusalsAreForgotten(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	s.once(e, of("a", "a"), Refused)
	s.once(e, of("a", "b"), Refused)
	s.at(2*refusedEvery - time.Second)
	s.once(e, of("b", "a"), Refused)
	if n := len(s.accounts["auth"].refusals); n != 2 {
		t.Errorf("the refusals of %d tenants are kept, want 2", n)
	}
	s.at(2 * refusedEvery)
	s.once(e, of("c", "a"), Refused)
	if all := s.accounts["auth"].refusals; len(all) != 2 || all["a"] != nil {
		t.Errorf("the refusals of %d tenants are kept, want 2", len(all))
	}
}

// A refusal of a client whose tenant is not known to be refused counts once, of one that paid before not again.
func TestARefusalCountsOnce(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	for i := range refusedBurst {
		s.once(e, of("evil", fmt.Sprint(i)), Refused)
		if left, want := s.accounts["auth"].refusals["evil"].TokensAt(s.now), float64(refusedBurst-i-1); left != want {
			t.Errorf("after refusal %d there are %.1f tries, want %.1f", i+1, left, want)
		}
	}
}

// A failure without a Retry-After takes nothing back from an earlier one.
func TestAFailureDoesNotEndARetryAfter(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 100, 100)
	s.Done(s.now, s.admitted(e, of("a", "a")), Failed, 10*time.Minute)
	s.Done(s.now, s.admitted(e, of("a", "a")), Failed, 0)
	s.Done(s.now, s.admitted(e, of("b", "b")), Failed, 10*time.Minute)
	s.waits(e, of("c", "c"), CauseEndpoint)
}

// One access of a client leaves, and the others keep their places.
func TestOneAskerLeaves(t *testing.T) {
	s, e := newTurnstile(t, 20), endpointOf("auth", 1, 1)
	s.once(e, newcomer("first"), Served)
	one, two := of("shop", "cart"), of("shop", "cart")
	one.Access, two.Access = "1", "2"
	s.waits(e, one, CauseBudget)
	s.waits(e, two, CauseBudget)
	s.LeaveAsker(one.Asker)
	if entries := s.accounts["auth"].line.entries; len(entries) != 1 || entries[two.Asker] == nil {
		t.Errorf("%d are in line", len(entries))
	}
}

// Whoever finds no place is told when one is about to become free. For a second after that, whoever lacks the budget
// too waits for places, and provisioning does not wait for those who do.
func TestHowLongPlacesAreFull(t *testing.T) {
	full := func() (*turnstile, Endpoint, *Ticket) {
		s, e := newTurnstile(t, 4), endpointOf("slow", 1, 3)
		one, _ := s.admitted(e, newcomer("one")), s.admitted(e, newcomer("two")) // two at a time
		return s, e, one
	}
	for since, freed := range map[time.Duration]bool{0: true, turnover - 1: true, turnover: false} {
		s, e, one := full()
		s.done(one, Unanswered)
		s.admitted(e, newcomer("one")) // the last of the budget
		s.at(time.Second - since)      // another one comes
		s.accounts["slow"].line.budget.AllowN(s.now, 0)
		s.routes["slow"].ended = s.now
		s.at(time.Second)
		if a := s.ask(e, newcomer("new")); a.Cause != CausePlaces || (a.Freed != nil) != freed {
			t.Errorf("%s after a request ended: waits for %s, is told when one is free: %t", since, a.Cause, a.Freed != nil)
		}
		if a := s.ask(e, newcomer("newer")); a.Freed != nil {
			t.Error("one that lacks the budget too is told when a place is free")
		}
	}
	for since, why := range map[time.Duration]Cause{time.Second - 1: CausePlaces, time.Second: CauseBudget} {
		s, e, _ := full()
		s.waits(e, newcomer("three"), CausePlaces)
		s.at(since)
		for range 3 {
			s.accounts["slow"].line.budget.AllowN(s.now, 1)
		}
		s.waits(e, newcomer("four"), why)
	}
	for since, waits := range map[time.Duration]bool{time.Second - 1: false, time.Second: true} {
		s, e, _ := full()
		s.waits(e, newcomer("three"), CausePlaces)
		s.accounts["slow"].line.budget.SetLimitAt(s.now, .001) // one is left, for the one that waits
		e.Own.PerSecond = .001
		s.at(since)
		if wait := s.Turn(s.now, e, provisioning("1", 0)); (wait > 0) != waits {
			t.Errorf("%s after somebody found no place, provisioning waits %s", since, wait)
		}
	}
}

// What waits for the same moment is spread over all of the time, and always in the same way.
func TestSpread(t *testing.T) {
	const most, seeds = 10 * time.Second, 1000
	in := map[time.Duration]int{} // by second
	for i := range seeds {
		at := spread(fmt.Sprint("shop/cart-", i), most)
		if at < 0 || at >= most || at != spread(fmt.Sprint("shop/cart-", i), most) {
			t.Errorf("seed %d comes after %s", i, at)
		}
		in[at/time.Second]++
	}
	for second := range most / time.Second {
		if n := in[second]; n < 20 || n > 300 {
			t.Errorf("%d of %d come in second %d", n, seeds, second)
		}
	}
}
