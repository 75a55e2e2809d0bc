// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"sync"
	"time"
)

const (
	// slowAfter is how long a request may take whose endpoint counts as quick.
	slowAfter = time.Second

	// regained is how many quick answers in a row have an endpoint that was slow
	// count as quick again.
	regained = 3
)

// Places shares a number of workers among tenants and endpoints. It is safe for
// concurrent use.
//
// Nobody holds more than what is left free: a tenant alone gets half of the
// workers, and however many it asks for, others find some. Endpoints that are slow,
// or have never answered, together get three quarters of the workers, under the
// same rule, so that quick ones always find some. What becomes free goes to the
// tenant that holds least of those that wait, and among those to the one that has
// waited longest.
type Places struct {
	size, slow int

	mu      sync.Mutex
	held    map[*Place]bool
	owed    map[string]int    // by endpoint: quick answers until it counts as quick; absent: it has not answered
	waiting map[string]*await // by tenant
}

// Place is a worker's, held while a request is under way.
type Place struct {
	tenant, endpoint string
	since            time.Time
	suspect          bool // its endpoint did not count as quick
}

// await is how a tenant waits for a place.
type await struct {
	since, comesAt time.Time
	suspect        bool
}

// awaitSlack is how long a place is kept free for a tenant that does not come when
// it was told to.
const awaitSlack = time.Second

// NewPlaces shares so many workers; fewer than one count as one.
func NewPlaces(workers int) *Places {
	workers = max(1, workers)
	return &Places{
		size: workers, slow: max(1, workers-workers/4),
		held: map[*Place]bool{}, owed: map[string]int{}, waiting: map[string]*await{},
	}
}

// Take returns a place for a request of a tenant to an endpoint, nil if none is
// free for it, or fewer than are for others of the tenant that come first. Who gets
// one owes it to Give; who does not should tell with Await when it comes again.
func (p *Places) Take(now time.Time, tenant, endpoint string, first int) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	suspect := p.isSuspect(now, endpoint)
	if p.free(now, tenant, suspect) <= first {
		return nil
	}
	place := &Place{tenant: tenant, endpoint: endpoint, since: now, suspect: suspect}
	p.held[place] = true
	delete(p.waiting, tenant)
	return place
}

// Await notes that a tenant found no place, and when it comes again.
func (p *Places) Await(now, comesAt time.Time, tenant, endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[tenant]
	if w == nil {
		w = &await{since: now, comesAt: comesAt}
		p.waiting[tenant] = w
	}
	if comesAt.Before(w.comesAt) || !now.Before(w.comesAt) {
		w.comesAt = comesAt // the first of the tenant's is who is waited for
	}
	w.suspect = p.isSuspect(now, endpoint)
}

// isSuspect reports whether an endpoint does not count as quick.
func (p *Places) isSuspect(now time.Time, endpoint string) bool {
	if owed, answered := p.owed[endpoint]; owed > 0 || !answered {
		return true
	}
	for h := range p.held {
		if h.endpoint == endpoint && now.Sub(h.since) > slowAfter {
			return true
		}
	}
	return false
}

// free returns how many more places a tenant can have now.
func (p *Places) free(now time.Time, tenant string, suspect bool) int {
	all, slow := map[string]int{}, map[string]int{}
	slowHeld := 0
	for h := range p.held {
		all[h.tenant]++
		if h.suspect || now.Sub(h.since) > slowAfter {
			slow[h.tenant]++
			slowHeld++
		}
	}
	free := p.size - len(p.held) - all[tenant]
	if suspect {
		free = min(free, p.slow-slowHeld-slow[tenant])
	}
	free = (free + 1) / 2 // with each that it takes there is one less
	since := now
	if w := p.waiting[tenant]; w != nil {
		since = w.since
	}
	others := 0
	for name, w := range p.waiting {
		switch {
		case now.After(w.comesAt.Add(awaitSlack)):
			delete(p.waiting, name)
		case name == tenant, w.suspect && !suspect:
		case all[name] < all[tenant], all[name] == all[tenant] && w.since.Before(since):
			others++
		}
	}
	if others > 0 { // a place for each of them comes first
		free = min(free, p.size-len(p.held)-others)
		if suspect {
			free = min(free, p.slow-slowHeld-others)
		}
	}
	return free
}

// Give returns a place. Answered reports whether the endpoint answered at all: how
// long that took is how quick it is.
func (p *Places) Give(now time.Time, place *Place, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held[place] {
		return
	}
	delete(p.held, place)
	owed, known := p.owed[place.endpoint]
	switch {
	case now.Sub(place.since) > slowAfter:
		p.owed[place.endpoint] = regained
	case answered && known:
		p.owed[place.endpoint] = max(0, owed-1)
	case answered:
		p.owed[place.endpoint] = 0
	}
}

// Forget forgets how quick an endpoint is.
func (p *Places) Forget(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owed, endpoint)
}
