// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"testing"
	"time"
)

var (
	t0   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rate = Rate{Every: 10 * time.Second, Burst: 3}
)

func TestTake(t *testing.T) {
	b := New[string](rate)
	for i, step := range []struct {
		key   string
		n     int
		after time.Duration // since t0
		want  time.Duration
	}{
		{"a", 1, 0, 0}, {"a", 1, 0, 0}, {"a", 1, 0, 0}, // a burst
		{"a", 1, 0, 10 * time.Second},
		{"a", 1, 4 * time.Second, 6 * time.Second}, // waiting costs nothing
		{"b", 1, 4 * time.Second, 0},               // another's is another's
		{"a", 1, 10 * time.Second, 0},
		{"a", 1, 10 * time.Second, 10 * time.Second},
		{"a", 2, 20 * time.Second, 10 * time.Second},
		{"a", 2, 30 * time.Second, 0},
		{"a", 3, 10 * time.Minute, 0}, // never more than the burst
		{"a", 1, 10 * time.Minute, 10 * time.Second},
		{"a", 1, 9 * time.Minute, 0},  // the clock was set back
		{"c", 4, 0, 10 * time.Second}, // more than there can be
		{"c", 1, 0, 0},                // which cost nothing
	} {
		if got := b.Take(step.key, step.n, t0.Add(step.after)); got != step.want {
			t.Errorf("step %d: wait %v, want %v", i, got, step.want)
		}
	}
}

func TestForce(t *testing.T) {
	b := New[string](rate)
	for range 100 {
		b.Force("a", 1, t0)
	}
	if got := b.Take("a", 1, t0); got != 10*time.Second {
		t.Errorf("wait %v after what could not: more than the burst is owed", got)
	}
}

// TestMomentsOutOfOrder: workers read the clock, and then take in another order. An
// empty bucket is not full because of that.
func TestMomentsOutOfOrder(t *testing.T) {
	b := New[string](rate)
	late := t0.Add(-100 * time.Millisecond)
	for range 3 {
		b.Take("a", 1, t0)
	}
	for range 100 {
		if got := b.Take("a", 1, late); got != 10*time.Second {
			t.Fatalf("wait %v for what is not there, want 10s", got)
		}
	}
	// Any earlier, and the clock was set back.
	if got := b.Wait("a", 1, t0.Add(-setBack)); got != 10*time.Second {
		t.Errorf("wait %v, want 10s", got)
	}
	if got := b.Wait("a", 1, t0.Add(-setBack-1)); got != 0 {
		t.Errorf("wait %v after the clock was set back", got)
	}
}

// TestQuietOnesAreForgotten: many who come once leave nothing behind.
func TestQuietOnesAreForgotten(t *testing.T) {
	b := New[int](rate)
	now := t0
	for i := range 100_000 {
		b.Take(i, 1, now)
		now = now.Add(time.Second / 10)
	}
	if n := len(b.buckets); n > 2*minSweep {
		t.Errorf("%d buckets are kept", n)
	}
	busy := New[int](rate)
	for i := range 3 * minSweep {
		busy.Take(i, 3, t0)
	}
	if got := busy.Take(0, 1, t0); got == 0 {
		t.Error("one that owes was forgotten")
	}
}

// TestSweeps: from minSweep buckets on, and then from twice as many as were left, full ones are dropped.
func TestSweeps(t *testing.T) {
	b := New[int](rate)
	for i := range minSweep - 1 {
		b.Take(i, 1, t0)
	}
	later := t0.Add(time.Hour)
	b.Take(-1, 3, later)
	if n := len(b.buckets); n != minSweep {
		t.Errorf("%d buckets, want %d: too few to be swept", n, minSweep)
	}
	for i := range minSweep - 1 {
		b.Take(minSweep+i, 3, later)
	}
	if n := len(b.buckets); n != minSweep || b.sweepAt != minSweep {
		t.Errorf("%d buckets and %d at the next sweep: none but the full ones go", n, b.sweepAt)
	}
	b.Take(-2, 3, later)
	if n := len(b.buckets); n != minSweep+1 || b.sweepAt != 2*minSweep {
		t.Errorf("%d buckets and %d at the next sweep, though none was full", n, b.sweepAt)
	}
}
