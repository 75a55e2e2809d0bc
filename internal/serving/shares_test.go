// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// TestWhoGivesWay: if there is no room, a share displaces those that have waited longest of
// the owner who holds most.
func TestWhoGivesWay(t *testing.T) {
	type holding struct {
		owner   string
		size    int64
		settled bool
	}
	for name, tc := range map[string]struct {
		holds []holding // one second after the other
		owner string
		size  int64
		ok    bool
		gone  []int // of holds
	}{
		"there is room":                               {[]holding{{"a", 4, false}}, "b", 6, true, nil},
		"more than there is at all":                   {[]holding{{"a", 4, false}}, "b", 11, false, nil},
		"the oldest of who holds most":                {[]holding{{"c", 2, false}, {"a", 4, false}, {"a", 4, false}}, "b", 1, true, []int{1}},
		"as many as it takes":                         {[]holding{{"a", 2, false}, {"a", 2, false}, {"a", 2, false}, {"a", 4, false}}, "b", 3, true, []int{0, 1}},
		"its own":                                     {[]holding{{"a", 8, false}, {"b", 1, false}}, "a", 2, true, []int{0}},
		"who is answered is left alone":               {[]holding{{"a", 4, true}, {"a", 4, false}, {"c", 2, false}}, "b", 1, true, []int{1}},
		"all are answered":                            {[]holding{{"a", 10, true}}, "b", 1, false, nil},
		"who holds less is left alone":                {[]holding{{"a", 3, false}, {"c", 7, true}}, "b", 4, false, nil},
		"nobody, if it would not suffice":             {[]holding{{"a", 4, false}, {"c", 6, true}}, "b", 5, false, nil},
		"nobody who would then hold less":             {[]holding{{"a", 5, false}, {"c", 5, false}}, "b", 6, false, nil},
		"who came just now, where there is no other":  {[]holding{{"a", 5, true}, {"a", 5, false}}, "b", 1, true, []int{1}},
		"of each in turn, as long as he holds enough": {[]holding{{"a", 5, false}, {"c", 5, false}}, "b", 4, true, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			c := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
			s := NewShares(10, time.Second, c)
			var gone []int
			for i, h := range tc.holds {
				share := s.Take(h.owner, h.size, func() { gone = append(gone, i) })
				if share == nil {
					t.Fatalf("there is no room for holding %d", i)
				}
				share.Settle(h.settled)
				c.Step(time.Second)
			}
			share := s.Take(tc.owner, tc.size, nil)
			slices.Sort(gone)
			if (share != nil) != tc.ok || !cmp.Equal(gone, tc.gone) {
				t.Errorf("given: %v, taken away: %v; want %v, %v", share != nil, gone, tc.ok, tc.gone)
			}
			if s.Used() > 10 {
				t.Errorf("%d are used", s.Used())
			}
		})
	}
}

func TestAShareIsLeftAloneAtFirst(t *testing.T) {
	c := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s := NewShares(1, time.Second, c)
	first := s.Take("a", 1, func() {})
	c.Step(999 * time.Millisecond)
	if s.Take("b", 1, nil) != nil {
		t.Error("it was taken away before its time")
	}
	c.Step(time.Millisecond)
	if s.Take("b", 1, nil) == nil {
		t.Error("it was not taken away in its time")
	}
	first.Release() // late, and of no consequence
	if s.Used() != 1 {
		t.Errorf("%d are used, want 1", s.Used())
	}
}

// TestWhoHoldsLeastIsNext: the owner who holds least goes first, however many requests of
// others wait.
func TestWhoHoldsLeastIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(2, time.Hour, clock.RealClock{})
		busy, other := s.Take("a", 1, nil), s.Take("a", 1, nil)
		got := make(chan string, 101)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wait := func(owner string) {
			if s.Wait(ctx, owner, 1, nil) != nil {
				got <- owner
			}
		}
		for range 100 {
			go wait("a")
		}
		synctest.Wait()
		go wait("b")
		synctest.Wait()
		busy.Release()
		synctest.Wait()
		if owner := <-got; owner != "b" {
			t.Errorf("%s is next", owner)
		}
		other.Release()
		synctest.Wait()
		if owner := <-got; owner != "a" {
			t.Errorf("%s is next", owner)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(got); n > 0 || s.Used() != 2 {
			t.Errorf("%d more got something; %d are used", n, s.Used())
		}
	})
}

// TestWaitTakesAway: a waiting request displaces others once their grace is over.
func TestWaitTakesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(10, time.Second, clock.RealClock{})
		taken := false
		s.Take("a", 10, func() { taken = true })
		start := time.Now()
		if share := s.Wait(t.Context(), "b", 1, nil); share == nil || !taken || time.Since(start) != time.Second {
			t.Errorf("given: %v, taken away: %v, after %v", share != nil, taken, time.Since(start))
		}
		if share := s.Wait(t.Context(), "b", 11, nil); share != nil {
			t.Error("more was given than there is")
		}
	})
}
