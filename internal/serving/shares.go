// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Shares divides a limited resource, connections or bytes, between callers. When
// nothing is left, the caller who holds most loses the shares that have waited for him
// longest. So callers cannot keep out another who holds less than they do, however many
// requests they send.
type Shares struct {
	limit int64
	grace time.Duration // how long a share cannot be taken away
	clock clock.WithTicker

	mu      sync.Mutex
	used    int64
	held    map[*Share]struct{}
	of      map[string]int64 // the sum of each owner's shares
	waiting map[string]int   // how many requests of each owner wait
	changed chan struct{}    // closed when a share is released
}

// NewShares returns shares of a limit. No share is taken away within the grace.
func NewShares(limit int64, grace time.Duration, c clock.WithTicker) *Shares {
	return &Shares{
		limit: limit, grace: grace, clock: c,
		held: map[*Share]struct{}{}, of: map[string]int64{}, waiting: map[string]int{}, changed: make(chan struct{}),
	}
}

// Share is the part of the resource that one request of an owner holds.
type Share struct {
	from    *Shares
	owner   string
	size    int64
	since   time.Time // when it began to wait for its owner
	settled bool      // it does not wait for its owner, so it cannot be taken away
	take    func()
}

// Take returns a share, or nil if the owner can get none now. If the share is taken away
// later, the function take is called.
func (s *Shares) Take(owner string, size int64, take func()) *Share {
	s.mu.Lock()
	share, victims := s.try(owner, size, take)
	s.mu.Unlock()
	for _, v := range victims {
		v.take()
	}
	return share
}

// Wait is Take, but waits for a share until the context ends. The waiting owner who
// holds least goes first.
func (s *Shares) Wait(ctx context.Context, owner string, size int64, take func()) *Share {
	s.mu.Lock()
	s.waiting[owner]++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting[owner]--; s.waiting[owner] == 0 {
			delete(s.waiting, owner)
		}
		s.notify() // wake those who let this one go first
	}()
	for {
		s.mu.Lock()
		var share *Share
		var victims []*Share
		if !s.behind(owner) {
			share, victims = s.try(owner, size, take)
		}
		changed := s.changed
		s.mu.Unlock()
		for _, v := range victims {
			v.take()
		}
		if share != nil || size > s.limit {
			return share
		}
		graceOver := s.clock.NewTimer(max(s.grace, time.Millisecond))
		select {
		case <-changed:
		case <-graceOver.C():
		case <-ctx.Done():
			graceOver.Stop()
			return nil
		}
		graceOver.Stop()
	}
}

// behind reports whether an owner who holds less is waiting as well.
func (s *Shares) behind(owner string) bool {
	for other := range s.waiting {
		if s.of[other] < s.of[owner] {
			return true
		}
	}
	return false
}

// try returns a share. If there is not enough left, it takes other shares away, all that
// are needed or none.
func (s *Shares) try(owner string, size int64, take func()) (share *Share, victims []*Share) {
	now := s.clock.Now()
	if missing := s.used + size - s.limit; missing > 0 {
		if victims = s.victims(owner, size, missing, now); victims == nil {
			return nil, nil
		}
	}
	for _, v := range victims {
		s.drop(v)
	}
	share = &Share{from: s, owner: owner, size: size, since: now, take: take}
	s.held[share] = struct{}{}
	s.of[owner] += size
	s.used += size
	return share, victims
}

// victims returns shares whose sizes add up to what is missing, or nil if there are not
// enough. It takes the share that has waited longest from the owner who holds most, as
// long as that owner holds no less than the new owner would then hold.
func (s *Shares) victims(owner string, size, missing int64, now time.Time) (victims []*Share) {
	gone, lost := map[*Share]bool{}, map[string]int64{}
	for missing > 0 {
		var victim *Share
		most := s.of[owner] - lost[owner] + size
		for share := range s.held {
			if gone[share] || share.settled || now.Sub(share.since) < s.grace {
				continue
			}
			holds := s.of[share.owner] - lost[share.owner]
			if share.owner == owner {
				holds += size
			}
			if holds > most || holds == most && (victim == nil || share.since.Before(victim.since)) {
				victim, most = share, holds
			}
		}
		if victim == nil {
			return nil
		}
		gone[victim] = true
		lost[victim.owner] += victim.size
		missing -= victim.size
		victims = append(victims, victim)
	}
	return victims
}

func (s *Shares) drop(share *Share) {
	delete(s.held, share)
	s.used -= share.size
	if s.of[share.owner] -= share.size; s.of[share.owner] == 0 {
		delete(s.of, share.owner)
	}
}

func (s *Shares) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Used returns the sum of all shares.
func (s *Shares) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Settle records whether the share waits for its owner. A settled share does not, and
// cannot be taken away. An unsettled one waits from now on.
func (h *Share) Settle(settled bool) {
	h.from.mu.Lock()
	defer h.from.mu.Unlock()
	h.settled, h.since = settled, h.from.clock.Now()
}

// Release returns the share. It may be called more than once, also for a share that was
// taken away.
func (h *Share) Release() {
	h.from.mu.Lock()
	defer h.from.mu.Unlock()
	if _, ok := h.from.held[h]; ok {
		h.from.drop(h)
		h.from.notify()
	}
}
