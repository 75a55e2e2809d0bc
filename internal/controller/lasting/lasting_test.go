// SPDX-License-Identifier: Apache-2.0

package lasting_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/lasting"
)

var start = time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)

// told records events and lines of the log, as "17:00 what reason".
type told struct {
	recorder.EventRecorder
	clock  *clocktesting.FakePassiveClock
	ctx    context.Context
	events []string
	lines  []string
}

// Eventf records an event.
func (n *told) Eventf(_, _ runtime.Object, _, reason, _, note string, args ...any) {
	n.events = append(n.events, n.clock.Now().Format("15:04 ")+reason+": "+fmt.Sprintf(note, args...))
}

// Write records a line of the log.
func (n *told) Write(line []byte) (int, error) {
	n.lines = append(n.lines, n.clock.Now().Format("15:04 ")+string(line))
	return len(line), nil
}

func newTold() *told {
	n := &told{clock: clocktesting.NewFakePassiveClock(start)}
	n.ctx = log.IntoContext(context.Background(), zap.New(zap.WriteTo(n), zap.UseDevMode(true)))
	return n
}

func client(name string) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}}
}

func fresh(status metav1.ConditionStatus, reason string, since time.Time) []metav1.Condition {
	return []metav1.Condition{{Type: "Fresh", Status: status, Reason: reason, Message: "It failed", LastTransitionTime: metav1.NewTime(since)}}
}

// live looks at a client again whenever that is due, for some time, and returns how often.
func (n *told) live(f *lasting.Failures, c *v1alpha1.M2MClient, is []metav1.Condition, d time.Duration) (looks int) {
	end := n.clock.Now().Add(d)
	for {
		wait := f.Look(n.ctx, n, c, is, is, "Fresh")
		looks++
		if wait <= 0 || n.clock.Now().Add(wait).After(end) {
			n.clock.SetTime(end)
			return looks
		}
		n.clock.SetTime(n.clock.Now().Add(wait))
	}
}

func TestAFailureIsToldSparingly(t *testing.T) {
	n := newTold()
	f, c := lasting.New(n.clock), client("cart")
	good, bad := fresh("True", "TokensFresh", start.Add(-time.Hour)), fresh("False", "TokenRequestFailed", start)
	f.Look(n.ctx, n, c, good, bad, "Fresh")
	if looks := n.live(f, c, bad, 5*time.Hour); looks > 10 {
		t.Errorf("it was looked at %d times in 5 hours", looks)
	}
	if len(n.lines) != 7 || len(n.events) != 6 { // the transition's own event is the conditions' matter
		t.Fatalf("%d lines and %d events in 5 hours:\n%s\n%s", len(n.lines), len(n.events), strings.Join(n.lines, "\n"), strings.Join(n.events, "\n"))
	}
	for i, parts := range [][]string{{"17:00", "Began to fail", "TokenRequestFailed", "It failed", "2026-11-29T17:00:00Z"}, {"17:1", "Still failing"}, {"17:3", "Still failing"}, {"18:0"}, {"19:0"}, {"20:0"}, {"21:0"}} {
		for _, part := range parts {
			if !strings.Contains(n.lines[i], part) {
				t.Errorf("line %d does not say %q: %s", i, part, n.lines[i])
			}
		}
	}
	if last := n.events[5]; !strings.Contains(last, "TokenRequestFailed: For 4 h now: It failed") {
		t.Errorf("the last event is %q", last)
	}
	f.Look(n.ctx, n, c, bad, good, "Fresh")
	if last := n.lines[7]; !strings.Contains(last, "Recovered") {
		t.Errorf("the last line is %q", last)
	}
	if wait := f.Look(n.ctx, n, c, good, good, "Fresh"); wait != 0 || len(n.lines) != 8 {
		t.Error("a client that works is looked at")
	}
}

func TestARestartTellsNothing(t *testing.T) {
	n := newTold()
	bad := fresh("False", "TokenRequestFailed", start.Add(-150*time.Minute))
	f := lasting.New(n.clock)
	var longest time.Duration
	for i := range 10_000 {
		longest = max(longest, f.Look(n.ctx, n, client(fmt.Sprint(i)), bad, bad, "Fresh"))
	}
	if len(n.lines)+len(n.events) > 0 {
		t.Errorf("a restart with 10,000 failing clients wrote %d lines and %d events", len(n.lines), len(n.events))
	}
	if longest > lasting.Interval {
		t.Errorf("the last one is told in %s", longest)
	}
	n.live(f, client("0"), bad, lasting.Interval)
	if len(n.events) != 1 {
		t.Errorf("%d events in the hour after a restart, want 1", len(n.events))
	}
}

func TestTheLogIsNotFlooded(t *testing.T) {
	n := newTold()
	f := lasting.New(n.clock)
	good, bad := fresh("True", "TokensFresh", start), fresh("False", "TokenRequestFailed", start)
	for i := range 10_000 {
		c := client(fmt.Sprint(i))
		c.Namespace = fmt.Sprint(i % 200)
		f.Look(n.ctx, n, c, good, bad, "Fresh")
	}
	if len(n.lines) > 100 {
		t.Errorf("%d lines at once", len(n.lines))
	}
	n.clock.SetTime(start.Add(time.Second))
	f.Look(n.ctx, n, client("x"), good, bad, "Fresh")
	if last := n.lines[len(n.lines)-1]; !strings.Contains(last, `"leftOut": 9900`) {
		t.Errorf("the last line does not say how many were left out: %s", last)
	}
}

// TestATenantsLinesAreItsOwn: the failures of one namespace leave lines for those of others.
func TestATenantsLinesAreItsOwn(t *testing.T) {
	n := newTold()
	f := lasting.New(n.clock)
	good, bad := fresh("True", "TokensFresh", start), fresh("False", "TokenRequestFailed", start)
	for i := range 1000 {
		c := client(fmt.Sprint(i))
		c.Namespace = "evil"
		f.Look(n.ctx, n, c, good, bad, "Fresh")
	}
	f.Look(n.ctx, n, client("cart"), good, bad, "Fresh")
	if last := n.lines[len(n.lines)-1]; !strings.Contains(last, "shop") {
		t.Errorf("the last of %d lines is not about the other tenant: %s", len(n.lines), last)
	}
}

func TestWhatIsNotTold(t *testing.T) {
	good := fresh("True", "TokensFresh", start)
	for name, is := range map[string][]metav1.Condition{
		"a decision":         fresh("False", v1alpha1.ReasonNotGranted, start),
		"what is not known":  fresh("Unknown", v1alpha1.ReasonWaitingForBudget, start),
		"another condition":  {{Type: "Ready", Status: "False", Reason: "TokenMissing"}},
		"no condition":       nil,
		"a working one":      good,
		"a client of before": fresh("True", "", start),
	} {
		t.Run(name, func(t *testing.T) {
			n := newTold()
			f := lasting.New(n.clock)
			if wait := f.Look(n.ctx, n, client("cart"), good, is, "Fresh"); wait != 0 {
				t.Errorf("it is looked at again in %s", wait)
			}
			if len(n.lines)+len(n.events) > 0 {
				t.Errorf("told: %q %q", n.lines, n.events)
			}
		})
	}
}

// TestFlapping: a client that fails and recovers every second is not told each time.
func TestFlapping(t *testing.T) {
	n := newTold()
	f, c := lasting.New(n.clock), client("cart")
	for i := range 120 {
		now := start.Add(time.Duration(i) * time.Second)
		n.clock.SetTime(now)
		good, bad := fresh("True", "TokensFresh", now), fresh("False", "TokenRequestFailed", now)
		f.Look(n.ctx, n, c, good, bad, "Fresh")
		f.Look(n.ctx, n, c, bad, good, "Fresh")
	}
	if len(n.lines) > 2 {
		t.Errorf("%d lines about a client that flaps", len(n.lines))
	}
	f.Forget(c)
	f.Look(n.ctx, n, c, fresh("True", "", start), fresh("False", "TokenRequestFailed", n.clock.Now()), "Fresh")
	if len(n.lines) != 3 {
		t.Error("a client that was made anew is not told")
	}
}
