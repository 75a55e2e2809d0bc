// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
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

// compare requests a comparison of an object with its server, at most once per
// wishInterval.
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

func (w *wishes) Wanted(name types.NamespacedName) bool {
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
