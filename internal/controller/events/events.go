// SPDX-License-Identifier: Apache-2.0

// Package events bounds the events that the operator records, per object and per
// namespace, and shortens their notes to what the API server accepts. Package
// controller gives each reconciler that records events a Bounded recorder; all of
// them share one Budget. The package does not decide what is worth an event.
package events

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// These rates limit the events about one object and in one namespace. An event stays in
// etcd for an hour, and a tenant may be able to cause events about another tenant's object
// again and again. Dropping some does no harm: the conditions have what lasts.
var (
	objectEventRate    = pace.Rate{Every: time.Minute, Burst: 25}
	namespaceEventRate = pace.Rate{Every: 100 * time.Millisecond, Burst: 1000}
)

// Budget limits the events of all recorders together.
type Budget struct {
	clock      clock.PassiveClock
	objects    *pace.Buckets[eventSubject]
	namespaces *pace.Buckets[string]
}

// eventSubject identifies the object of an event by name: an object that was deleted and
// created again counts as the same one.
type eventSubject struct{ kind, namespace, name string }

// NewBudget returns a budget from which nothing was taken yet.
func NewBudget(c clock.PassiveClock) *Budget {
	return &Budget{clock: c, objects: pace.New[eventSubject](objectEventRate), namespaces: pace.New[string](namespaceEventRate)}
}

// allows reports whether one more event may be recorded about an object.
func (b *Budget) allows(regarding runtime.Object) bool {
	o, ok := regarding.(client.Object)
	if !ok {
		return true
	}
	now := b.clock.Now()
	subject := eventSubject{fmt.Sprintf("%T", o), o.GetNamespace(), o.GetName()}
	return b.objects.Take(subject, 1, now) == 0 && b.namespaces.Take(subject.namespace, 1, now) == 0
}

// Bounded records events within a budget. It shortens notes to what an event can hold: a
// list of names may be of any length, and the API server would refuse the event.
type Bounded struct {
	recorder.EventRecorder
	Budget *Budget
}

// Eventf records an event, unless the budget is used up.
func (e Bounded) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	if !e.Budget.allows(regarding) {
		metrics.EventsDropped.Inc()
		return
	}
	e.EventRecorder.Eventf(regarding, related, eventType, reason, action, "%s", fitting(fmt.Sprintf(note, args...)))
}

// fitting shortens a note to one line that fits the 1024 bytes of an event.
func fitting(note string) string { return text.CutBytes(text.Line(note), 1000) }
