// SPDX-License-Identifier: Apache-2.0

// Package traffic decides when a request may go to an endpoint that many tenants
// share: whose turn it is within the endpoint's budget, who waits while it fails,
// and how many workers one tenant or slow endpoint may hold. It knows tenants,
// clients and endpoints by strings, speaks no protocol, keeps everything in memory,
// and takes the time as an argument.
//
// The promise is that one tenant's trouble stays its own. Whatever others do, a
// tenant that asks for one thing at a time gets its turn after at most one turn of
// each of the others (two, if it has no token yet). A failure of others delays it by
// breakerMax at most. A token that would expire meanwhile is tried before.
package traffic

import (
	"hash/fnv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// turnover: if a request to an account ended this recently, another one is
	// expected to end at once.
	turnover = 50 * time.Millisecond

	// refusedBurst is how many refusals a tenant may collect at an endpoint before
	// those of its clients that were never served have to wait. Then one of them may
	// try per refusedEvery. Those that failed leave the last try to one that did not.
	refusedBurst = 5
	refusedEvery = 30 * time.Second
)

// Budget is how many requests per second may be sent, and how many at once.
type Budget struct {
	PerSecond float64
	Burst     int
}

func (b Budget) limit() rate.Limit { return rate.Limit(b.PerSecond) }

// Endpoint is where a request goes.
type Endpoint struct {
	// Account identifies the server, whatever object names it. All requests to one
	// server share an account.
	Account string
	// Route identifies the address and how it is trusted. A failure speaks of a
	// route.
	Route string
	// Owner is the object that names the endpoint. Own is the budget that it gives
	// its clients.
	Owner string
	Own   Budget
	// Ceiling is the budget that the platform gives the account. If it is zero, the
	// largest budget of the owners counts.
	Ceiling Budget
}

// Cause is why a request has to wait.
type Cause string

const (
	// CauseBudget means that the budget is used up for the moment.
	CauseBudget Cause = "Budget"
	// CausePlaces means that the limit of concurrent requests is reached.
	CausePlaces Cause = "Places"
	// CauseEndpoint means that the endpoint fails for several tenants, or does not
	// answer.
	CauseEndpoint Cause = "Endpoint"
	// CauseTenant means that the endpoint fails for several clients of the tenant.
	CauseTenant Cause = "Tenant"
	// CauseRefusals means that the endpoint has refused many requests of the tenant.
	CauseRefusals Cause = "Refusals"
)

// Outcome is how a request ended.
type Outcome string

const (
	// Served means that the endpoint gave what was asked for.
	Served Outcome = "Served"
	// Refused means that the endpoint works but refused this client, or gave it
	// something unusable.
	Refused Outcome = "Refused"
	// Failed means that the endpoint answered that it is in trouble itself.
	Failed Outcome = "Failed"
	// Unanswered means that no answer came.
	Unanswered Outcome = "Unanswered"
)

// Answer is the result of Ask: a ticket for a request, or how long to wait and why.
type Answer struct {
	Ticket *Ticket
	Wait   time.Duration
	Cause  Cause
	// Freed receives when a place becomes free. It is nil unless a place is all that
	// is missing and requests end every moment.
	Freed <-chan struct{}
}

// Ticket stands for an admitted request. Its holder must call Done or Abandon.
type Ticket struct {
	need    Need
	account *account
	route   *route
	place   *Place
	sentAt  time.Time
	urgent  bool // admitted although a breaker was open
	paid    bool // counted as refused in advance
}

// Gate admits requests. It is safe for concurrent use.
type Gate struct {
	places  *Places
	workers int

	mu       sync.Mutex
	accounts map[string]*account
	routes   map[string]*route
	owners   map[string]Endpoint // by owner, as it asked last
}

// account is what all requests to one server share.
type account struct {
	line     line
	own      map[string]*line   // by owner, of those whose budget is below the ceiling
	owners   map[string]Budget  // by owner
	refusals map[string]*tokens // by tenant
}

type tokens struct{ *rate.Limiter }

// route is an address, and how it fails.
type route struct {
	breaker
	name    string
	tenants map[string]*breaker // by tenant, of those whose requests fail
	owners  map[string]bool
	ended   time.Time     // when a request ended last
	full    time.Time     // when somebody found no place last
	freed   chan struct{} // receives when a request ends, for those that wait for a place
}

// NewGate returns a gate for a number of workers.
func NewGate(workers int) *Gate {
	return &Gate{
		places: NewPlaces(workers), workers: max(1, workers),
		accounts: map[string]*account{}, routes: map[string]*route{}, owners: map[string]Endpoint{},
	}
}

// at returns the state of an endpoint, and notes who names it.
func (g *Gate) at(e Endpoint) (*account, *route) {
	if was, ok := g.owners[e.Owner]; ok && (was.Account != e.Account || was.Route != e.Route) {
		g.forget(e.Owner)
	}
	g.owners[e.Owner] = e
	a := g.accounts[e.Account]
	if a == nil {
		a = &account{
			line: newLine(e.Own), own: map[string]*line{}, owners: map[string]Budget{}, refusals: map[string]*tokens{},
		}
		g.accounts[e.Account] = a
	}
	a.owners[e.Owner] = e.Own
	r := g.routes[e.Route]
	if r == nil {
		r = &route{
			breaker: breaker{source: tenantOf, each: true},
			name:    e.Route, tenants: map[string]*breaker{}, owners: map[string]bool{}, freed: make(chan struct{}, g.workers),
		}
		g.routes[e.Route] = r
	}
	r.owners[e.Owner] = true
	return a, r
}

// budget returns the budget of the account as a whole.
func (a *account) budget(e Endpoint) Budget {
	most := e.Ceiling
	if most == (Budget{}) {
		for _, b := range a.owners {
			if b.PerSecond > most.PerSecond || b.PerSecond == most.PerSecond && b.Burst > most.Burst {
				most = b
			}
		}
	}
	return most
}

// ownLine returns the line of an owner whose budget is below that of the account. It
// returns nil for other owners.
func (a *account) ownLine(now time.Time, e Endpoint, all Budget) *line {
	if e.Own.PerSecond >= all.PerSecond && e.Own.Burst >= all.Burst {
		delete(a.own, e.Owner)
		return nil
	}
	l := a.own[e.Owner]
	if l == nil {
		made := newLine(e.Own)
		l = &made
		a.own[e.Owner] = l
	}
	l.setBudget(now, e.Own)
	return l
}

// Ask asks to send a token request. An asker that has to wait keeps its place if it
// asks again in time.
func (g *Gate) Ask(now time.Time, e Endpoint, n Need) Answer {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, r := g.at(e)
	if ok, again := r.admits(now, n); !ok {
		a.leaveAsker(n.Asker)
		return Answer{Wait: again.Sub(now), Cause: CauseEndpoint}
	}
	answer := g.askTenant(now, e, n, a, r)
	if answer.Ticket == nil {
		answer.Wait = max(time.Millisecond, answer.Wait)
		r.stops(n, now.Add(answer.Wait))
	}
	return answer
}

// askTenant is Ask where the route's breaker admits the request.
func (g *Gate) askTenant(now time.Time, e Endpoint, n Need, a *account, r *route) Answer {
	tenant := r.tenants[n.Tenant]
	if tenant != nil {
		if ok, again := tenant.admits(now, n); !ok {
			a.leaveAsker(n.Asker)
			return Answer{Wait: again.Sub(now), Cause: CauseTenant}
		}
	}
	answer := g.askTurn(now, e, n, a, r)
	if answer.Ticket == nil && tenant != nil {
		tenant.stops(n, now.Add(answer.Wait))
	}
	return answer
}

// askTurn is Ask where no breaker objects.
func (g *Gate) askTurn(now time.Time, e Endpoint, n Need, a *account, r *route) Answer {
	if until := a.refusals[n.Tenant].until(now, n); until > 0 && !n.Proven {
		a.leaveAsker(n.Asker)
		return Answer{Wait: until + spread(n.Client+n.Access, time.Second), Cause: CauseRefusals}
	}
	at, ahead, until := a.turn(now, e, n)
	if at == nil {
		return Answer{Wait: until, Cause: CauseBudget}
	}
	at.ready = until == 0
	var place *Place
	if at.ready {
		place = g.places.Take(now, n.Tenant, r.name, a.line.readyAhead(at))
	}
	if place != nil {
		a.line.take(now, at)
		return Answer{Ticket: g.send(now, &Ticket{need: n, account: a, route: r, place: place, sentAt: now})}
	}
	answer := Answer{Wait: until, Cause: CauseBudget}
	if at.ready {
		r.full = now
	}
	if at.ready || now.Sub(r.full) < time.Second {
		answer.Cause = CausePlaces
		if at.ready && now.Sub(r.ended) < turnover {
			answer.Freed = r.freed
		}
		// The further back in line, the longer the wait: the whole line must not
		// come again and again while the server is slow.
		busy := 100*time.Millisecond + spread(n.Client, 200*time.Millisecond)
		answer.Wait = max(until, busy*time.Duration(1+ahead/(2*g.workers)))
	}
	if at.ready {
		g.places.Await(now, now.Add(answer.Wait), n.Tenant, r.name)
	}
	a.line.postpone(at, now.Add(answer.Wait))
	return answer
}

// send notes that a request is admitted.
func (g *Gate) send(now time.Time, t *Ticket) *Ticket {
	breakers := []*breaker{&t.route.breaker}
	if of := t.route.tenants[t.need.Tenant]; of != nil {
		breakers = append(breakers, of)
	}
	for _, b := range breakers {
		t.urgent = t.urgent || !b.closed()
		b.sent(now, t)
	}
	if refusals := t.account.refusals[t.need.Tenant]; refusals != nil && !t.need.Proven {
		t.paid = refusals.AllowN(now, 1)
	}
	return t
}

// turn returns an asker's entry in the line of the account, how many are ahead of
// it, and how long it takes until the budget has something for it. The entry is nil
// while the smaller budget of its owner has nothing.
func (a *account) turn(now time.Time, e Endpoint, n Need) (at *entry, ahead int, until time.Duration) {
	all := a.budget(e)
	a.line.setBudget(now, all)
	if own := a.ownLine(now, e, all); own != nil {
		if p := a.line.entries[n.Asker]; p == nil || !p.passed {
			at, ahead = own.ask(now, n)
			if until = own.until(now, ahead); until > 0 {
				own.postpone(at, now.Add(until))
				return nil, ahead, until
			}
			own.take(now, at)
		}
	}
	at, ahead = a.line.ask(now, n)
	at.passed = true
	return at, ahead, a.line.until(now, ahead)
}

// Turn asks the budget alone, for a request to another endpoint of the server than
// the token endpoint. It returns zero if the request may be sent now, else how long
// to wait.
func (g *Gate) Turn(now time.Time, e Endpoint, n Need) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, r := g.at(e)
	at, _, until := a.turn(now, e, n)
	if at == nil {
		return until
	}
	if now.Sub(r.full) < time.Second {
		until = a.line.until(now, 0) // token requests wait for places and cannot use the budget now
	}
	if until == 0 {
		a.line.take(now, at)
		return 0
	}
	a.line.postpone(at, now.Add(until))
	return until
}

// Done reports how a request ended. retryAfter is how long the server asked this
// client to leave it alone, zero if it did not ask.
func (g *Gate) Done(now time.Time, t *Ticket, how Outcome, retryAfter time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(now, t, how != Unanswered)
	r, tenant := t.route, t.route.tenants[t.need.Tenant]
	switch how {
	case Served, Refused:
		r.succeeded(now, t)
		if tenant != nil {
			if tenant.succeeded(now, t); tenant.closed() {
				delete(r.tenants, t.need.Tenant)
			}
		}
		if how == Served && !t.need.Proven {
			delete(t.account.refusals, t.need.Tenant) // its clients are known now
		}
		if how == Refused && !t.paid {
			t.account.refused(now, t.need.Tenant)
		}
		return
	}
	if tenant == nil {
		tenant = &breaker{source: clientOf}
		r.tenants[t.need.Tenant] = tenant
	}
	if r.failedOnce(now, t, how == Unanswered) {
		clear(r.tenants)
	} else if r.closed() {
		tenant.failedOnce(now, t, false)
	} else {
		tenant.abandon(t) // the failure speaks of the endpoint, not of the tenant
	}
	if retryAfter > 0 {
		r.hold(now, t, retryAfter)
		tenant.hold(now, t, retryAfter)
	}
}

// Abandon reports that a request was not sent after all.
func (g *Gate) Abandon(now time.Time, t *Ticket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(now, t, false)
	t.route.abandon(t)
	if of := t.route.tenants[t.need.Tenant]; of != nil {
		of.abandon(t)
	}
}

// release gives back the place that a request held.
func (g *Gate) release(now time.Time, t *Ticket, answered bool) {
	g.places.Give(now, t.place, answered)
	r := t.route
	r.ended = now
	select {
	case r.freed <- struct{}{}:
	default: // the channel holds as many as there are places
	}
}

// Leave removes a client from all lines.
func (g *Gate) Leave(client string) {
	g.leave(func(a Asker) bool { return a.Client == client })
}

// LeaveAsker removes one asker from all lines.
func (g *Gate) LeaveAsker(asker Asker) {
	g.leave(func(a Asker) bool { return a == asker })
}

func (g *Gate) leave(which func(Asker) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	of := func(p *entry) bool { return which(p.Asker) }
	for _, a := range g.accounts {
		a.line.drop(of)
		for _, l := range a.own {
			l.drop(of)
		}
	}
	for _, r := range g.routes {
		r.drop(of)
		for _, b := range r.tenants {
			b.drop(of)
		}
	}
}

// Forget drops the state of an owner, and of the accounts and routes that nobody else
// names.
func (g *Gate) Forget(owner string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(owner)
}

func (g *Gate) forget(owner string) {
	e, ok := g.owners[owner]
	if !ok {
		return
	}
	delete(g.owners, owner)
	a, r := g.accounts[e.Account], g.routes[e.Route]
	delete(a.owners, owner)
	delete(a.own, owner)
	if len(a.owners) == 0 {
		delete(g.accounts, e.Account)
	}
	delete(r.owners, owner)
	if len(r.owners) == 0 {
		delete(g.routes, e.Route)
		g.places.Forget(e.Route)
	}
}

func (a *account) leaveAsker(who Asker) {
	a.line.leaveAsker(who)
	for _, l := range a.own {
		l.leaveAsker(who)
	}
}

// refused counts a refusal of a tenant's request.
func (a *account) refused(now time.Time, tenant string) {
	of := a.refusals[tenant]
	if of == nil {
		for t, other := range a.refusals {
			if other.TokensAt(now) >= refusedBurst {
				delete(a.refusals, t) // nothing was refused for long
			}
		}
		of = &tokens{rate.NewLimiter(rate.Every(refusedEvery), refusedBurst)}
		a.refusals[tenant] = of
	}
	of.AllowN(now, 1)
}

// until returns how long it takes until there is a token for an asker.
func (t *tokens) until(now time.Time, n Need) time.Duration {
	if t == nil {
		return 0
	}
	needed := 1.0
	if n.Failed {
		needed = 2
	}
	missing := needed - t.TokensAt(now)
	if missing <= 1e-9 {
		return 0
	}
	return time.Duration(missing * float64(refusedEvery))
}

// spread maps a seed evenly onto [0, most), so that askers that wait for the same
// moment do not come all at once.
func spread(seed string, most time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(seed))
	return time.Duration(float64(most) * float64(h.Sum32()) / (1 << 32))
}
