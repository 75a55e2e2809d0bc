// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// expiring returns a client whose token expires some time after the start.
func expiring(who string, in time.Duration) Need {
	return Need{Asker: Asker{Client: who}, ExpiresAt: start.Add(in)}
}

// tryTurn asks once, and takes the turn if it has come.
func tryTurn(t *line, now time.Time, n Need) (wait time.Duration) {
	at, ahead := t.ask(now, n)
	if wait = t.until(now, ahead); wait == 0 {
		t.take(now, at)
	} else {
		t.postpone(at, now.Add(wait))
	}
	return wait
}

// taken records when a client had its turn.
type taken struct {
	who string
	at  time.Duration
}

// arrival is when a client asks.
type arrival struct {
	at time.Duration
	Need
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

// play lets all clients come, and come again when they are told to, later by what delay
// returns; with a negative delay they stay away. It returns who had a turn, in this order. A
// client without a turn after many attempts is starved.
func play(t *line, all []arrival, delay func(Need) time.Duration) (order []taken, asked int) {
	h := arrivalHeap(slices.Clone(all))
	heap.Init(&h)
	for h.Len() > 0 && asked < 100*len(all) {
		next := heap.Pop(&h).(arrival)
		asked++
		wait := tryTurn(t, start.Add(next.at), next.Need)
		if wait == 0 {
			order = append(order, taken{next.Client, next.at})
			continue
		}
		if late := delay(next.Need); late >= 0 {
			next.at += wait + late
			heap.Push(&h, next)
		}
	}
	return order, asked
}

// newcomer returns a client without a token.
func newcomer(who string) Need { return Need{Asker: Asker{Client: who}} }

func punctual(Need) time.Duration { return 0 }

func TestTurnsGoByNeed(t *testing.T) {
	older, younger := newcomer("older"), newcomer("younger")
	older.Since, younger.Since = start.Add(-time.Hour), start
	second := expiring("two accesses", time.Minute)
	second.Access = "second"
	inOrder := []Need{
		expiring("expired long ago", -time.Hour), expiring("expired", -time.Second), expiring("expires soon", 30*time.Second),
		expiring("two accesses", time.Minute), second, expiring("expires late", time.Hour), older, younger,
	}
	var want []string
	for _, n := range inOrder {
		want = append(want, n.Client)
	}
	for seed := range uint64(50) {
		all := []arrival{{at: -time.Millisecond, Need: newcomer("first")}} // uses up the budget
		for _, n := range inOrder {
			all = append(all, arrival{Need: n})
		}
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		line := newLine(Budget{2, 1})
		order, _ := play(&line, all, punctual)
		var got []string
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
	line, random := newLine(Budget{perSecond, perSecond}), rand.New(rand.NewPCG(1, 2))
	var all []arrival
	for i := range flood {
		all = append(all, arrival{time.Duration(random.Int64N(int64(time.Second))), newcomer(fmt.Sprintf("new-%d", i))})
	}
	due := map[string]time.Duration{}
	for i := range 100 { // in the first 100 s of 200, one each
		n := expiring(fmt.Sprintf("due-%d", i), time.Hour-time.Duration(i)*time.Minute)
		due[n.Client] = time.Duration(i)*time.Second + time.Duration(random.Int64N(int64(time.Second/2)))
		all = append(all, arrival{due[n.Client], n})
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
	if len(line.entries) != 0 || len(line.queues) != 0 {
		t.Errorf("%d places are left in line, and queues of %d tenants", len(line.entries), len(line.queues))
	}
}

// TestTurnsKeepTheBudgetAndStarveNobody lets clients of all needs come within a minute. Some of
// them are late, and some do not come again.
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
			line := newLine(Budget{float64(tc.perSecond), tc.burst})
			clients := 100 * tc.perSecond // in a minute
			goes, gone := map[string]bool{}, map[string]bool{}
			var all []arrival
			for i := range clients {
				n := newcomer(fmt.Sprintf("client-%d", i))
				if i%2 == 0 {
					n.ExpiresAt = start.Add(time.Duration(random.Int64N(int64(time.Hour))))
				}
				goes[n.Client] = random.Float64() < tc.vanish
				all = append(all, arrival{time.Duration(random.Int64N(int64(time.Minute))), n})
			}
			order, _ := play(&line, all, func(n Need) time.Duration {
				if goes[n.Client] {
					gone[n.Client] = true
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

// TestThoseWhoAreGoneHoldNobodyUp: as many clients as the budget has room for stay away when
// it is their turn.
func TestThoseWhoAreGoneHoldNobodyUp(t *testing.T) {
	line := newLine(Budget{10, 10})
	for range 10 {
		tryTurn(&line, start, newcomer("first"))
	}
	for i := range 1000 {
		if wait := tryTurn(&line, start, expiring(fmt.Sprintf("gone-%d", i), 0)); wait == 0 {
			t.Fatal("the budget is not used up")
		}
	}
	// All should have come by then.
	now := start.Add(100 * time.Second)
	if wait := tryTurn(&line, now, newcomer("new")); wait == 0 {
		t.Error("those that are not late yet were not waited for")
	}
	now = now.Add(turnSlack + time.Nanosecond)
	if wait := tryTurn(&line, now, newcomer("new")); wait != 0 {
		t.Errorf("the new client waits %s, for nobody", wait)
	}
	if len(line.entries) != 0 || len(line.queues) != 0 {
		t.Errorf("%d places are left in line, and queues of %d tenants", len(line.entries), len(line.queues))
	}
}

// TestANeedThatChangesMovesThePlace: a client whose token was replaced or lost meanwhile has
// one place, which follows from its present need.
func TestANeedThatChangesMovesThePlace(t *testing.T) {
	line := newLine(Budget{1, 1})
	tryTurn(&line, start, newcomer("first"))
	tryTurn(&line, start, expiring("a", time.Minute))
	tryTurn(&line, start, expiring("b", 2*time.Minute))
	for _, tc := range []struct {
		in   time.Duration
		want time.Duration
	}{{3 * time.Minute, 2 * time.Second}, {time.Minute, time.Second}} {
		if wait := tryTurn(&line, start, expiring("a", tc.in)); wait != tc.want || len(line.entries) != 2 {
			t.Errorf("with a token that expires in %s it waits %s, want %s; %d are in line", tc.in, wait, tc.want, len(line.entries))
		}
	}
	if wait := tryTurn(&line, start, newcomer("a")); wait != 2*time.Second || len(line.entries) != 2 {
		t.Errorf("without a token it waits %s, want 2s; %d are in line", wait, len(line.entries))
	}
}

// BenchmarkTurnsOfTenThousand asks for a turn in a line of 10,000.
func BenchmarkTurnsOfTenThousand(b *testing.B) {
	line := newLine(Budget{1, 1})
	ask := func(i int, now time.Time) {
		tryTurn(&line, now, expiring(fmt.Sprintf("client-%d", i), time.Duration(i*7919%10000)*time.Second))
	}
	for i := range 10000 {
		ask(i, start)
	}
	b.ResetTimer()
	for i := range b.N {
		ask(i%10000, start.Add(time.Duration(i)*time.Millisecond))
	}
}
