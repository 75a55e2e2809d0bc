// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	const s = time.Second
	// A step at a moment (seconds from the start) is one call; an Allow states
	// its answer.
	type step struct {
		at      int
		do      string // allow, refuse, ok, fail, open
		seconds int    // refuse: retryAt; open: until
	}
	tests := map[string][]step{
		"closed, everything passes": {
			{0, "allow", 0}, {0, "allow", 0}, {0, "ok", 0}, {0, "allow", 0}},
		"two failures are not three": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "allow", 0}},
		"a success between resets the count": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "ok", 0}, {0, "fail", 0}, {0, "fail", 0}, {0, "allow", 0}},
		"three failures in a row open it for the base": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {0, "refuse", 10}, {9, "refuse", 10}, {10, "allow", 0}},
		"late failures do not prolong it": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {5, "fail", 0}, {6, "fail", 0}, {7, "refuse", 10}},
		"half-open, one probe passes and the others wait": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {10, "allow", 0}, {10, "refuse", 20}, {11, "refuse", 21}},
		"the probe's success closes it": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {10, "allow", 0}, {11, "ok", 0}, {11, "allow", 0}, {11, "allow", 0},
			{11, "fail", 0}, {11, "fail", 0}, {11, "allow", 0}, {11, "fail", 0}, {11, "refuse", 21}},
		"the probe's failure doubles it, up to the limit": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0},
			{10, "allow", 0}, {10, "fail", 0}, {11, "refuse", 30},
			{30, "allow", 0}, {30, "fail", 0}, {31, "refuse", 65}, // 35, not 40
			{65, "allow", 0}, {65, "fail", 0}, {66, "refuse", 100}},
		"a success after doubling starts again at the base": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {10, "allow", 0}, {10, "fail", 0}, {30, "allow", 0}, {30, "ok", 0},
			{31, "fail", 0}, {31, "fail", 0}, {31, "fail", 0}, {31, "refuse", 41}},
		"a probe that never reports gives up its turn": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {10, "allow", 0}, {44, "refuse", 45}, {45, "allow", 0}, {45, "refuse", 55}},
		"a late success closes what failures opened": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {5, "ok", 0}, {5, "allow", 0}},
		"the server opens it": {
			{0, "open", 60}, {0, "refuse", 60}, {59, "refuse", 60}, {60, "allow", 0}, {60, "refuse", 70}},
		"a late success does not overrule the server": {
			{0, "open", 60}, {1, "ok", 0}, {1, "refuse", 60}, {60, "allow", 0}, {61, "ok", 0}, {61, "allow", 0}},
		"a shorter word from the server does not shorten it": {
			{0, "open", 60}, {0, "open", 20}, {20, "refuse", 60}},
		"the server prolongs what failures opened": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {0, "open", 60}, {10, "refuse", 60}},
		"a failed probe after the server's word begins at the base": {
			{0, "open", 60}, {60, "allow", 0}, {61, "fail", 0}, {61, "refuse", 71}},
		"after that failure a late success closes it again": {
			{0, "open", 60}, {60, "allow", 0}, {61, "fail", 0}, {62, "ok", 0}, {62, "allow", 0}},
		"a probe that is not sent makes room for the next": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "fail", 0}, {10, "allow", 0}, {11, "refuse", 21}, {11, "abandon", 0}, {11, "allow", 0}},
		"a request that is not sent is no news": {
			{0, "fail", 0}, {0, "fail", 0}, {0, "abandon", 0}, {0, "fail", 0}, {5, "abandon", 0}, {5, "refuse", 10}},
		"a moment in the past leaves it half-open": {
			{100, "open", 1}, {100, "allow", 0}, {100, "refuse", 110}},
		"a year is an hour": {
			{0, "open", 365 * 24 * 3600}, {0, "refuse", 3600}, {1800, "refuse", 3600}, {3600, "allow", 0}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			b := NewBreaker(3, 10*s, 35*s)
			for i, st := range steps {
				now := issued.Add(time.Duration(st.at) * s)
				moment := issued.Add(time.Duration(st.seconds) * s)
				switch st.do {
				case "ok", "fail":
					b.Report(now, st.do == "ok")
				case "open":
					b.Open(moment)
				case "abandon":
					b.Abandon()
				default:
					ok, retryAt := b.Allow(now)
					if ok != (st.do == "allow") {
						t.Fatalf("step %d %+v: Allow = %v, %v", i, st, ok, retryAt)
					}
					if !ok && !retryAt.Equal(moment) {
						t.Fatalf("step %d %+v: retryAt = %v", i, st, retryAt.Sub(issued))
					}
					if ok && !retryAt.IsZero() {
						t.Fatalf("step %d %+v: allowed with retryAt %v", i, st, retryAt)
					}
				}
			}
		})
	}
}

func TestBreakerBounds(t *testing.T) {
	b := NewBreaker(0, 0, 0)
	b.Report(issued, false)
	if ok, at := b.Allow(issued); ok || !at.Equal(issued.Add(time.Second)) {
		t.Errorf("Allow = %v, %v: want a threshold of one and a base of a second", ok, at)
	}
	b.Report(issued.Add(time.Second), false)
	if _, at := b.Allow(issued.Add(time.Second)); !at.Equal(issued.Add(2 * time.Second)) {
		t.Errorf("retryAt = %v: want a limit of the base", at)
	}
}

func TestBreakerLetsOneProbeThroughAmongMany(t *testing.T) {
	b := NewBreaker(1, time.Second, time.Minute)
	b.Report(issued, false)
	now := issued.Add(time.Second)

	var allowed atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if ok, _ := b.Allow(now); ok {
				allowed.Add(1)
			}
		})
	}
	wg.Wait()
	if got := allowed.Load(); got != 1 {
		t.Errorf("%d probes at once", got)
	}
}

func TestSpreadIsStableEvenAndBounded(t *testing.T) {
	const most = 10 * time.Second
	halves := [2]int{}
	for i := range 1000 {
		seed := strconv.Itoa(i)
		d := Spread(seed, most)
		if d != Spread(seed, most) {
			t.Fatalf("Spread(%q) differs from call to call", seed)
		}
		if d < 0 || d >= most {
			t.Fatalf("Spread(%q) = %s, want within [0, %s)", seed, d, most)
		}
		halves[d/(most/2)]++
	}
	if halves[0] < 400 || halves[1] < 400 {
		t.Errorf("Spread puts %d of 1000 seeds into the first half and %d into the second", halves[0], halves[1])
	}
}
