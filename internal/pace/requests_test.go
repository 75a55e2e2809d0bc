// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"fmt"
	"testing"
	"time"
)

func TestRequests(t *testing.T) {
	type step struct {
		at             time.Duration
		asked, handled string
		want           string
		wait           time.Duration
	}
	for name, steps := range map[string][]step{
		"nothing is asked for":                        {{want: ""}, {handled: "a", want: "a"}},
		"a request is open until it is handled":       {{asked: "a", want: "a"}, {at: time.Second, asked: "a", want: "a"}, {at: time.Hour, asked: "a", want: "a"}},
		"what was handled is not asked for again":     {{asked: "a", handled: "a", want: "a"}},
		"the next request waits for the interval":     {{asked: "a", want: "a"}, {at: 4 * time.Second, asked: "b", handled: "a", want: "a", wait: 6 * time.Second}, {at: 10 * time.Second, asked: "b", handled: "a", want: "b"}},
		"a request that was withdrawn has no cost":    {{asked: "a", want: "a"}, {at: time.Second, handled: "a", want: "a"}},
		"a value that comes again counts again":       {{asked: "a", want: "a"}, {at: 10 * time.Second, asked: "b", handled: "a", want: "b"}, {at: 20 * time.Second, asked: "a", handled: "b", want: "a"}},
		"a clock that was set back stops nobody":      {{at: time.Hour, asked: "a", want: "a"}, {asked: "b", handled: "a", want: "b"}},
		"a late caller is not taken for such a clock": {{asked: "a", want: "a"}, {at: -10 * time.Second, asked: "b", handled: "a", want: "a", wait: 10 * time.Second}, {at: -10*time.Second - 1, asked: "b", handled: "a", want: "b"}},
		"alternating values wait for the interval":    {{asked: "a", want: "a"}, {at: 10 * time.Second, asked: "b", handled: "a", want: "b"}, {at: 11 * time.Second, asked: "a", handled: "b", want: "b", wait: 9 * time.Second}},
		"one that waits leaves the open one open":     {{asked: "a", want: "a"}, {at: 4 * time.Second, asked: "b", want: "a", wait: 6 * time.Second}, {at: 10 * time.Second, asked: "b", want: "b"}},
		"one that waits does not make others later":   {{asked: "a", want: "a"}, {at: 5 * time.Second, asked: "b", handled: "a", want: "a", wait: 5 * time.Second}, {at: 9 * time.Second, asked: "c", handled: "a", want: "a", wait: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRequests[string]()
			for i, s := range steps {
				if got, wait := r.Current("shop/cart", s.asked, s.handled, t0.Add(s.at)); got != s.want || wait != s.wait {
					t.Errorf("step %d: %q and %s to wait, want %q and %s", i, got, wait, s.want, s.wait)
				}
			}
		})
	}
}

// TestRequestsAreForgotten asks for many keys, once each.
func TestRequestsAreForgotten(t *testing.T) {
	r := NewRequests[string]()
	for i := range 10_000 {
		r.Current(fmt.Sprint(i), "a", "", t0.Add(time.Duration(i)*time.Second))
	}
	if n := len(r.open); n > 2048 {
		t.Errorf("%d keys are remembered", n)
	}
	r.Current("x", "a", "", t0)
	r.Forget("x")
	if _, wait := r.Current("x", "b", "", t0); wait != 0 {
		t.Error("a key that was forgotten waits")
	}
}

// TestSweepsOfRequests: from minSweep keys on, and then from twice as many as were left, a new key has old ones dropped.
func TestSweepsOfRequests(t *testing.T) {
	r := NewRequests[int]()
	for i := range minSweep - 1 {
		r.Current(i, "a", "", t0)
	}
	later := t0.Add(RequestInterval)
	r.Current(-1, "a", "", later)
	r.Current(0, "b", "a", later)
	if n := len(r.open); n != minSweep {
		t.Errorf("%d keys, want %d: too few to be swept, or none was new", n, minSweep)
	}
	r.Current(-2, "a", "", later)
	if n := len(r.open); n != 3 || r.sweepAt != minSweep {
		t.Errorf("%d keys and %d at the next sweep, want the 3 that make somebody wait", n, r.sweepAt)
	}
	for i := range minSweep {
		r.Current(minSweep+i, "a", "", later)
	}
	if n := len(r.open); n != 3+minSweep || r.sweepAt != 2*minSweep {
		t.Errorf("%d keys and %d at the next sweep, though all are new", n, r.sweepAt)
	}
}
