// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// turnSlack is how late a turn may be taken before others no longer wait for
// it. Who comes later still goes ahead of those of its tenant that need it less.
const turnSlack = 5 * time.Second

// newcomerCost is what a turn without a token costs a tenant, where a turn that
// replaces a token costs 1: where tenants compete, refreshes get twice the share
// of new clients.
const newcomerCost = 2

// Asker is who asks for a turn: an access of a tenant's client. A provisioning
// request is of no client and has a number for an access.
type Asker struct{ Tenant, Client, Access string }

// Need is what the turns of one tenant are ordered by. The sooner the token
// expires that is to be replaced, the sooner is the turn. Those without a token
// come after all that have one, the oldest first.
//
// The order is that of the needs alone, not of who asked first: whoever loses a
// place and comes again, after a restart too, has the same one.
type Need struct {
	Asker
	ExpiresAt time.Time // zero: there is no token yet
	Since     time.Time // age of what needs the turn
	// Proven reports that the endpoint has served the asker before, with what it
	// asks with now.
	Proven bool
}

func (n Need) compare(m Need) int {
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

// place is an asker's in a line.
type place struct {
	Need
	comesAt time.Time // when it was told to ask again
	ready   bool      // its turn had come, and it waits for something else than the budget
	stopped bool      // it might try an endpoint that fails, and waits for something else
	passed  bool      // the smaller budget of its own server has let it through
}

// queue holds the places of one tenant, the greatest need first.
type queue struct {
	tag    int // what the tenant has used up, in the line's virtual time
	places []*place
}

// due returns how many places replace a token. They are the first ones.
func (q *queue) due() int {
	i, _ := slices.BinarySearchFunc(q.places, true, func(p *place, _ bool) int {
		if p.ExpiresAt.IsZero() {
			return 1
		}
		return -1
	})
	return i
}

// finish is the virtual time at which the turn at an index is over.
func (q *queue) finish(virtual, index int) int {
	base, due := max(q.tag, virtual), q.due()
	if index < due {
		return base + index + 1
	}
	return base + due + newcomerCost*(index-due+1)
}

// before returns how many places come before one of another tenant, whose turn is
// over at a virtual time.
func (q *queue) before(virtual, finish int, n Need) (count int) {
	due := q.due()
	room := finish - 1 - max(q.tag, virtual)
	switch {
	case room <= 0:
	case room <= due:
		count = room
	default:
		count = due + (room-due)/newcomerCost
	}
	count = min(count, len(q.places))
	if count < len(q.places) && q.finish(virtual, count) == finish && q.places[count].compare(n) < 0 {
		count++
	}
	return count
}

// line has those that wait for a budget take from it: tenants in turn, and within
// a tenant by need. It is start-time fair queueing with the tenants as flows. It
// is not safe for concurrent use.
//
// Nobody is woken: who asks is told when to ask again. What the budget has is
// kept for those ahead until they are late by turnSlack.
type line struct {
	budget  *rate.Limiter
	queues  map[string]*queue // by tenant
	places  map[Asker]*place
	virtual int       // the tag of the tenant that has used up least of those that wait
	lateAt  time.Time // none is late before; zero: none waits
}

func newLine(b Budget) line {
	return line{budget: rate.NewLimiter(b.limit(), b.Burst), queues: map[string]*queue{}, places: map[Asker]*place{}}
}

func (l *line) setBudget(now time.Time, b Budget) {
	if l.budget.Limit() != b.limit() {
		l.budget.SetLimitAt(now, b.limit())
	}
	if l.budget.Burst() != b.Burst {
		l.budget.SetBurstAt(now, b.Burst)
	}
}

// ask returns the place of who asks, and how many are ahead of it. It then either
// takes its turn, or is told when to ask again.
func (l *line) ask(now time.Time, n Need) (p *place, ahead int) {
	l.dropLate(now)
	p = l.places[n.Asker]
	passed := false
	if p != nil && p.compare(n) != 0 {
		passed = p.passed
		l.leave(p)
		p = nil
	}
	q := l.queues[n.Tenant]
	if q == nil {
		q = &queue{tag: l.virtual}
		l.queues[n.Tenant] = q
	}
	index, _ := q.find(n)
	if p == nil {
		p = &place{Need: n, passed: passed}
		l.places[n.Asker] = p
		q.places = slices.Insert(q.places, index, p)
	}
	return p, l.ahead(q, index, n)
}

func (q *queue) find(n Need) (int, bool) {
	return slices.BinarySearchFunc(q.places, n, func(p *place, n Need) int { return p.compare(n) })
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

// until returns how long it is until the budget has something for the one with
// so many ahead, in whole milliseconds; zero if it has.
func (l *line) until(now time.Time, ahead int) time.Duration {
	missing := float64(ahead+1) - l.budget.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	ms := math.Ceil(missing/float64(l.budget.Limit())*1000 - 1e-6)
	return time.Duration(max(1, ms)) * time.Millisecond
}

// readyAhead returns how many of its tenant's are ahead of a place that replace a
// token and wait for something else than the budget. They come first to that, too.
func (l *line) readyAhead(p *place) (count int) {
	for _, other := range l.queues[p.Tenant].places {
		if other == p || other.ExpiresAt.IsZero() {
			break
		}
		if other.ready {
			count++
		}
	}
	return count
}

// take takes from the budget, which has something, and leaves the line.
func (l *line) take(now time.Time, p *place) {
	l.budget.AllowN(now, 1)
	q := l.queues[p.Tenant]
	start, cost := max(q.tag, l.virtual), 1
	if p.ExpiresAt.IsZero() {
		cost = newcomerCost
	}
	q.tag = start + cost
	l.leave(p)

	// Virtual time is that of the tenant which has used up least of those that
	// wait. Who comes back later starts there: nothing is saved up while idle.
	least, waiting := start, false
	for _, q := range l.queues {
		if tag := max(q.tag, l.virtual); len(q.places) > 0 && (!waiting || tag < least) {
			least, waiting = tag, true
		}
	}
	l.virtual = max(l.virtual, least)
	for tenant, q := range l.queues {
		if !waiting || len(q.places) == 0 && q.tag <= l.virtual {
			delete(l.queues, tenant)
		}
	}
}

// tell has a place wait until it asks again.
func (l *line) tell(p *place, comesAt time.Time) {
	p.comesAt = comesAt
	l.noteLate(p)
}

func (l *line) noteLate(p *place) {
	if late := p.comesAt.Add(turnSlack); l.lateAt.IsZero() || late.Before(l.lateAt) {
		l.lateAt = late
	}
}

// dropLate gives up the places of those that did not come when they were told
// to.
func (l *line) dropLate(now time.Time) {
	if l.lateAt.IsZero() || !now.After(l.lateAt) {
		return
	}
	l.lateAt = time.Time{}
	l.drop(func(p *place) bool {
		if now.After(p.comesAt.Add(turnSlack)) {
			return true
		}
		l.noteLate(p)
		return false
	})
}

func (l *line) leave(p *place) {
	q := l.queues[p.Tenant]
	if i, found := q.find(p.Need); found {
		q.places = slices.Delete(q.places, i, i+1)
	}
	delete(l.places, p.Asker)
	if len(q.places) == 0 && q.tag <= l.virtual {
		delete(l.queues, p.Tenant)
	}
}

// leaveAsker gives up the place of an asker, if it has one.
func (l *line) leaveAsker(a Asker) {
	if p := l.places[a]; p != nil {
		l.leave(p)
	}
}

// drop gives up the places that a function names.
func (l *line) drop(which func(*place) bool) {
	for tenant, q := range l.queues {
		q.places = slices.DeleteFunc(q.places, func(p *place) bool {
			if !which(p) {
				return false
			}
			delete(l.places, p.Asker)
			return true
		})
		if len(q.places) == 0 && q.tag <= l.virtual {
			delete(l.queues, tenant)
		}
	}
}
