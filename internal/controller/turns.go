// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
)

// turnSlack is how late a turn may be taken before others no longer wait for
// it. Who comes later still goes ahead of those that need it less.
const turnSlack = 5 * time.Second

// asker is who asks for a turn: an access of a client, or a provisioning
// request, which is of no client and has a number.
type asker struct {
	client types.UID
	access string
}

// need is what turns are ordered by. The sooner the token expires that is to be
// replaced, the sooner is the turn. Those without a token come after all that
// have one, the oldest first.
//
// The order is that of the needs alone, not of who asked first: whoever loses a
// place and comes again, after a restart too, has the same one.
type need struct {
	asker
	expiresAt time.Time // zero: there is no token yet
	since     time.Time // of what needs the turn
}

func (n need) compare(m need) int {
	if n.expiresAt.IsZero() != m.expiresAt.IsZero() {
		if m.expiresAt.IsZero() {
			return -1
		}
		return 1
	}
	return cmp.Or(
		n.expiresAt.Compare(m.expiresAt), n.since.Compare(m.since),
		cmp.Compare(n.client, m.client), cmp.Compare(n.access, m.access),
	)
}

// place is somebody's in the line.
type place struct {
	need
	comesAt time.Time // when it was told to ask again
	ready   bool      // its turn had come, and it waits for something else than the budget
}

// turns has those that wait for a budget take from it in the order of their
// need. It is not safe for concurrent use.
//
// Nobody is woken: who asks is told when to ask again. What the budget has is
// kept for those ahead until they are late by turnSlack.
type turns struct {
	budget *rate.Limiter
	line   []*place // the greatest need first
	places map[asker]*place
	lateAt time.Time // nobody is late before; zero: nobody waits
}

func newTurns(limit rate.Limit, burst int) turns {
	return turns{budget: rate.NewLimiter(limit, burst), places: map[asker]*place{}}
}

func (t *turns) setBudget(now time.Time, limit rate.Limit, burst int) {
	if t.budget.Limit() != limit {
		t.budget.SetLimitAt(now, limit)
	}
	if t.budget.Burst() != burst {
		t.budget.SetBurstAt(now, burst)
	}
}

// ask returns the place in the line of who asks, and how many are ahead of it.
// It then either takes its turn, or is told when to ask again.
func (t *turns) ask(now time.Time, n need) (p *place, ahead int) {
	t.dropLate(now)
	p = t.places[n.asker]
	if p != nil && p.compare(n) != 0 {
		t.leave(p.need)
		p = nil
	}
	ahead, _ = t.find(n)
	if p == nil {
		p = &place{need: n}
		t.places[n.asker] = p
		t.line = slices.Insert(t.line, ahead, p)
	}
	return p, ahead
}

// until returns how long it is until the budget has something for the one with
// so many ahead, in whole milliseconds; zero if it has.
func (t *turns) until(now time.Time, ahead int) time.Duration {
	missing := float64(ahead+1) - t.budget.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	ms := math.Ceil(missing/float64(t.budget.Limit())*1000 - 1e-6)
	return time.Duration(max(1, ms)) * time.Millisecond
}

// readyAhead returns how many of those ahead replace a token and wait for
// something else than the budget. They come first to that, too.
func (t *turns) readyAhead(ahead int) (count int) {
	for _, p := range t.line[:ahead] {
		if p.expiresAt.IsZero() {
			break
		}
		if p.ready {
			count++
		}
	}
	return count
}

// take takes from the budget, which has something, and leaves the line.
func (t *turns) take(now time.Time, p *place) {
	t.budget.AllowN(now, 1)
	t.leave(p.need)
}

// tell has a place wait until it asks again.
func (t *turns) tell(p *place, comesAt time.Time) {
	p.comesAt = comesAt
	t.noteLate(p)
}

func (t *turns) noteLate(p *place) {
	if late := p.comesAt.Add(turnSlack); t.lateAt.IsZero() || late.Before(t.lateAt) {
		t.lateAt = late
	}
}

// dropLate gives up the places of those that did not come when they were told
// to.
func (t *turns) dropLate(now time.Time) {
	if t.lateAt.IsZero() || !now.After(t.lateAt) {
		return
	}
	t.lateAt = time.Time{}
	t.drop(func(p *place) bool {
		if now.After(p.comesAt.Add(turnSlack)) {
			return true
		}
		t.noteLate(p)
		return false
	})
}

func (t *turns) leave(n need) {
	if i, found := t.find(n); found {
		t.line = slices.Delete(t.line, i, i+1)
	}
	delete(t.places, n.asker)
}

// leaveAll gives up all places of a client.
func (t *turns) leaveAll(client types.UID) {
	t.drop(func(p *place) bool { return p.client == client })
}

func (t *turns) drop(which func(*place) bool) {
	t.line = slices.DeleteFunc(t.line, func(p *place) bool {
		if !which(p) {
			return false
		}
		delete(t.places, p.asker)
		return true
	})
}

func (t *turns) find(n need) (i int, found bool) {
	return slices.BinarySearchFunc(t.line, n, func(p *place, n need) int { return p.compare(n) })
}
