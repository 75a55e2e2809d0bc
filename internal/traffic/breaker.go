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

	// toldMax caps how long a Retry-After that several sources got keeps everybody
	// from the endpoint. Then one of them tries again.
	toldMax = time.Minute

	// probeStep is how much later each further source in line comes to a probe;
	// probeSpread caps the sum.
	probeStep   = 50 * time.Millisecond
	probeSpread = 5 * time.Second

	// probeWindow is how long a probe waits for a source that is ahead in line.
	probeWindow = 250 * time.Millisecond
)

// breaker stops requests to an endpoint that fails. Its sources are all tenants, or
// all clients of one tenant. One source alone never opens it, unless the failures
// speak of the endpoint itself. An open breaker lets one probe through at a time.
// Sources that have not failed since it opened come first, and among them the one
// whose token expires first. A breaker is not safe for concurrent use.
type breaker struct {
	// source returns the source to which the breaker counts a request.
	source func(Need) source
	// each lets every source that has not failed since the breaker opened try once,
	// one per second, however the others fared.
	each bool

	failures   int    // in a row
	unanswered int    // how many of them got no answer at all
	first      source // the source of the first of them
	several    bool   // another source failed too

	opened int       // how often in a row it opened
	until  time.Time // open until then, half-open after; zero: closed
	held   bool      // the server asked for until
	quiet  time.Time // no source may try before, because the server asked for that when the breaker opened
	// quieted is the last value of quiet. If the server asks for quiet again within
	// toldMax of it, sources may try nevertheless: a server must not keep everybody
	// away over and over.
	quieted time.Time
	asked   [2]asked // the sources that the server asked to wait, the longest first

	probe   *Ticket        // under way
	tried   time.Time      // when a source that had not failed tried last
	failed  map[source]int // requests since it opened, by client and by tenant
	waiting []*entry       // in the order in which they may probe
}

// source is a client or, without one, a whole tenant.
type source struct{ tenant, client string }

func tenantOf(n Need) source { return source{tenant: n.Tenant} }
func clientOf(n Need) source { return source{n.Tenant, n.Client} }

// asked is a source that the server asked to wait with Retry-After, and until when.
type asked struct {
	source source
	until  time.Time
}

func (b *breaker) closed() bool { return b.until.IsZero() }

// admits reports whether a request may be sent now. If not, it returns when to ask
// again.
func (b *breaker) admits(now time.Time, n Need) (ok bool, again time.Time) {
	if b.closed() {
		return true, time.Time{}
	}
	p, rank := b.entry(now, n)
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

// mayTry reports whether a source that has not failed may try while the breaker is
// open. One may per second: any of them if b.each is set, otherwise only one whose
// token would expire untried before the next probe.
func (b *breaker) mayTry(now time.Time, p *entry, rank int) bool {
	if now.Before(b.tried.Add(breakerBase)) {
		return false
	}
	if b.each && !now.Before(b.quiet) {
		return !b.isBehind(now, rank)
	}
	return now.Before(b.until) && now.Before(p.ExpiresAt) && p.ExpiresAt.Before(b.until.Add(breakerBase))
}

// isBehind reports whether an entry ahead of the rank is expected now.
func (b *breaker) isBehind(now time.Time, rank int) bool {
	return slices.ContainsFunc(b.waiting[:rank], func(better *entry) bool {
		return !better.stopped && !better.comesAt.After(now.Add(probeWindow))
	})
}

// entry returns the entry of an asker that waits for a probe, and how many are ahead
// of it.
func (b *breaker) entry(now time.Time, n Need) (*entry, int) {
	b.waiting = slices.DeleteFunc(b.waiting, func(p *entry) bool {
		return p.Asker == n.Asker && p.Compare(n) != 0 || now.After(p.comesAt.Add(turnSlack))
	})
	i, found := b.find(n)
	if !found {
		b.waiting = slices.Insert(b.waiting, i, &entry{Need: n, comesAt: now})
	}
	return b.waiting[i], i
}

func (b *breaker) find(n Need) (int, bool) {
	return slices.BinarySearchFunc(b.waiting, n, func(p *entry, n Need) int { return b.compare(p.Need, n) })
}

func (b *breaker) compare(n, m Need) int {
	return cmp.Or(
		cmp.Compare(b.failed[tenantOf(n)], b.failed[tenantOf(m)]),
		cmp.Compare(b.failed[clientOf(n)], b.failed[clientOf(m)]),
		n.Compare(m),
	)
}

// stops notes that an asker that may try has to wait for something else. Others need
// not wait for it.
func (b *breaker) stops(n Need, until time.Time) {
	if b.closed() {
		return
	}
	if i, found := b.find(n); found {
		b.waiting[i].comesAt, b.waiting[i].stopped = until, true
	}
}

// sent notes that a request was admitted.
func (b *breaker) sent(now time.Time, t *Ticket) {
	if b.closed() {
		return
	}
	b.drop(func(p *entry) bool { return p.Asker == t.need.Asker })
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

// succeeded closes the breaker, unless the server asked to be left alone while the
// request was under way.
func (b *breaker) succeeded(now time.Time, t *Ticket) {
	if b.held && now.Before(b.until) && b.probe != t && !t.urgent {
		return
	}
	*b = breaker{source: b.source, each: b.each, quieted: b.quieted}
}

// failedOnce counts a failure and reports whether it opened the breaker. Requests
// that were under way when the breaker opened fail late and tell nothing new.
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

// note counts a failure of a source, which comes later to the next probes.
func (b *breaker) note(n Need) {
	if b.failed == nil {
		b.failed = map[source]int{}
	}
	b.failed[tenantOf(n)]++
	b.failed[clientOf(n)]++
	slices.SortFunc(b.waiting, func(p, q *entry) int { return b.compare(p.Need, q.Need) })
}

func (b *breaker) open(now time.Time) {
	wait := min(breakerMax, breakerBase<<min(b.opened, 10)) // 2^10 seconds are above breakerMax
	if b.opened++; b.opened == 1 {
		b.tried = now
	}
	b.until, b.held, b.probe = now.Add(wait), false, nil
}

// hold notes that a server asked a source to wait. Once it has asked a second
// source too, nobody else tries until the first of the two may, or for toldMax.
func (b *breaker) hold(now time.Time, t *Ticket, wait time.Duration) {
	from, until := b.source(t.need), now.Add(wait)
	first, second := &b.asked[0], &b.asked[1]
	switch {
	case second.source == from: // one source is never both
		*second = asked{from, until}
	case first.source == from || !now.Before(first.until):
		*first = asked{from, until}
	case !now.Before(second.until) || until.After(second.until):
		*second = asked{from, until}
	}
	if !now.Before(first.until) || !now.Before(second.until) {
		return
	}
	both := first.until
	if second.until.Before(both) {
		both = second.until
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

// drop removes the entries that a function selects.
func (b *breaker) drop(which func(*entry) bool) { b.waiting = slices.DeleteFunc(b.waiting, which) }

func latest(a, b, c time.Time) time.Time {
	if b.After(a) {
		a = b
	}
	if c.After(a) {
		a = c
	}
	return a
}
