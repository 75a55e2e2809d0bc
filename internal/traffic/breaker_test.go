// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// opened returns a tenant's breaker that five clients have opened, each by a failure.
func opened(t *testing.T) *breaker {
	t.Helper()
	b := &breaker{source: clientOf}
	for i := range breakerThreshold {
		if got := b.failedOnce(start, &Ticket{need: of("shop", fmt.Sprint("broken-", i))}, false); got != (i == breakerThreshold-1) {
			t.Fatalf("failure %d opened it: %t", i, got)
		}
	}
	return b
}

// TestSourcesComeOneAfterTheOther: all that wait for the next probe are told different times, the further back the
// later, and none of them much later.
func TestSourcesComeOneAfterTheOther(t *testing.T) {
	b := opened(t)
	for i := range 200 {
		ok, again := b.admits(start, of("shop", fmt.Sprintf("%03d", i)))
		least := b.until.Add(min(time.Duration(i)*probeStep, probeSpread))
		if ok || again.Before(least) || !again.Before(least.Add(probeStep)) {
			t.Errorf("the client at %d may try: %t, or again after %s", i, ok, again.Sub(b.until))
		}
	}
	// While a probe is under way, all wait for longer than it takes at best.
	probing := opened(t)
	probing.sent(probing.until, &Ticket{need: of("shop", "probe"), sentAt: probing.until})
	for i := range 200 {
		if ok, again := probing.admits(probing.until, of("shop", fmt.Sprintf("%03d", i))); ok || again.Before(probing.until.Add(breakerBase)) {
			t.Errorf("the client at %d may try: %t, or again after %s", i, ok, again.Sub(probing.until))
		}
	}
	// When the time has come, whoever has others ahead waits for them a moment.
	late := b.until.Add(probeSpread)
	if ok, again := b.admits(late, of("shop", "199")); ok || again.Before(late.Add(probeWindow)) {
		t.Errorf("the last may try: %t, or again after %s", ok, again.Sub(late))
	}
}

func TestWhoIsExpectedAhead(t *testing.T) {
	for name, tc := range map[string]struct {
		in      time.Duration // when the one ahead comes
		stopped bool
		behind  bool
	}{
		"it comes now":                       {0, false, true},
		"it was to come a while ago":         {-time.Second, false, true},
		"it comes at the end of the window":  {probeWindow, false, true},
		"it comes after the window":          {probeWindow + 1, false, false},
		"it waits for something else":        {0, true, false},
		"it waits for something else longer": {time.Minute, true, false},
	} {
		b := &breaker{waiting: []*entry{{comesAt: start.Add(tc.in), stopped: tc.stopped}, {comesAt: start}}}
		if got := b.isBehind(start, 1); got != tc.behind {
			t.Errorf("%s: behind is %t", name, got)
		}
		if b.isBehind(start, 0) {
			t.Errorf("%s: the first one is behind somebody", name)
		}
	}
}

// TestSentOnlyTheProbe: who is sent leaves the line, and only a request after the breaker's time is its probe.
func TestSentOnlyTheProbe(t *testing.T) {
	b := opened(t)
	for _, client := range []string{"a", "b", "c"} {
		b.admits(start, of("shop", client))
	}
	urgent, probe, second := &Ticket{need: of("shop", "a")}, &Ticket{need: of("shop", "b")}, &Ticket{need: of("shop", "c")}
	b.sent(b.until.Add(-1), urgent)
	if len(b.waiting) != 2 || b.waiting[0].Client != "b" || b.probe != nil {
		t.Errorf("%d wait, and the probe is %v", len(b.waiting), b.probe)
	}
	b.sent(b.until, probe)
	b.sent(b.until, second)
	if len(b.waiting) != 0 || b.probe != probe {
		t.Errorf("%d wait, and the probe is %v", len(b.waiting), b.probe)
	}
}

// TestSuccessClosesABreaker, but not while the server asked to be left alone, if the request was sent before it did.
func TestSuccessClosesABreaker(t *testing.T) {
	for name, tc := range map[string]struct {
		held, past, probe, urgent bool
		open                      bool
	}{
		"it failed":                              {},
		"the server asked to be left alone":      {held: true, open: true},
		"that time is over":                      {held: true, past: true},
		"this was its probe":                     {held: true, probe: true},
		"this was sent although it was open":     {held: true, urgent: true},
		"it failed, and this was an urgent one":  {urgent: true},
		"it failed, and its time is over":        {past: true},
		"that time is over, and it was no probe": {held: true, past: true, urgent: true},
	} {
		ticket := &Ticket{need: of("shop", "a"), urgent: tc.urgent}
		b := opened(t)
		if b.held = tc.held; tc.probe {
			b.probe = ticket
		}
		now := b.until.Add(-1)
		if tc.past {
			now = b.until
		}
		if b.succeeded(now, ticket); b.closed() == tc.open {
			t.Errorf("%s: closed is %t", name, b.closed())
		}
	}
}

// TestFailuresPutASourceBack: among those that wait, whoever's tenant failed less comes first, then who failed less.
func TestFailuresPutASourceBack(t *testing.T) {
	b := opened(t)
	clients := []Need{of("a", "1"), of("a", "2"), of("b", "3")}
	for _, n := range clients {
		b.admits(start, n)
	}
	order := func() (all []string) {
		for _, p := range b.waiting {
			all = append(all, p.Client)
		}
		return all
	}
	for _, step := range []struct {
		fails Need
		want  []string
	}{{clients[0], []string{"3", "2", "1"}}, {clients[2], []string{"2", "1", "3"}}, {clients[2], []string{"2", "1", "3"}}, {clients[1], []string{"1", "2", "3"}}} {
		b.note(step.fails)
		if diff := cmp.Diff(step.want, order()); diff != "" {
			t.Errorf("after a failure of %s (-want +got):\n%s", step.fails.Client, diff)
		}
	}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

func TestABreakerOpensLongerEachTime(t *testing.T) {
	b := &breaker{source: clientOf}
	for i, want := range []int{1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30, 30} {
		if b.open(start); b.until.Sub(start) != seconds(want) {
			t.Errorf("the time %d it opens for %s, want %d s", i, b.until.Sub(start), want)
		}
	}
}

// TestWhoIsAskedToWait: of the sources that the server asked to wait, those two count that wait longest, and what it said
// to each of them last.
func TestWhoIsAskedToWait(t *testing.T) {
	type step struct {
		at   int // seconds, as all others
		who  string
		wait int
	}
	for name, tc := range map[string]struct {
		steps []step
		asked [2]string // "who until"
		until int
	}{
		"one":                              {[]step{{0, "a", 10}}, [2]string{"a 10", ""}, 0},
		"one, again and again":             {[]step{{0, "a", 10}, {1, "a", 20}, {2, "a", 5}}, [2]string{"a 7", ""}, 0},
		"two, the second for longer":       {[]step{{0, "a", 10}, {0, "b", 20}}, [2]string{"a 10", "b 20"}, 10},
		"two, the second for less":         {[]step{{0, "a", 20}, {0, "b", 10}}, [2]string{"a 20", "b 10"}, 10},
		"a third for less":                 {[]step{{0, "a", 20}, {0, "b", 10}, {0, "c", 5}}, [2]string{"a 20", "b 10"}, 10},
		"a third for as long":              {[]step{{0, "a", 20}, {0, "b", 10}, {0, "c", 10}}, [2]string{"a 20", "b 10"}, 10},
		"a third for longer":               {[]step{{0, "a", 20}, {0, "b", 10}, {0, "c", 15}}, [2]string{"a 20", "c 15"}, 15},
		"the second again, for less":       {[]step{{0, "a", 20}, {0, "b", 10}, {0, "b", 5}}, [2]string{"a 20", "b 5"}, 10},
		"the second again, for longer":     {[]step{{0, "a", 20}, {0, "b", 10}, {0, "b", 15}}, [2]string{"a 20", "b 15"}, 15},
		"the second's time is over":        {[]step{{0, "a", 20}, {0, "b", 5}, {5, "c", 2}}, [2]string{"a 20", "c 7"}, 7},
		"the first's time is over":         {[]step{{0, "a", 5}, {5, "b", 20}}, [2]string{"b 25", ""}, 0},
		"the second's is over, and no new": {[]step{{0, "a", 20}, {0, "b", 5}, {6, "a", 30}}, [2]string{"a 36", "b 5"}, 5},
		"the second again, whose time is not over as the first's is": {[]step{{0, "a", 5}, {0, "b", 60}, {6, "b", 60}}, [2]string{"a 5", "b 66"}, 5},
		"for longer than anybody may":                                {[]step{{0, "a", 600}, {0, "b", 600}}, [2]string{"a 600", "b 600"}, 60},
	} {
		b := &breaker{source: clientOf}
		for _, s := range tc.steps {
			b.hold(start.Add(seconds(s.at)), &Ticket{need: of("shop", s.who)}, seconds(s.wait))
		}
		var asked [2]string
		for i, a := range b.asked {
			if !a.until.IsZero() {
				asked[i] = fmt.Sprintf("%s %.0f", a.source.client, a.until.Sub(start).Seconds())
			}
		}
		if asked != tc.asked {
			t.Errorf("%s: it asked %q, want %q", name, asked, tc.asked)
		}
		if got := b.until.Sub(start); !b.closed() && got != seconds(tc.until) || b.closed() != (tc.until == 0) {
			t.Errorf("%s: all wait for %s, want %d s", name, got, tc.until)
		}
	}
}

// TestQuietIsAskedForOnce: if the server asks for it again soon, whoever has not failed may try all the same, and so may
// they if the breaker was open for another reason.
func TestQuietIsAskedForOnce(t *testing.T) {
	ask := func(b *breaker, now time.Time) {
		b.hold(now, &Ticket{need: of("a", "a")}, 10*time.Second)
		b.hold(now, &Ticket{need: of("b", "b")}, 10*time.Second)
	}
	b := &breaker{source: tenantOf, each: true}
	ask(b, start)
	end := start.Add(10 * time.Second)
	if !b.quiet.Equal(end) || !b.quieted.Equal(end) || !b.held {
		t.Errorf("at first it is quiet until %s", b.quiet)
	}
	again := func(at time.Time, quiet time.Time) {
		t.Helper()
		if b.succeeded(b.until, &Ticket{need: of("c", "c")}); !b.closed() {
			t.Fatal("a success after the time does not close it")
		}
		if ask(b, at); !b.quiet.Equal(quiet) || b.closed() {
			t.Errorf("%s later it is quiet until %s, want %s", at.Sub(start), b.quiet, quiet)
		}
	}
	again(end.Add(toldMax-1), time.Time{})
	again(end.Add(toldMax), end.Add(toldMax+10*time.Second))

	b = opened(t)
	if ask(b, start); !b.quiet.IsZero() || !b.until.Equal(end) {
		t.Errorf("one that was open is quiet until %s, and open until %s", b.quiet, b.until)
	}
}

// TestHeldOffProbe: a probe that is asked to wait makes room for another one, and nobody else does.
func TestHeldOffProbe(t *testing.T) {
	for _, own := range []bool{false, true} {
		b := opened(t)
		probe, other := &Ticket{need: of("shop", "a")}, &Ticket{need: of("shop", "b")}
		b.sent(b.until, probe)
		asked := other
		if own {
			asked = probe
		}
		b.hold(b.until, &Ticket{need: of("shop", "c")}, time.Minute)
		b.hold(b.until, asked, time.Minute)
		if freed := b.probe == nil; freed != own {
			t.Errorf("its own: %t, and the place of the probe is free: %t", own, freed)
		}
	}
}
