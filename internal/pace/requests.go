// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"sync"
	"time"
)

// RequestInterval is the least time between two requests of people for one object.
const RequestInterval = 10 * time.Second

// Requests lets everybody make one new request per RequestInterval. A request is told from
// others by its value alone: each new value is one. It is safe for concurrent use.
//
// Whoever handles a request records its value, so that it is handled once, whatever
// becomes of the process.
type Requests[K comparable] struct {
	mu      sync.Mutex
	open    map[K]request
	sweepAt int // how many there may be before the old ones are dropped
}

type request struct {
	value string
	since time.Time
}

// NewRequests returns requests of which none was made.
func NewRequests[K comparable]() *Requests[K] {
	return &Requests[K]{open: map[K]request{}, sweepAt: minSweep}
}

// Current returns the request that is to be handled: the one that is asked for, or the one
// that was handled last if nothing new is asked for. If the new one comes too soon, Current
// returns its predecessor, handled or not, and how long the new one has to wait.
func (r *Requests[K]) Current(key K, asked, handled string, now time.Time) (value string, wait time.Duration) {
	if asked == "" || asked == handled {
		return handled, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.open[key]
	if ok && last.value == asked {
		return asked, 0
	}
	if wait = last.since.Add(RequestInterval).Sub(now); ok && wait > 0 && wait <= RequestInterval+setBack {
		return last.value, min(wait, RequestInterval)
	}
	if !ok && len(r.open) >= r.sweepAt {
		for k, other := range r.open {
			if !now.Before(other.since.Add(RequestInterval)) {
				delete(r.open, k) // it no longer makes anything wait
			}
		}
		r.sweepAt = max(minSweep, 2*len(r.open))
	}
	r.open[key] = request{asked, now}
	return asked, 0
}

// Forget drops what is remembered of a key.
func (r *Requests[K]) Forget(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, key)
}
