// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
)

// countedEvents counts the recorded events and keeps the last note.
type countedEvents struct {
	recorder.EventRecorder
	counts map[string]int
	last   string
}

func (c *countedEvents) Eventf(regarding, _ runtime.Object, _, _, _, note string, args ...any) {
	c.counts[regarding.(client.Object).GetName()]++
	c.last = fmt.Sprintf(note, args...)
}

// TestEventsAreFew records events again and again: about one object, and about ever
// new objects in one namespace.
func TestEventsAreFew(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	counted := &countedEvents{counts: map[string]int{}}
	events := Bounded{counted, NewBudget(clock)}
	object := func(namespace, name string) *v1alpha1.APIResource {
		return &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	record := func(o client.Object) {
		events.Eventf(o, nil, corev1.EventTypeNormal, v1alpha1.ReasonBundleWritten, "Distribute", "Wrote %d", 1)
	}
	for range 752 {
		record(object("payments", "attacked"))
	}
	record(object("payments", "other"))
	record(object("shop", "attacked"))
	if n := counted.counts["attacked"]; n != objectEventRate.Burst+1 {
		t.Errorf("%d events about two objects, want %d", n, objectEventRate.Burst+1)
	}
	if counted.counts["other"] != 1 {
		t.Error("another object's event was dropped")
	}
	clock.SetTime(clock.Now().Add(time.Hour))
	for range 752 {
		record(object("payments", "attacked"))
	}
	if n := counted.counts["attacked"]; n != 2*objectEventRate.Burst+1 {
		t.Errorf("%d events after an hour", n)
	}

	clear(counted.counts)
	for i := range 5000 {
		record(object("flood", fmt.Sprintf("object-%d", i)))
	}
	if n := len(counted.counts); n != namespaceEventRate.Burst {
		t.Errorf("%d events in a namespace, want %d", n, namespaceEventRate.Burst)
	}
	record(object("quiet", "object"))
	if counted.counts["object"] != 1 {
		t.Error("another namespace's event was dropped")
	}
}

// TestNotesAreOneLine: foreign text can forge neither lines nor colours.
func TestNotesAreOneLine(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	counted := &countedEvents{counts: map[string]int{}}
	events := Bounded{counted, NewBudget(clock)}
	events.Eventf(&corev1.Pod{}, nil, corev1.EventTypeNormal, "R", "A", "key %s%%", "a\nReady: True\x1b[31m\u202e\x7f"+strings.Repeat("é", 2000))
	if strings.ContainsAny(counted.last, "\n\x1b\u202e\x7f") || len(counted.last) > 1010 || !strings.HasPrefix(counted.last, "key a Ready: True") {
		t.Errorf("the note is %q", counted.last)
	}

	var list []metav1.Condition
	conditions.Set(&list, 1, conditions.False(v1alpha1.ConditionReady, "R", "the key\nReady: True\x1b[31m é"))
	if got := list[0].Message; strings.ContainsAny(got, "\n\x1b") || !strings.HasSuffix(got, "é") {
		t.Errorf("the condition's message is %q", got)
	}
}
