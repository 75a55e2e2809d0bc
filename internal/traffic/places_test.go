// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"testing"
	"time"
)

// waiter is a tenant that waits since some time before now.
type waiter struct {
	tenant  string
	since   time.Duration
	late    time.Duration // after it was to come
	suspect bool
}

// TestFree: how many places a tenant can have follows from what it and others hold, and from who waits and is served
// first: those that hold less, and of those that hold as much the ones that have waited longer.
func TestFree(t *testing.T) {
	long, short := func(tenant string) waiter { return waiter{tenant: tenant, since: time.Minute} }, func(tenant string) waiter { return waiter{tenant: tenant, since: time.Second} }
	for name, tc := range map[string]struct {
		workers int
		holds   string // a letter for each place; capitals hold one of an endpoint that is not quick
		waits   []waiter
		suspect bool // what is asked for by the tenant a
		want    int
	}{
		"nobody waits":                                  {workers: 4, holds: "cc", want: 1},
		"half of what is left":                          {workers: 20, holds: "", want: 10},
		"half of what is left beside its own":           {workers: 20, holds: "aacc", want: 7},
		"one waits":                                     {workers: 4, holds: "cc", waits: []waiter{long("b")}, want: 1},
		"two wait":                                      {workers: 4, holds: "cc", waits: []waiter{long("b"), long("d")}, want: 0},
		"it waits longer than they":                     {workers: 4, holds: "cc", waits: []waiter{long("a"), short("b"), short("d")}, want: 1},
		"it waits as long as they":                      {workers: 4, holds: "cc", waits: []waiter{long("a"), long("b"), long("d")}, want: 1},
		"it waits less long than they":                  {workers: 4, holds: "cc", waits: []waiter{short("a"), long("b"), long("d")}, want: 0},
		"they began to wait just now":                   {workers: 4, holds: "cc", waits: []waiter{{tenant: "b"}, {tenant: "d"}}, want: 1},
		"they hold more":                                {workers: 6, holds: "ccbd", waits: []waiter{long("b"), long("d")}, want: 1},
		"they hold less, and it waits longer":           {workers: 6, holds: "cca", waits: []waiter{long("a"), short("b"), short("d"), short("e")}, want: 0},
		"they hold as much, and it waits longer":        {workers: 8, holds: "ccabd", waits: []waiter{long("a"), short("b"), short("d")}, want: 1},
		"they hold as much, and it waits less long":     {workers: 7, holds: "ccabd", waits: []waiter{short("a"), long("b"), long("d")}, want: 0},
		"they are almost too late":                      {workers: 4, holds: "cc", waits: []waiter{{"b", time.Minute, awaitSlack, false}, {"d", time.Minute, awaitSlack, false}}, want: 0},
		"they are too late":                             {workers: 4, holds: "cc", waits: []waiter{{"b", time.Minute, awaitSlack + 1, false}, {"d", time.Minute, awaitSlack + 1, false}}, want: 1},
		"they wait for what is not quick":               {workers: 4, holds: "cc", waits: []waiter{{"b", time.Minute, 0, true}, {"d", time.Minute, 0, true}}, want: 1},
		"they wait for what is not quick, as it does":   {workers: 4, holds: "cc", suspect: true, waits: []waiter{{"b", time.Minute, 0, true}, {"d", time.Minute, 0, true}}, want: 0},
		"they wait for what is quick, and it does not":  {workers: 4, holds: "cc", suspect: true, waits: []waiter{long("b"), long("d")}, want: 0},
		"three quarters for what is not quick":          {workers: 20, suspect: true, want: 8},
		"what is not quick holds some":                  {workers: 8, holds: "CCCC", suspect: true, want: 1},
		"it holds some of that itself":                  {workers: 20, holds: "AACC", suspect: true, want: 5},
		"what is not quick holds some, and one waits":   {workers: 8, holds: "CCCC", suspect: true, waits: []waiter{long("b")}, want: 1},
		"what is not quick holds some, and two wait":    {workers: 8, holds: "CCCC", suspect: true, waits: []waiter{long("b"), long("d")}, want: 0},
		"what is not quick holds some, and it is quick": {workers: 8, holds: "CCCC", want: 2},
	} {
		p := NewPlaces(tc.workers)
		for _, letter := range tc.holds {
			h := &Place{tenant: string(letter), since: start}
			if letter < 'a' {
				h.tenant, h.suspect = string(letter-'A'+'a'), true
			}
			p.held[h] = true
			p.holds[h.tenant]++
		}
		for _, w := range tc.waits {
			p.waiting[w.tenant] = &await{since: start.Add(-w.since), comesAt: start.Add(-w.late), suspect: w.suspect}
		}
		if got := p.free(start, "a", tc.suspect); got != tc.want {
			t.Errorf("%s: %d are free, want %d", name, got, tc.want)
		}
	}
}

// TestWhatIsSlow: a request that has taken slowAfter is not slow yet, whether it still runs or has ended.
func TestWhatIsSlow(t *testing.T) {
	for taken, slow := range map[time.Duration]bool{slowAfter: false, slowAfter + 1: true} {
		p := NewPlaces(20)
		p.Give(start, p.Take(start, "a", "e", 0), true)
		held := p.Take(start, "a", "e", 0)
		now := start.Add(taken)
		if got := p.isSuspect(now, "e"); got != slow {
			t.Errorf("after %s the endpoint is not quick: %t", taken, got)
		}
		if p.isSuspect(now, "other") != true || p.owed["e"] != 0 {
			t.Error("an endpoint that never answered is quick, or one that did not end counts")
		}
		// 20 - 1 - 1 are left, or 15 - 1 - 1.
		if got, want := p.free(now, "a", true), map[bool]int{false: 8, true: 7}[slow]; got != want {
			t.Errorf("after %s there are %d for what is not quick, want %d", taken, got, want)
		}
		p.Give(now, held, true)
		if got := p.isSuspect(now, "e"); got != slow {
			t.Errorf("after it ended, the endpoint is not quick: %t", got)
		}
	}
	// No answer is no proof, of neither.
	p := NewPlaces(20)
	p.Give(start, p.Take(start, "a", "e", 0), false)
	if _, known := p.owed["e"]; known {
		t.Error("an endpoint that never answered is known")
	}
	p.owed["e"] = 2
	p.Give(start, p.Take(start, "a", "e", 0), false)
	if p.owed["e"] != 2 {
		t.Errorf("it still needs %d quick answers, want 2", p.owed["e"])
	}
	p.Give(start, p.Take(start, "a", "e", 0), true)
	if p.owed["e"] != 1 {
		t.Errorf("it still needs %d quick answers, want 1", p.owed["e"])
	}
}

// TestAwait: a tenant is expected when the first of its requests comes, and once that time is past, when the next does.
func TestAwait(t *testing.T) {
	p := NewPlaces(4)
	for _, step := range []struct{ at, comes, want time.Duration }{
		{0, 3, 3}, {0, 5, 3}, {1, 2, 2}, {2 - 1, 9, 2}, {2, 9, 9}, {3, 12, 9}, {20, 30, 30},
	} {
		p.Await(start.Add(step.at), start.Add(step.comes), "a", "e")
		if got := p.waiting["a"]; !got.comesAt.Equal(start.Add(step.want)) || !got.since.Equal(start) || !got.suspect {
			t.Errorf("at %d: expected at %d since %d, want %d", step.at, got.comesAt.Sub(start), got.since.Sub(start), step.want)
		}
	}
}
