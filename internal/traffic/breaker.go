// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"slices"
	"time"
)

const (
	// breakerThreshold failures in a row open a breaker, from breakerBase up to
	// breakerMax for a probe each.
	breakerThreshold = 5
	breakerBase      = time.Second
	breakerMax       = 30 * time.Second

	// toldMax is how long an endpoint is left alone at most for a Retry-After that
	// several were told, until one of them tries again.
	toldMax = time.Minute

	// probeStep is how much later the next in line comes to a probe, and
	// probeSpread the most that makes.
	probeStep   = 50 * time.Millisecond
	probeSpread = 5 * time.Second

	// probeWindow is how long a probe waits for one who comes first.
	probeWindow = 250 * time.Millisecond
)

// breaker stops the requests of many sources to an endpoint that fails: of all
// tenants, or of all clients of one. One source alone never opens it, unless what
// failed speaks of the endpoint itself. Open, it lets one probe through at a time,
// and those that have not failed since it opened come first, the nearest expiry
// before all others. It is not safe for concurrent use.
type breaker struct {
	// source names in whom failures are told apart.
	source func(Need) source
	// each has every source that has not failed since the breaker opened tried once,
	// one a second, whatever became of the others.
	each bool

	failures   int    // in a row
	unanswered int    // those among them that got no answer at all
	first      source // of the first of them
	several    bool   // another source failed, too

	opened int       // how often in a row it opened
	until  time.Time // open until then, half-open after; zero: closed
	held   bool      // until is what the server asked for
	quiet  time.Time // no source is tried before, for the server asked for that when it opened
	// quieted is the last of these moments. The next time that the server asks for
	// it, all are tried, unless that is toldMax later: others are not kept from it
	// over and over.
	quieted time.Time
	told    [2]told // who was asked to wait, the longest first

	probe   *Ticket        // under way
	tried   time.Time      // when a source was tried last that had not failed
	failed  map[source]int // requests since it opened, by client and by tenant
	waiting []*place       // in the order in which they may probe
}

// source is whose requests fail: a client's or, without one, all of a tenant.
type source struct{ tenant, client string }

func tenantOf(n Need) source { return source{tenant: n.Tenant} }
func clientOf(n Need) source { return source{n.Tenant, n.Client} }

// told is whom the server asked to wait with Retry-After, and until when.
type told struct {
	source source
	until  time.Time
}

func (b *breaker) closed() bool { return b.until.IsZero() }

// admits reports whether a request may be sent now; if not, when to ask again.
func (b *breaker) admits(now time.Time, n Need) (ok bool, again time.Time) {
	if b.closed() {
		return true, time.Time{}
	}
	p, rank := b.place(now, n)
	later := min(time.Duration(rank)*probeStep, probeSpread) + spread(n.Client+n.Access, probeStep)
	switch {
	case b.failed[b.source(n)] == 0 && b.mayTry(now, p, rank):
		return true, time.Time{}
	case b.each && b.failed[b.source(n)] == 0:
		p.comesAt = latest(now, b.quiet, b.tried.Add(breakerBase)).Add(later)
	case now.Before(b.until):
		p.comesAt = b.until.Add(later)
	case b.probe != nil && now.Before(b.probe.sentAt.Add(breakerMax)):
		p.comesAt = now.Add(breakerBase + later)
	case b.isBehind(now, rank):
		p.comesAt = now.Add(probeWindow + later)
	default:
		return true, time.Time{}
	}
	return false, p.comesAt
}

// mayTry reports whether a source that has not failed may be tried while the breaker
// is open: one a second, each of them where that is wanted, otherwise only one whose
// token would expire untried before the next probe.
func (b *breaker) mayTry(now time.Time, p *place, rank int) bool {
	if now.Before(b.tried.Add(breakerBase)) {
		return false
	}
	if b.each && !now.Before(b.quiet) {
		return !b.isBehind(now, rank)
	}
	return now.Before(b.until) && now.Before(p.ExpiresAt) && p.ExpiresAt.Before(b.until.Add(breakerBase))
}

// isBehind reports whether somebody comes first who is expected now.
func (b *breaker) isBehind(now time.Time, rank int) bool {
	return slices.ContainsFunc(b.waiting[:rank], func(better *place) bool {
		return !better.stopped && !better.comesAt.After(now.Add(probeWindow))
	})
}

// place returns where somebody waits for a probe, and how many come before.
func (b *breaker) place(now time.Time, n Need) (*place, int) {
	b.waiting = slices.DeleteFunc(b.waiting, func(p *place) bool {
		return p.Asker == n.Asker && p.compare(n) != 0 || now.After(p.comesAt.Add(turnSlack))
	})
	i, found := b.find(n)
	if !found {
		b.waiting = slices.Insert(b.waiting, i, &place{Need: n, comesAt: now})
	}
	return b.waiting[i], i
}

func (b *breaker) find(n Need) (int, bool) {
	return slices.BinarySearchFunc(b.waiting, n, func(p *place, n Need) int { return b.compare(p.Need, n) })
}

func (b *breaker) compare(n, m Need) int {
	return cmp.Or(
		cmp.Compare(b.failed[tenantOf(n)], b.failed[tenantOf(m)]),
		cmp.Compare(b.failed[clientOf(n)], b.failed[clientOf(m)]),
		n.compare(m),
	)
}

// stops notes that somebody who might try has to wait for something else. Others need
// not wait for that.
func (b *breaker) stops(n Need, until time.Time) {
	if b.closed() {
		return
	}
	if i, found := b.find(n); found {
		b.waiting[i].comesAt, b.waiting[i].stopped = until, true
	}
}

// sent notes that a request was let through.
func (b *breaker) sent(now time.Time, t *Ticket) {
	if b.closed() {
		return
	}
	b.drop(func(p *place) bool { return p.Asker == t.need.Asker })
	if b.failed[b.source(t.need)] == 0 {
		b.tried = now
	}
	if !now.Before(b.until) && b.probe == nil {
		b.probe = t
	}
}

// abandon notes that a request was not sent after all: another may probe at once.
func (b *breaker) abandon(t *Ticket) {
	if b.probe == t {
		b.probe = nil
	}
}

// succeeded closes the breaker. A request that was under way when the server asked
// to be left alone does not overrule that.
func (b *breaker) succeeded(now time.Time, t *Ticket) {
	if b.held && now.Before(b.until) && b.probe != t && !t.urgent {
		return
	}
	*b = breaker{source: b.source, each: b.each, quieted: b.quieted}
}

// failedOnce counts a failure and reports whether the breaker opened by it.
// Requests that were under way when it opened fail late: that is no news.
func (b *breaker) failedOnce(now time.Time, t *Ticket, unanswered bool) (opened bool) {
	if !b.closed() {
		b.note(t.need)
		if b.probe == t {
			b.open(now)
		}
		return false
	}
	if b.failures++; unanswered {
		b.unanswered++
	}
	from := b.source(t.need)
	if b.failures == 1 {
		b.first = from
	}
	b.several = b.several || from != b.first
	if b.unanswered < breakerThreshold && (!b.several || b.failures < breakerThreshold) {
		return false
	}
	b.note(t.need)
	b.open(now)
	return true
}

// note has a source that failed come later to the next probes.
func (b *breaker) note(n Need) {
	if b.failed == nil {
		b.failed = map[source]int{}
	}
	b.failed[tenantOf(n)]++
	b.failed[clientOf(n)]++
	slices.SortFunc(b.waiting, func(p, q *place) int { return b.compare(p.Need, q.Need) })
}

func (b *breaker) open(now time.Time) {
	wait := breakerMax
	if b.opened < 10 { // 2^10 seconds are above breakerMax
		wait = min(wait, breakerBase<<b.opened)
	}
	if b.opened++; b.opened == 1 {
		b.tried = now
	}
	b.until, b.held, b.probe = now.Add(wait), false, nil
}

// hold takes what a server asked of one source. When it asks a second one the
// same, nobody else tries until the first of the two may, or for toldMax.
func (b *breaker) hold(now time.Time, t *Ticket, wait time.Duration) {
	from, until := b.source(t.need), now.Add(wait)
	switch {
	case b.told[0].source == from || !now.Before(b.told[0].until):
		b.told[0] = told{from, until}
	case b.told[1].source == from || !now.Before(b.told[1].until) || until.After(b.told[1].until):
		b.told[1] = told{from, until}
	}
	if !now.Before(b.told[0].until) || !now.Before(b.told[1].until) {
		return
	}
	both := b.told[0].until
	if b.told[1].until.Before(both) {
		both = b.told[1].until
	}
	if limit := now.Add(toldMax); both.After(limit) {
		both = limit
	}
	if both.After(b.until) {
		if b.closed() && !now.Before(b.quieted.Add(toldMax)) {
			b.quiet, b.quieted = both, both
		}
		b.until, b.held = both, true
		if b.probe == t {
			b.probe = nil
		}
		b.note(t.need)
	}
}

// drop gives up the places that a function names.
func (b *breaker) drop(which func(*place) bool) { b.waiting = slices.DeleteFunc(b.waiting, which) }

func latest(a, b, c time.Time) time.Time {
	if b.After(a) {
		a = b
	}
	if c.After(a) {
		a = c
	}
	return a
}
