// SPDX-License-Identifier: Apache-2.0

// Package pace bounds how often something is done on behalf of somebody who
// could have it done without end: so often at once, and then every so often. It
// keeps what it must remember in memory only, and forgets whoever has kept quiet
// for long enough. The present time is an argument.
package pace

import (
	"sync"
	"time"
)

// Rate allows Burst at once after a pause, and one more per Every.
type Rate struct {
	Every time.Duration
	Burst int
}

// Bucket remembers what was taken at a rate. The zero value is full.
type Bucket struct {
	full time.Time // when all that was taken is there again
}

// Take takes n, if there are as many, and otherwise nothing: then it returns how
// long to wait for them. More than the burst is never there.
func (b *Bucket) Take(r Rate, n int, now time.Time) (wait time.Duration) {
	if wait = b.Wait(r, n, now); wait == 0 {
		b.Force(r, n, now)
	}
	return wait
}

// Wait returns how long it takes until n can be taken.
func (b *Bucket) Wait(r Rate, n int, now time.Time) time.Duration {
	return max(0, b.missing(r, now)+time.Duration(n-r.Burst)*r.Every)
}

// Force takes n, whether or not they are there, for what must not wait. No more
// than the burst is owed.
func (b *Bucket) Force(r Rate, n int, now time.Time) {
	b.full = now.Add(min(b.missing(r, now)+time.Duration(n)*r.Every, time.Duration(r.Burst)*r.Every))
}

// setBack is by how much a moment must be earlier than those before it for the
// clock to have been set back. One that is earlier by less was read before others
// took, and comes after them.
const setBack = 10 * time.Second

// missing is how long it takes until the bucket is full.
func (b *Bucket) missing(r Rate, now time.Time) time.Duration {
	missing, empty := b.full.Sub(now), time.Duration(r.Burst)*r.Every
	if missing < 0 || missing > empty+setBack {
		return 0
	}
	return min(missing, empty)
}

// Buckets are buckets by key. They are safe for concurrent use.
type Buckets[K comparable] struct {
	rate Rate

	mu      sync.Mutex
	buckets map[K]*Bucket
	sweepAt int // how many there may be before the full ones are forgotten
}

// minSweep is how many buckets are kept at least before any is forgotten.
const minSweep = 1024

// New returns buckets that are filled at a rate.
func New[K comparable](r Rate) *Buckets[K] {
	return &Buckets[K]{rate: r, buckets: map[K]*Bucket{}, sweepAt: minSweep}
}

// Take is Bucket.Take of a key's bucket.
func (b *Buckets[K]) Take(key K, n int, now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of(key, now).Take(b.rate, n, now)
}

// Wait is Bucket.Wait of a key's bucket.
func (b *Buckets[K]) Wait(key K, n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bucket, ok := b.buckets[key]; ok {
		return bucket.Wait(b.rate, n, now)
	}
	return (&Bucket{}).Wait(b.rate, n, now)
}

// Force is Bucket.Force of a key's bucket.
func (b *Buckets[K]) Force(key K, n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(key, now).Force(b.rate, n, now)
}

func (b *Buckets[K]) of(key K, now time.Time) *Bucket {
	bucket, ok := b.buckets[key]
	if ok {
		return bucket
	}
	if len(b.buckets) >= b.sweepAt {
		for k, other := range b.buckets {
			if !other.full.After(now) {
				delete(b.buckets, k) // a new one is as full
			}
		}
		b.sweepAt = max(minSweep, 2*len(b.buckets))
	}
	bucket = &Bucket{}
	b.buckets[key] = bucket
	return bucket
}
