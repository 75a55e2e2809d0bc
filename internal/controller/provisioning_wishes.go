// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// wishInterval is the least time between two comparisons of an object with its
// server that a failed token request asks for.
const wishInterval = 30 * time.Second

// wishes are the objects of one kind that are to be compared with their server
// before that is due: a token request has failed in a way that looks as if the
// server differed from what is recorded. A wish is lost with the process, which
// then waits for the next failure.
type wishes struct {
	clock clock.PassiveClock
	wake  chan event.GenericEvent

	mu   sync.Mutex
	made map[types.NamespacedName]wish
}

type wish struct {
	at   time.Time
	open bool
}

func newWishes(c clock.PassiveClock) *wishes {
	return &wishes{clock: c, wake: make(chan event.GenericEvent, 1024), made: map[types.NamespacedName]wish{}}
}

// compare has an object compared with its server, unless that was asked for a
// moment ago.
func (w *wishes) compare(o client.Object) {
	name, now := client.ObjectKeyFromObject(o), w.clock.Now()
	w.mu.Lock()
	last, ok := w.made[name]
	soon := ok && now.Before(last.at.Add(wishInterval))
	if !soon {
		w.made[name] = wish{at: now, open: true}
	}
	w.mu.Unlock()
	if soon {
		return
	}
	select {
	case w.wake <- event.GenericEvent{Object: o}:
	default: // its controller is busy with others; the wish stays open until the object's turn
	}
}

func (w *wishes) wanted(name types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made[name].open
}

// granted notes that an object was compared.
func (w *wishes) granted(name types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if made, ok := w.made[name]; ok {
		w.made[name] = wish{at: made.at}
	}
}

func (w *wishes) forget(name types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.made, name)
}

// changedOrDeleted passes what matters to provisioning of an object itself: its
// spec, its annotations, its finalizers and its deletion.
var changedOrDeleted = predicate.Or(
	predicate.GenerationChangedPredicate{},
	predicate.AnnotationChangedPredicate{},
	updates(func(before, after client.Object) bool {
		return !equality.Semantic.DeepEqual(before.GetDeletionTimestamp(), after.GetDeletionTimestamp()) ||
			!equality.Semantic.DeepEqual(before.GetFinalizers(), after.GetFinalizers())
	}))

// provisioningChanged passes what of a server matters to those who are
// provisioned at it: its spec, its endpoints, and whether it can be provisioned.
var provisioningChanged = predicate.Or(
	predicate.GenerationChangedPredicate{},
	updates(func(before, after client.Object) bool {
		ready := func(o client.Object) bool {
			return meta.IsStatusConditionTrue(statusOf(o).Conditions, v1alpha1.ConditionProvisioningReady)
		}
		return statusOf(before).Endpoints != statusOf(after).Endpoints || ready(before) != ready(after)
	}))

// updates passes the updates that a function chooses, and no other event:
// beside another predicate.
func updates(pass func(before, after client.Object) bool) predicate.Predicate {
	none := func(event.TypedGenericEvent[client.Object]) bool { return false }
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: none,
		UpdateFunc:  func(e event.UpdateEvent) bool { return pass(e.ObjectOld, e.ObjectNew) },
	}
}

// acceptedChanged passes the updates that accept an APIResource, or no longer
// do.
var acceptedChanged = updates(func(before, after client.Object) bool { return isAccepted(before) != isAccepted(after) })

// comparedAPI passes the updates of an APIResource that matter to its clients:
// what the server has of it.
var comparedAPI = updates(func(before, after client.Object) bool {
	return provisionedDiffers(before.(*v1alpha1.APIResource), after.(*v1alpha1.APIResource))
})

// notJustCompared passes the updates of an APIResource in which something else
// changed than when it was last compared with its server.
var notJustCompared = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*v1alpha1.APIResource), e.ObjectNew.(*v1alpha1.APIResource)
	was, is := before.Status, after.Status
	was.Provisioning.SyncedAt, is.Provisioning.SyncedAt = nil, nil
	return before.Generation != after.Generation || provisionedDiffers(before, after) || !equality.Semantic.DeepEqual(was, is)
}}

func provisionedDiffers(before, after *v1alpha1.APIResource) bool {
	was, is := before.Status.Provisioning, after.Status.Provisioning
	was.SyncedAt, is.SyncedAt = nil, nil
	return (before.Status.Provisioning.SyncedAt == nil) != (after.Status.Provisioning.SyncedAt == nil) || !equality.Semantic.DeepEqual(was, is)
}
