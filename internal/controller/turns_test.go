// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

var turnsStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// expiring is a client whose token expires so long after the start.
func expiring(who types.UID, in time.Duration) need {
	return need{asker: asker{client: who}, expiresAt: turnsStart.Add(in)}
}

// tryTurn asks once, and takes the turn if it has come.
func tryTurn(t *turns, now time.Time, n need) (wait time.Duration) {
	at, ahead := t.ask(now, n)
	if wait = t.until(now, ahead); wait == 0 {
		t.take(now, at)
	} else {
		t.tell(at, now.Add(wait))
	}
	return wait
}

// taken is when somebody had a turn.
type taken struct {
	who types.UID
	at  time.Duration
}

// arrival is when somebody asks.
type arrival struct {
	at time.Duration
	need
}

type arrivalHeap []arrival

func (h arrivalHeap) Len() int           { return len(h) }
func (h arrivalHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h arrivalHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *arrivalHeap) Push(x any)        { *h = append(*h, x.(arrival)) }
func (h *arrivalHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// play lets all come, and come again when they are told to, and so much later as
// delay says of them; a negative delay has them stay away. It returns who had a
// turn, in this order. Who has none after many attempts is starved.
func play(t *turns, all []arrival, delay func(need) time.Duration) (order []taken, asked int) {
	h := arrivalHeap(slices.Clone(all))
	heap.Init(&h)
	for h.Len() > 0 && asked < 100*len(all) {
		next := heap.Pop(&h).(arrival)
		asked++
		wait := tryTurn(t, turnsStart.Add(next.at), next.need)
		if wait == 0 {
			order = append(order, taken{next.client, next.at})
			continue
		}
		if late := delay(next.need); late >= 0 {
			next.at += wait + late
			heap.Push(&h, next)
		}
	}
	return order, asked
}

func punctual(need) time.Duration { return 0 }

func TestTurnsGoByNeed(t *testing.T) {
	older, younger := newcomer("older"), newcomer("younger")
	older.since, younger.since = turnsStart.Add(-time.Hour), turnsStart
	second := expiring("two accesses", time.Minute)
	second.access = "second"
	inOrder := []need{
		expiring("expired long ago", -time.Hour), expiring("expired", -time.Second), expiring("expires soon", 30*time.Second),
		expiring("two accesses", time.Minute), second, expiring("expires late", time.Hour), older, younger,
	}
	var want []types.UID
	for _, n := range inOrder {
		want = append(want, n.client)
	}
	for seed := range uint64(50) {
		all := []arrival{{at: -time.Millisecond, need: newcomer("first")}} // it uses the budget up
		for _, n := range inOrder {
			all = append(all, arrival{need: n})
		}
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		line := newTurns(2, 1)
		order, _ := play(&line, all, punctual)
		var got []types.UID
		for _, o := range order[1:] {
			got = append(got, o.who)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("order of turns (-want +got), seed %d:\n%s", seed, diff)
		}
		if took, ideal := order[len(order)-1].at, time.Duration(len(inOrder))*time.Second/2; took > ideal+10*time.Millisecond {
			t.Fatalf("the last turn was after %s, and %s are enough", took, ideal)
		}
	}
}

// TestAFloodDelaysNoRefresh has 10,000 new clients wait while tokens fall due:
// each is replaced as soon as the budget has anything at all.
func TestAFloodDelaysNoRefresh(t *testing.T) {
	const flood, perSecond = 10000, 50
	line, random := newTurns(perSecond, perSecond), rand.New(rand.NewPCG(1, 2))
	var all []arrival
	for i := range flood {
		all = append(all, arrival{time.Duration(random.Int64N(int64(time.Second))), newcomer(types.UID(fmt.Sprintf("new-%d", i)))})
	}
	due := map[types.UID]time.Duration{}
	for i := range 100 { // in the first 100 s of 200, one each
		n := expiring(types.UID(fmt.Sprintf("due-%d", i)), time.Hour-time.Duration(i)*time.Minute)
		due[n.client] = time.Duration(i)*time.Second + time.Duration(random.Int64N(int64(time.Second/2)))
		all = append(all, arrival{due[n.client], n})
	}
	order, asked := play(&line, all, punctual)
	if len(order) != len(all) {
		t.Fatalf("%d turns, want %d", len(order), len(all))
	}
	const most = time.Second/perSecond + time.Millisecond
	for _, o := range order {
		if at, ok := due[o.who]; ok && o.at-at > most {
			t.Errorf("%s waited %s, want at most %s", o.who, o.at-at, most)
		}
	}
	if took := order[len(order)-1].at; took > (flood+100)/perSecond*time.Second+time.Second {
		t.Errorf("the last had its turn after %s", took)
	}
	if asked > 5*len(all) {
		t.Errorf("%d had to ask %d times in all", len(all), asked)
	}
	if len(line.line) != 0 || len(line.places) != 0 {
		t.Errorf("%d places are left in line, and %d on the list", len(line.line), len(line.places))
	}
}

// TestTurnsKeepTheBudgetAndStarveNobody lets clients of all needs come over a
// minute, of whom some are late and some do not come again.
func TestTurnsKeepTheBudgetAndStarveNobody(t *testing.T) {
	for name, tc := range map[string]struct {
		perSecond, burst int
		late             time.Duration // at most
		vanish           float64       // of the clients, when they are told to come again
	}{
		"all are punctual":                  {perSecond: 20, burst: 20},
		"all are a little late":             {perSecond: 20, burst: 20, late: time.Second},
		"some are too late":                 {perSecond: 20, burst: 20, late: 2 * turnSlack},
		"a tenth goes":                      {perSecond: 20, burst: 20, vanish: .1},
		"half of them go, the others dally": {perSecond: 20, burst: 20, late: time.Second, vanish: .5},
		"one at a time":                     {perSecond: 20, burst: 1},
		"a burst above the rate":            {perSecond: 5, burst: 100, late: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			line := newTurns(rate.Limit(tc.perSecond), tc.burst)
			clients := 100 * tc.perSecond // in a minute
			goes, gone := map[types.UID]bool{}, map[types.UID]bool{}
			var all []arrival
			for i := range clients {
				n := newcomer(types.UID(fmt.Sprintf("client-%d", i)))
				if i%2 == 0 {
					n.expiresAt = turnsStart.Add(time.Duration(random.Int64N(int64(time.Hour))))
				}
				goes[n.client] = random.Float64() < tc.vanish
				all = append(all, arrival{time.Duration(random.Int64N(int64(time.Minute))), n})
			}
			order, _ := play(&line, all, func(n need) time.Duration {
				if goes[n.client] {
					gone[n.client] = true
					return -1
				}
				return time.Duration(random.Float64() * float64(tc.late))
			})
			if len(order)+len(gone) != clients {
				t.Fatalf("%d of %d clients had a turn, and %d went", len(order), clients, len(gone))
			}
			first := 0
			for last := range order { // in every window of ten seconds
				for order[last].at-order[first].at > 10*time.Second {
					first++
				}
				window := (order[last].at - order[first].at).Seconds()
				if n, most := last-first+1, int(window*float64(tc.perSecond))+tc.burst+1; n > most {
					t.Fatalf("%d turns within %.2f s, want at most %d", n, window, most)
				}
			}
			ideal := max(time.Minute, time.Duration(len(order))*time.Second/time.Duration(tc.perSecond))
			most := ideal + ideal/10 + 5*tc.late
			if tc.vanish > 0 {
				most += 3 * turnSlack
			}
			if took := order[len(order)-1].at; took > most {
				t.Errorf("the last had its turn after %s, want at most %s", took, most)
			}
		})
	}
}

// TestThoseWhoAreGoneHoldNobodyUp has as many as the budget has room for stay
// away when it is their turn.
func TestThoseWhoAreGoneHoldNobodyUp(t *testing.T) {
	line := newTurns(10, 10)
	for range 10 {
		tryTurn(&line, turnsStart, newcomer("first"))
	}
	for i := range 1000 {
		if wait := tryTurn(&line, turnsStart, expiring(types.UID(fmt.Sprintf("gone-%d", i)), 0)); wait == 0 {
			t.Fatal("the budget is not used up")
		}
	}
	// All should have come by then.
	now := turnsStart.Add(100 * time.Second)
	if wait := tryTurn(&line, now, newcomer("new")); wait == 0 {
		t.Error("those that are not late yet were not waited for")
	}
	now = now.Add(turnSlack + time.Nanosecond)
	if wait := tryTurn(&line, now, newcomer("new")); wait != 0 {
		t.Errorf("the new client waits %s, for nobody", wait)
	}
	if len(line.line) != 0 || len(line.places) != 0 {
		t.Errorf("%d places are left in line, and %d on the list", len(line.line), len(line.places))
	}
}

// TestANeedThatChangesMovesThePlace: a client whose token was replaced
// meanwhile, or was lost, has one place, and it is the one of its present need.
func TestANeedThatChangesMovesThePlace(t *testing.T) {
	line := newTurns(1, 1)
	tryTurn(&line, turnsStart, newcomer("first"))
	tryTurn(&line, turnsStart, expiring("a", time.Minute))
	tryTurn(&line, turnsStart, expiring("b", 2*time.Minute))
	for _, tc := range []struct {
		in   time.Duration
		want time.Duration
	}{{3 * time.Minute, 2 * time.Second}, {time.Minute, time.Second}} {
		if wait := tryTurn(&line, turnsStart, expiring("a", tc.in)); wait != tc.want || len(line.line) != 2 {
			t.Errorf("with a token that expires in %s it waits %s, want %s; %d are in line", tc.in, wait, tc.want, len(line.line))
		}
	}
	if wait := tryTurn(&line, turnsStart, newcomer("a")); wait != 2*time.Second || len(line.line) != 2 {
		t.Errorf("without a token it waits %s, want 2s; %d are in line", wait, len(line.line))
	}
}

// TestARefreshHasTheFirstFreePlaceAtASlowServer: where not the budget is the
// limit but how many requests are under way, new clients do not take it either.
func TestARefreshHasTheFirstFreePlaceAtASlowServer(t *testing.T) {
	s, srv := newTurnstile(t, 4), serverOf("slow", 1000, 0) // two at a time
	s.admitted(srv, "one")
	s.admitted(srv, "two")
	due := need{asker: asker{client: "due"}, expiresAt: s.start}
	for i := range 50 {
		s.waits(srv, types.UID(fmt.Sprintf("new-%d", i)), v1alpha1.ReasonWaitingForBudget)
	}
	wait, p := s.admit(srv, due)
	if p == nil {
		t.Fatal("a third request is under way")
	}
	s.done(srv, true, 0)
	s.waits(srv, "new-0", v1alpha1.ReasonWaitingForBudget)
	s.at(wait)
	if _, p := s.admit(srv, due); p != nil {
		t.Fatal("the token that is due was not first")
	}
	s.done(srv, true, 0)
	s.admitted(srv, "new-0")
}

// TestAWholeLineDoesNotPollASlowServer counts how often 10,000 clients ask in
// vain in ten seconds.
func TestAWholeLineDoesNotPollASlowServer(t *testing.T) {
	s, srv := newTurnstile(t, 20), serverOf("slow", 100, 100)
	for i := range s.inFlightMax {
		s.admitted(srv, types.UID(fmt.Sprintf("under-way-%d", i)))
	}
	var h arrivalHeap
	for i := range 10000 {
		heap.Push(&h, arrival{need: newcomer(types.UID(fmt.Sprintf("new-%d", i)))})
	}
	asked := -10000 // each once
	for h[0].at < 10*time.Second {
		next := heap.Pop(&h).(arrival)
		asked++
		s.at(next.at)
		next.at += s.waits(srv, next.client, v1alpha1.ReasonWaitingForBudget)
		heap.Push(&h, next)
	}
	if asked > 10000 {
		t.Errorf("they asked %d times within 10 s", asked)
	}
}

// paced is a server's provisioning.
func (s *turnstile) paced(srv *server) *pacedTransport {
	return &pacedTransport{server: srv.key, budget: srv.spec.Requests, rt: s.runtime(srv.object), servers: s.servers}
}

// provisioning is a request that was made so long after the start.
func provisioning(number string, after time.Duration) need {
	return need{asker: asker{access: number}, since: turnsStart.Add(after)}
}

func TestProvisioningTakesItsTurn(t *testing.T) {
	const tick = 100 * time.Millisecond // one request's share
	t.Run("behind each token that is due, and before younger clients", func(t *testing.T) {
		s, srv := newTurnstile(t, 20), serverOf("auth", 10, 1)
		p := s.paced(srv)
		s.admitted(srv, "first")
		older, younger := newcomer("older"), newcomer("younger")
		older.since, younger.since = s.start.Add(-time.Second), s.start.Add(time.Second)
		for _, n := range []need{younger, older, expiring("due", 0)} {
			if _, problem := s.admit(srv, n); problem == nil {
				t.Fatalf("%s was let through", n.client)
			}
		}
		if wait := p.turn(provisioning("1", 0)); wait != 3*tick {
			t.Errorf("it waits %s, want %s", wait, 3*tick)
		}
		for i, n := range []need{expiring("due", 0), older} {
			s.at(time.Duration(i+1) * tick)
			if wait := p.turn(provisioning("1", 0)); wait == 0 {
				t.Fatalf("it was before %s", n.client)
			}
			if _, problem := s.admit(srv, n); problem != nil {
				t.Fatalf("%s still waits", n.client)
			}
			s.done(srv, true, 0)
		}
		s.at(3 * tick)
		if _, problem := s.admit(srv, younger); problem == nil {
			t.Error("a younger client was before it")
		}
		if wait := p.turn(provisioning("1", 0)); wait != 0 {
			t.Errorf("it still waits %s", wait)
		}
	})
	t.Run("while refreshes leave room in the budget", func(t *testing.T) {
		s, srv := newTurnstile(t, 20), serverOf("auth", 10, 1)
		p, sent := s.paced(srv), 0
		for i := range 100 { // nine out of ten
			s.at(time.Duration(i) * tick)
			if i%10 != 0 {
				if _, problem := s.admit(srv, expiring(types.UID(fmt.Sprint(i)), time.Hour)); problem != nil {
					t.Fatalf("refresh number %d waits", i)
				}
				s.done(srv, true, 0)
			}
			if p.turn(provisioning(fmt.Sprint(sent), 0)) == 0 {
				sent++
			}
		}
		if sent != 10 {
			t.Errorf("%d provisioning requests were sent, want 10", sent)
		}
	})
	t.Run("while the token endpoint hangs and many wait for it", func(t *testing.T) {
		s, srv := newTurnstile(t, 20), serverOf("auth", 100, 50)
		for i := range s.inFlightMax {
			s.admitted(srv, types.UID(fmt.Sprint(i)))
		}
		for i := range 100 {
			if _, problem := s.admit(srv, expiring(types.UID(fmt.Sprintf("due-%d", i)), 0)); problem == nil {
				t.Fatal("an eleventh token request is under way")
			}
		}
		for i := range 50 - s.inFlightMax {
			if wait := s.paced(srv).turn(provisioning(fmt.Sprint(i), 0)); wait != 0 {
				t.Fatalf("request number %d waits %s, and the budget is not used up", i, wait)
			}
		}
		if wait := s.paced(srv).turn(provisioning("last", 0)); wait == 0 {
			t.Error("the budget was overrun")
		}
	})
}

// BenchmarkTurnsOfTenThousand asks for a turn in a line of 10,000.
func BenchmarkTurnsOfTenThousand(b *testing.B) {
	line := newTurns(1, 1)
	ask := func(i int, now time.Time) {
		tryTurn(&line, now, expiring(types.UID(fmt.Sprintf("client-%d", i)), time.Duration(i*7919%10000)*time.Second))
	}
	for i := range 10000 {
		ask(i, turnsStart)
	}
	b.ResetTimer()
	for i := range b.N {
		ask(i%10000, turnsStart.Add(time.Duration(i)*time.Millisecond))
	}
}
