// SPDX-License-Identifier: Apache-2.0

package traffic

import "time"

// idle is how long after its last probe a breaker counts as open. A source tries again well
// within it; if none did, there is nobody left who would close the breaker.
const idle = 5 * time.Minute

// Load is how much is asked of an endpoint, and what holds requests back.
type Load struct {
	// PerSecond is the budget that binds the owner's requests.
	PerSecond float64
	// Used is the part of the burst that is used up, from 0 to 1.
	Used float64
	// Queued is how many requests of any owner wait for their turn in the account.
	Queued int
	// Open reports whether the endpoint's breaker stops everybody's requests.
	Open bool
	// StoppedTenants is how many tenants have a breaker of their own that stops theirs.
	StoppedTenants int
}

// Loads returns the load of each owner's endpoint.
func (g *Gate) Loads(now time.Time) map[string]Load {
	g.mu.Lock()
	defer g.mu.Unlock()
	loads := make(map[string]Load, len(g.owners))
	queued := map[string]int{} // by account, which owners may share
	for owner, e := range g.owners {
		a, r := g.accounts[e.Account], g.routes[e.Route]
		n, counted := queued[e.Account]
		if !counted {
			n = a.line.queued(now)
			queued[e.Account] = n
		}
		l := Load{PerSecond: min(float64(a.line.budget.Limit()), e.Own.PerSecond), Used: a.line.used(now), Queued: n, Open: r.stopping(now)}
		if own := a.own[owner]; own != nil {
			l.Used = max(l.Used, own.used(now))
			l.Queued += own.queued(now)
		}
		for _, b := range r.tenants {
			if b.stopping(now) {
				l.StoppedTenants++
			}
		}
		loads[owner] = l
	}
	return loads
}

// queued returns how many entries wait. Those that did not come in time are dropped only
// when somebody asks.
func (l *line) queued(now time.Time) (n int) {
	for _, p := range l.entries {
		if !now.After(p.comesAt.Add(turnSlack)) {
			n++
		}
	}
	return n
}

// used returns the part of the burst that is used up.
func (l *line) used(now time.Time) float64 {
	left := l.budget.TokensAt(now) / float64(l.budget.Burst())
	return 1 - min(1, max(0, left))
}

// stopping reports whether the breaker is open and somebody tries to close it.
func (b *breaker) stopping(now time.Time) bool { return !b.closed() && now.Before(b.until.Add(idle)) }
