// SPDX-License-Identifier: Apache-2.0

// Package pace bounds how often the operator does something for somebody who could
// ask for it without end: a burst at once, and then one per interval. It keeps its
// state in memory only, and drops that of whoever has been quiet for long enough. The
// present time is an argument.
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
	full time.Time // when everything that was taken is there again
}

// Take takes n if they are there. Otherwise it takes nothing and returns how long to
// wait for them. More than the burst is never there.
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

// Force takes n whether or not they are there, for what must not wait. The bucket
// never owes more than the burst.
func (b *Bucket) Force(r Rate, n int, now time.Time) {
	b.full = now.Add(min(b.missing(r, now)+time.Duration(n)*r.Every, time.Duration(r.Burst)*r.Every))
}

// setBack tells a clock that was set back from a late caller. A time that is earlier
// than the last one by less than this was read before others took, and arrived after
// them.
const setBack = 10 * time.Second

// missing returns how long it takes until the bucket is full.
func (b *Bucket) missing(r Rate, now time.Time) time.Duration {
	missing, empty := b.full.Sub(now), time.Duration(r.Burst)*r.Every
	if missing > empty+setBack {
		return 0
	}
	return max(0, min(missing, empty))
}

// Buckets holds a bucket for each key. It is safe for concurrent use.
type Buckets[K comparable] struct {
	rate Rate

	mu      sync.Mutex
	buckets map[K]*Bucket
	sweepAt int // how many buckets there may be before the full ones are dropped
}

// minSweep is how many buckets are kept before any is dropped.
const minSweep = 1024

// New returns buckets that fill at a rate.
func New[K comparable](r Rate) *Buckets[K] {
	return &Buckets[K]{rate: r, buckets: map[K]*Bucket{}, sweepAt: minSweep}
}

// Take calls Bucket.Take of the key's bucket.
func (b *Buckets[K]) Take(key K, n int, now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of(key, now).Take(b.rate, n, now)
}

// Wait calls Bucket.Wait of the key's bucket.
func (b *Buckets[K]) Wait(key K, n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bucket, ok := b.buckets[key]; ok {
		return bucket.Wait(b.rate, n, now)
	}
	return (&Bucket{}).Wait(b.rate, n, now)
}

// Force calls Bucket.Force of the key's bucket.
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
