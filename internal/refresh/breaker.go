// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"sync"
	"time"
)

// Breaker keeps many clients from hammering one authorization server that is
// down. Closed, it lets everything through. After a number of consecutive
// failures it opens and lets nothing through for a while; then it is half-open
// and lets a single probe through, whose result closes it or opens it again
// for twice as long. It is safe for concurrent use.
//
// Only failures of the server as such are to be reported as failures: no
// connection, a timeout, status 429 or 5xx, a malformed answer. A refusal of
// one client, such as invalid_client, shows a server that works, and is a
// success.
type Breaker struct {
	threshold int
	base, max time.Duration

	mu       sync.Mutex
	failures int       // in a row, while closed
	opened   int       // how often in a row it opened by failures
	until    time.Time // open until then, half-open after; zero: closed
	asked    bool      // until comes from the server
	probe    time.Time // start of the outstanding probe; zero: none
}

// NewBreaker makes a closed breaker that opens after threshold consecutive
// failures (less than one counts as one), for base at first and up to limit. A
// base of zero or less means a second, a limit below base means base.
func NewBreaker(threshold int, base, limit time.Duration) *Breaker {
	if base <= 0 {
		base = time.Second
	}
	return &Breaker{threshold: threshold, base: base, max: max(base, limit)}
}

// Allow says whether a request may be sent now. If it may, its result is owed
// to Report, or its absence to Abandon; a probe that never reports gives up its
// turn after limit. If it may not, retryAt is when to ask again, later than now.
func (b *Breaker) Allow(now time.Time) (ok bool, retryAt time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.until.IsZero() {
		return true, time.Time{}
	}
	if limit := now.Add(MaxRetryAfter); b.asked && b.until.After(limit) {
		b.until = limit
	}
	if now.Before(b.until) {
		return false, b.until
	}
	if lost := b.probe.Add(b.max); !b.probe.IsZero() && now.Before(lost) {
		// The probe will answer long before it counts as lost.
		if soon := now.Add(b.base); soon.Before(lost) {
			return false, soon
		}
		return false, lost
	}
	b.probe = now
	return true, time.Time{}
}

// Report takes the result of a request that Allow let through. A success
// closes the breaker and forgets all failures.
//
// Requests that were under way when it opened report late. Their failures are
// no news, and their success does not overrule what the server asked for with
// Open.
func (b *Breaker) Report(now time.Time, success bool) {
	b.mu.Lock()
	defer b.mu.Unlock()

	open := now.Before(b.until)
	switch {
	case success && open && b.asked:
	case success:
		b.failures, b.opened, b.until, b.asked, b.probe = 0, 0, time.Time{}, false, time.Time{}
	case open:
	case b.until.IsZero():
		if b.failures++; b.failures >= b.threshold {
			b.open(now)
		}
	default:
		b.open(now)
	}
}

// Abandon says that a request which Allow let through was not sent after all.
// If it was the probe, the next one may be sent at once.
func (b *Breaker) Abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()

	b.probe = time.Time{}
}

// open opens the breaker because of failures.
func (b *Breaker) open(now time.Time) {
	b.until = now.Add(double(b.base, b.max, b.opened))
	b.opened++
	b.asked, b.probe = false, time.Time{}
}

// Open opens the breaker until a moment that the server asked for with
// Retry-After, if it is not open for longer already. After that it is
// half-open. What is more than MaxRetryAfter ahead is cut to that by the next
// Allow.
func (b *Breaker) Open(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if until.After(b.until) {
		b.until, b.asked, b.probe = until, true, time.Time{}
	}
}
