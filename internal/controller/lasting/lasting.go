// SPDX-License-Identifier: Apache-2.0

// Package lasting tells of failures that last: in the log when one begins and when it is over,
// and in the log and by an event again and again while it lasts, because an event is gone
// after an hour and a condition is seen only by who looks. The reconcilers that write
// conditions use it. When something is told depends on the condition's transition time, not on
// what this process remembers: a restart tells nothing by itself.
package lasting

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// Interval is how often a failure is told while it lasts.
const Interval = time.Hour

// early is when a failure is told for the second and third time.
var early = []time.Duration{10 * time.Minute, 30 * time.Minute}

// spread is by how much objects that failed together are told apart, at most. It is half of
// the shortest time between two of an object's moments.
const spread = 5 * time.Minute

// quiet is how long an object that recovers and fails again is not told anew.
const quiet = 10 * time.Minute

// lines limits the lines in the log about all objects together, and linesOfOne those about
// one namespace, so that nobody uses up what others need. When an endpoint is down, ten
// thousand clients fail at once.
var (
	lines      = pace.Rate{Every: time.Second, Burst: 100}
	linesOfOne = pace.Rate{Every: 30 * time.Second, Burst: 10}
)

// Failures remembers what this process has seen of each object that fails, or did.
type Failures struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	lines   pace.Bucket
	ofOne   *pace.Buckets[string] // lines by namespace
	unsaid  int                   // lines that were left out since the last one
	objects map[subject]seen
}

// subject identifies an object by name.
type subject struct{ kind, namespace, name string }

type seen struct {
	looked time.Time // when the object was last looked at while it failed
	begun  time.Time // when its failure was last told as a new one
	mute   bool      // its present failure has not been told, because it flaps
}

// New returns failures of which none was seen.
func New(c clock.PassiveClock) *Failures {
	return &Failures{clock: c, ofOne: pace.New[string](linesOfOne), objects: map[subject]seen{}}
}

// Look reports a failure of an object if one begins, lasts or ends, by its conditions before
// and after a pass. It considers the conditions of the given types: the first that is False
// without being a decision counts. It returns when to look again, zero for never.
func (f *Failures) Look(ctx context.Context, events recorder.EventRecorder, o client.Object, before, after []metav1.Condition, types ...string) time.Duration {
	now, name := f.clock.Now(), subject{fmt.Sprintf("%T", o), o.GetNamespace(), o.GetName()}
	was, is := failing(before, types), failing(after, types)
	f.mu.Lock()
	last := f.objects[name]
	defer f.mu.Unlock()
	switch {
	case is == nil && was == nil:
		return 0
	case is == nil:
		f.objects[name] = seen{begun: last.begun}
		if !last.mute {
			f.say(ctx, now, "Recovered", o, was)
		}
		return 0
	case was == nil && now.Before(last.begun.Add(quiet)):
		last.looked, last.mute = now, true
	case was == nil:
		f.objects[name] = seen{looked: now, begun: now}
		f.say(ctx, now, "Began to fail", o, is)
		return next(is.LastTransitionTime.Time, now, string(o.GetUID())).Sub(now)
	}
	due := next(is.LastTransitionTime.Time, last.looked, string(o.GetUID()))
	tell := !last.looked.IsZero() && !now.Before(due)
	f.objects[name] = seen{looked: now, begun: last.begun, mute: last.mute && !tell}
	if tell {
		f.say(ctx, now, "Still failing", o, is)
		events.Eventf(o, nil, corev1.EventTypeWarning, is.Reason, "Remind", "For %s now: %s", length(is, now), is.Message)
	}
	return next(is.LastTransitionTime.Time, now, string(o.GetUID())).Sub(now)
}

// Forget drops what is remembered of an object.
func (f *Failures) Forget(o client.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objects, subject{fmt.Sprintf("%T", o), o.GetNamespace(), o.GetName()})
}

// failing returns the first condition of some types that is False and not a decision.
func failing(conditions []metav1.Condition, types []string) *metav1.Condition {
	for _, t := range types {
		if c := meta.FindStatusCondition(conditions, t); c != nil && c.Status == metav1.ConditionFalse && !rules.Decided(c.Reason) {
			return c
		}
	}
	return nil
}

// say writes a line, unless there were too many.
func (f *Failures) say(ctx context.Context, now time.Time, what string, o client.Object, c *metav1.Condition) {
	if f.ofOne.Take(o.GetNamespace(), 1, now) > 0 || f.lines.Take(lines, 1, now) > 0 {
		f.unsaid++
		return
	}
	values := []any{"object", klog.KObj(o), "condition", c.Type, "reason", c.Reason, "message", c.Message, "since", c.LastTransitionTime.UTC().Format(time.RFC3339)}
	if f.unsaid > 0 {
		values, f.unsaid = append(values, "leftOut", f.unsaid), 0
	}
	log.FromContext(ctx).Info(what, values...)
}

// length returns for how long a condition has been False, in words that are not more exact
// than they need to be.
func length(c *metav1.Condition, now time.Time) string {
	d := now.Sub(c.LastTransitionTime.Time)
	if d < time.Hour {
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h", int(d.Hours()))
}

// next returns the first moment after another one at which a failure is told. The moments are
// a function of its beginning and of the object, so that every process finds the same.
func next(since, after time.Time, seed string) time.Time {
	since = since.Add(refresh.Spread(seed, spread))
	if i := slices.IndexFunc(early, func(d time.Duration) bool { return since.Add(d).After(after) }); i >= 0 {
		return since.Add(early[i])
	}
	return since.Add(after.Sub(since).Truncate(Interval) + Interval)
}
