// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"testing"
	"time"
)

var crowds = flag.Int("crowds", 4, "how many crowds TestOthersDelayAHealthyTenantWithinABound simulates; make faults simulates more")

// The bound of the property below. Each summand is one of the package's own.
const (
	// what the endpoint asks of two tenants, and a turn among the tenants to be tried
	delayByBreaker = toldMax + probeSpread + turnSlack
	// a place, while slow endpoints hold those that they may, and the answer of one
	// of them
	delayByPlaces = answerMax + time.Second
)

// answerMax is how long a request takes at most.
const answerMax = 10 * time.Second

// simulated is a client that requests tokens through the gate.
type simulated struct {
	Need
	endpoint Endpoint
	lifetime time.Duration // of its tokens
	due      time.Duration // when its next token is to be asked for
	attempts int           // failed, in a row
	healthy  bool          // the server answers it properly
	answers  func(now time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration)
	late     time.Duration // the latest refresh
	missed   int           // tokens that expired
	served   int
	expires  time.Duration // when its present token expires; 0: none
}

// moment is when a client asks, or when its request is answered.
type moment struct {
	at         time.Duration
	client     *simulated
	ticket     *Ticket
	how        Outcome
	retryAfter time.Duration
}

type moments []*moment

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].at < m[j].at }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)        { *m = append(*m, x.(*moment)) }
func (m *moments) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// simulate lets clients refresh their tokens for some time, at two thirds of their lifetimes
// and with the operator's back-off.
func simulate(clients []*simulated, length time.Duration, r *rand.Rand) {
	g := NewGate(20)
	var all moments
	for _, c := range clients {
		heap.Push(&all, &moment{at: c.due, client: c})
	}
	for all.Len() > 0 && all[0].at < length {
		next := heap.Pop(&all).(*moment)
		c, now := next.client, start.Add(next.at)
		if next.ticket == nil {
			n := c.Need
			if c.expires > 0 {
				n.ExpiresAt, n.Proven = start.Add(c.expires), c.attempts == 0
			}
			answer := g.Ask(now, c.endpoint, n)
			if answer.Ticket == nil {
				heap.Push(&all, &moment{at: next.at + answer.Wait, client: c})
				continue
			}
			how, takes, retryAfter := c.answers(next.at, r)
			heap.Push(&all, &moment{at: next.at + takes, client: c, ticket: answer.Ticket, how: how, retryAfter: retryAfter})
			continue
		}
		g.Done(now, next.ticket, next.how, next.retryAfter)
		if next.how != Served {
			wait := min(time.Minute, time.Second<<min(c.attempts, 6))
			if next.how == Refused {
				wait = min(time.Hour, 10*time.Second<<min(c.attempts, 9))
			}
			c.attempts++
			heap.Push(&all, &moment{at: next.at + max(wait, next.retryAfter), client: c})
			continue
		}
		c.late = max(c.late, next.at-c.due)
		if c.expires > 0 && next.at > c.expires {
			c.missed++
		}
		c.served++
		c.attempts, c.expires, c.due = 0, next.at+c.lifetime, next.at+c.lifetime*2/3
		heap.Push(&all, &moment{at: c.due, client: c})
	}
}

// served is a proper answer.
func served(_ time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
	return Served, time.Duration(20+r.IntN(80)) * time.Millisecond, 0
}

// faults are the ways in which a server fails a client of a tenant in trouble.
var faults = []func(time.Duration, *rand.Rand) (Outcome, time.Duration, time.Duration){
	func(_ time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
		return Failed, time.Duration(r.IntN(100)) * time.Millisecond, 0
	},
	func(_ time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
		return Failed, time.Duration(r.IntN(100)) * time.Millisecond, time.Duration(r.IntN(3600)) * time.Second
	},
	func(_ time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
		return Refused, time.Duration(r.IntN(100)) * time.Millisecond, 0
	},
	func(_ time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
		return Served, 2*time.Second + time.Duration(r.IntN(7000))*time.Millisecond, 0 // with a token that is short-lived
	},
	func(time.Duration, *rand.Rand) (Outcome, time.Duration, time.Duration) {
		return Unanswered, answerMax, 0
	},
	func(now time.Duration, r *rand.Rand) (Outcome, time.Duration, time.Duration) {
		if now/time.Minute%2 == 0 {
			return served(now, r)
		}
		return Unanswered, answerMax, 0
	},
}

// crowd returns a healthy tenant with a few clients, and other tenants with any number of
// clients and any trouble, at shared endpoints and at endpoints of their own.
func crowd(r *rand.Rand, others bool) (all []*simulated) {
	shared := []Endpoint{
		{Account: "idp", Route: "idp/a", Owner: "platform", Own: Budget{20, 20}, Ceiling: Budget{20, 20}},
		{Account: "idp", Route: "idp/b", Owner: "realm", Own: Budget{20, 20}, Ceiling: Budget{20, 20}},
	}
	add := func(tenant string, i int, e Endpoint) *simulated {
		c := &simulated{Need: of(tenant, fmt.Sprintf("%s-%d", tenant, i)), endpoint: e, due: time.Duration(r.IntN(60000)) * time.Millisecond}
		all = append(all, c)
		return c
	}
	for i := range 5 {
		c := add("healthy", i, shared[i%2])
		c.healthy, c.answers, c.lifetime = true, served, time.Duration(5+r.IntN(5))*time.Minute
	}
	for tenant := range 2 + r.IntN(6) {
		name, fault, lifetime := fmt.Sprint("other-", tenant), faults[r.IntN(len(faults))], time.Duration(1+r.IntN(120))*time.Second
		own := Endpoint{Account: name, Route: name, Owner: name, Own: Budget{10000, 10000}}
		count := []int{1, 7, 60, 300}[r.IntN(4)]
		for i := range count {
			e := shared[r.IntN(2)]
			switch r.IntN(3) {
			case 0:
				e = own
			case 1:
				e.Owner, e.Own = name, Budget{10000, 10000} // an object of its own, at the shared host
			}
			c := &simulated{}
			if others {
				c = add(name, i, e)
			}
			c.answers, c.lifetime = fault, lifetime
			if r.IntN(4) == 0 {
				c.answers = served
			}
			if r.IntN(4) == 0 {
				c.ExpiresAt = start.Add(-time.Hour) // forged
			}
		}
	}
	return all
}

// TestOthersDelayAHealthyTenantWithinABound checks the promise of the package with random
// tenants, servers and faults: others delay a healthy client's tokens by no more than the sum
// of the constants above, and none of its tokens expires.
func TestOthersDelayAHealthyTenantWithinABound(t *testing.T) {
	// The simulation leaves much garbage and keeps little.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	worst := time.Duration(0)
	for seed := range uint64(*crowds) {
		run := func(others bool) []*simulated {
			all := crowd(rand.New(rand.NewPCG(seed, 1)), others)
			simulate(all, 30*time.Minute, rand.New(rand.NewPCG(seed, 2)))
			return all
		}
		alone, among := run(false), run(true)
		tenants := map[string]bool{}
		for _, c := range among {
			tenants[c.Tenant] = true
		}
		// One turn of each tenant at 20 a second, and newcomers' turns count double.
		turns := time.Duration(2*len(tenants)) * time.Second / 20
		bound := delayByBreaker + delayByPlaces + turns
		for i, c := range among {
			if !c.healthy {
				continue
			}
			more := c.late - alone[i].late
			worst = max(worst, more)
			if more > bound {
				t.Errorf("seed %d: %s was %s later than without the others, want at most %s", seed, c.Client, more, bound)
			}
			if c.missed > 0 {
				t.Errorf("seed %d: %d tokens of %s expired", seed, c.missed, c.Client)
			}
			if c.served < 3 {
				t.Errorf("seed %d: %s was served %d times in half an hour", seed, c.Client, c.served)
			}
		}
	}
	t.Logf("the worst delay by others was %s", worst)
}
