// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// turnSlack is how late an asker may come to its turn before the others stop waiting
// for it. One that comes later still goes ahead of those of its tenant with less need.
const turnSlack = 5 * time.Second

// newcomerCost is what a turn of a client without a token costs its tenant. A turn
// that replaces a token costs 1, so refreshes get twice the share of new clients
// where tenants compete.
const newcomerCost = 2

// Asker identifies who asks for a turn: an access of a tenant's client. A
// provisioning request has no client, and a number as its access.
type Asker struct{ Tenant, Client, Access string }

// Need orders the turns of one tenant. The sooner the token to be replaced expires,
// the sooner the turn. Askers without a token come after all that have one, the
// oldest first.
//
// Only the needs decide, not who asked first: an asker that loses its place and
// comes again, even after a restart, gets the same one.
type Need struct {
	Asker
	ExpiresAt time.Time // zero: there is no token yet
	Since     time.Time // since when the asker exists
	// Proven means that the endpoint has served the asker before, for the same
	// inputs.
	Proven bool
	// Failed means that the asker's last request failed, for the same inputs.
	Failed bool
}

// Compare returns a negative number if n is greater than m, so that it comes first, a
// positive one if m is, and zero if they are equal.
func (n Need) Compare(m Need) int {
	if n.ExpiresAt.IsZero() != m.ExpiresAt.IsZero() {
		if m.ExpiresAt.IsZero() {
			return -1
		}
		return 1
	}
	return cmp.Or(
		n.ExpiresAt.Compare(m.ExpiresAt), n.Since.Compare(m.Since),
		cmp.Compare(n.Client, m.Client), cmp.Compare(n.Access, m.Access), cmp.Compare(n.Tenant, m.Tenant),
	)
}

// entry is one asker's entry in a line.
type entry struct {
	Need
	comesAt time.Time // when it was told to ask again
	ready   bool      // its turn has come, but it waits for something else than the budget
	stopped bool      // it may try an endpoint that fails, but waits for something else
	passed  bool      // it has taken from the smaller budget of its owner
}

// queue holds the entries of one tenant, the greatest need first.
type queue struct {
	tag     int // what the tenant has used, in the line's virtual time
	entries []*entry
}

// due returns how many entries replace a token. They come first.
func (q *queue) due() int {
	i, _ := slices.BinarySearchFunc(q.entries, true, func(p *entry, _ bool) int {
		if p.ExpiresAt.IsZero() {
			return 1
		}
		return -1
	})
	return i
}

// finish returns the virtual time at which the turn at an index ends.
func (q *queue) finish(virtual, index int) int {
	turns, due := index+1, q.due()
	return max(q.tag, virtual) + min(turns, due) + newcomerCost*max(0, turns-due)
}

// before returns how many entries come before one of another tenant whose turn ends
// at a virtual time.
func (q *queue) before(virtual, finish int, n Need) (count int) {
	due := q.due()
	room := finish - 1 - max(q.tag, virtual)
	count = min(len(q.entries), max(0, min(room, due))+max(0, room-due)/newcomerCost)
	if count < len(q.entries) && q.finish(virtual, count) == finish && q.entries[count].Compare(n) < 0 {
		count++
	}
	return count
}

// line is a priority queue in front of a rate limiter: tenants take turns, and need
// decides within a tenant. It is start-time fair queueing with the tenants as flows.
// It is not safe for concurrent use.
//
// The line wakes nobody: it tells each asker when to ask again. What the budget has
// is kept for those ahead until they are late by turnSlack.
type line struct {
	budget  *rate.Limiter
	queues  map[string]*queue // by tenant
	entries map[Asker]*entry
	virtual int       // the least tag among the tenants that wait
	lateAt  time.Time // no entry is late before; zero: none waits
}

func newLine(b Budget) line {
	return line{budget: rate.NewLimiter(b.limit(), b.Burst), queues: map[string]*queue{}, entries: map[Asker]*entry{}}
}

func (l *line) setBudget(now time.Time, b Budget) {
	if l.budget.Limit() != b.limit() {
		l.budget.SetLimitAt(now, b.limit())
	}
	if l.budget.Burst() != b.Burst {
		l.budget.SetBurstAt(now, b.Burst)
	}
}

// ask returns the entry of an asker, made if need be, and how many are ahead of it.
// The caller then calls take or postpone for it.
func (l *line) ask(now time.Time, n Need) (p *entry, ahead int) {
	l.dropLate(now)
	p = l.entries[n.Asker]
	passed := false
	if p != nil && p.Compare(n) != 0 {
		passed = p.passed
		l.remove(p)
		p = nil
	}
	q := l.queues[n.Tenant]
	if q == nil {
		q = &queue{tag: l.virtual}
		l.queues[n.Tenant] = q
	}
	index, _ := q.find(n)
	if p == nil {
		p = &entry{Need: n, passed: passed}
		l.entries[n.Asker] = p
		q.entries = slices.Insert(q.entries, index, p)
	}
	return p, l.ahead(q, index, n)
}

func (q *queue) find(n Need) (int, bool) {
	return slices.BinarySearchFunc(q.entries, n, func(p *entry, n Need) int { return p.Compare(n) })
}

func (l *line) ahead(mine *queue, index int, n Need) int {
	finish, ahead := mine.finish(l.virtual, index), index
	for _, q := range l.queues {
		if q != mine {
			ahead += q.before(l.virtual, finish, n)
		}
	}
	return ahead
}

// until returns how long it takes until the budget has something for an entry with
// so many ahead, in whole milliseconds; zero if it has something now.
func (l *line) until(now time.Time, ahead int) time.Duration {
	missing := float64(ahead+1) - l.budget.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	ms := math.Ceil(missing/float64(l.budget.Limit())*1000 - 1e-6)
	return time.Duration(max(1, ms)) * time.Millisecond
}

// readyAhead returns how many entries of the same tenant that are ahead replace a
// token and wait for something else than the budget. They come first there too.
func (l *line) readyAhead(p *entry) (count int) {
	for _, other := range l.queues[p.Tenant].entries {
		if other == p || other.ExpiresAt.IsZero() {
			break
		}
		if other.ready {
			count++
		}
	}
	return count
}

// take takes from the budget, which must have something, and removes the entry.
func (l *line) take(now time.Time, p *entry) {
	l.budget.AllowN(now, 1)
	q := l.queues[p.Tenant]
	start, cost := max(q.tag, l.virtual), 1
	if p.ExpiresAt.IsZero() {
		cost = newcomerCost
	}
	q.tag = start + cost
	l.remove(p)

	// Virtual time is the least tag among the tenants that wait. A tenant that comes
	// back later starts there: nobody saves up turns while idle.
	least, waiting := math.MaxInt, false
	for _, q := range l.queues {
		if len(q.entries) > 0 {
			least, waiting = min(least, max(q.tag, l.virtual)), true
		}
	}
	if !waiting {
		least = start
	}
	l.virtual = max(l.virtual, least)
	for tenant, q := range l.queues {
		if !waiting || len(q.entries) == 0 && q.tag <= l.virtual {
			delete(l.queues, tenant)
		}
	}
}

// postpone notes when an entry was told to ask again.
func (l *line) postpone(p *entry, comesAt time.Time) {
	p.comesAt = comesAt
	l.noteLate(p)
}

func (l *line) noteLate(p *entry) {
	if late := p.comesAt.Add(turnSlack); l.lateAt.IsZero() || late.Before(l.lateAt) {
		l.lateAt = late
	}
}

// dropLate removes the entries of askers that did not come in time.
func (l *line) dropLate(now time.Time) {
	if l.lateAt.IsZero() || !now.After(l.lateAt) {
		return
	}
	l.lateAt = time.Time{}
	l.drop(func(p *entry) bool {
		if now.After(p.comesAt.Add(turnSlack)) {
			return true
		}
		l.noteLate(p)
		return false
	})
}

func (l *line) remove(p *entry) {
	q := l.queues[p.Tenant]
	if i, found := q.find(p.Need); found {
		q.entries = slices.Delete(q.entries, i, i+1)
	}
	delete(l.entries, p.Asker)
	if len(q.entries) == 0 && q.tag <= l.virtual {
		delete(l.queues, p.Tenant)
	}
}

// leaveAsker removes the entry of an asker, if it has one.
func (l *line) leaveAsker(a Asker) {
	if p := l.entries[a]; p != nil {
		l.remove(p)
	}
}

// drop removes the entries that a function selects.
func (l *line) drop(which func(*entry) bool) {
	for tenant, q := range l.queues {
		q.entries = slices.DeleteFunc(q.entries, func(p *entry) bool {
			if !which(p) {
				return false
			}
			delete(l.entries, p.Asker)
			return true
		})
		if len(q.entries) == 0 && q.tag <= l.virtual {
			delete(l.queues, tenant)
		}
	}
}
