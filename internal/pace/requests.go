// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"sync"
	"time"
)

// Requests lets everybody make one new request per interval. A request is told from
// others by its value alone: each new value is one. It is safe for concurrent use.
//
// What was handled last is not its matter: whoever handles a request records its value,
// so that it is handled once, whatever becomes of the process.
type Requests[K comparable] struct {
	interval time.Duration

	mu      sync.Mutex
	open    map[K]request
	sweepAt int // how many there may be before the old ones are dropped
}

type request struct {
	value string
	since time.Time
}

// NewRequests returns requests, of which each key may make one per interval.
func NewRequests[K comparable](interval time.Duration) *Requests[K] {
	return &Requests[K]{interval: interval, open: map[K]request{}, sweepAt: minSweep}
}

// Current returns the request that is to be handled: the one that is asked for, or the one
// that was handled last if nothing new is asked for or it comes too soon. Then it returns
// how long the new one has to wait.
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
	if wait = last.since.Add(r.interval).Sub(now); ok && wait > 0 && wait <= r.interval+setBack {
		return handled, min(wait, r.interval)
	}
	if !ok && len(r.open) >= r.sweepAt {
		for k, other := range r.open {
			if !now.Before(other.since.Add(r.interval)) {
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
