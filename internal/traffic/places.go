// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"sync"
	"time"
)

const (
	// slowAfter is how long a request may take before its endpoint counts as slow.
	slowAfter = time.Second

	// regained is how many quick answers in a row a slow endpoint needs to count as
	// quick again.
	regained = 3
)

// Places shares a number of workers among tenants and endpoints. It is safe for
// concurrent use.
//
// No tenant holds more than it leaves free: alone it gets half of the workers, and
// others always find some. Endpoints that are slow, or have never answered, together
// get three quarters of the workers under the same rule, so that quick ones always
// find some. A place that becomes free goes to the waiting tenant that holds least,
// and among equals to the one that has waited longest.
type Places struct {
	size, slow int

	mu      sync.Mutex
	held    map[*Place]bool
	holds   map[string]int    // by tenant: how many of them
	owed    map[string]int    // by endpoint: how many quick answers it still needs; absent: it has never answered
	waiting map[string]*await // by tenant
}

// Place is the use of one worker while a request is under way.
type Place struct {
	tenant, endpoint string
	since            time.Time
	suspect          bool // its endpoint did not count as quick when the place was taken
}

// await is a tenant that waits for a place.
type await struct {
	since, comesAt time.Time
	suspect        bool
}

// awaitSlack is how long a place is kept free for a tenant that is late.
const awaitSlack = time.Second

// NewPlaces returns places for a number of workers, at least one.
func NewPlaces(workers int) *Places {
	workers = max(1, workers)
	return &Places{
		size: workers, slow: max(1, workers-workers/4),
		held: map[*Place]bool{}, holds: map[string]int{}, owed: map[string]int{}, waiting: map[string]*await{},
	}
}

// Take returns a place for a request of a tenant to an endpoint. It returns nil if
// there is none left after the first, which go to other requests of the tenant that
// come before. A caller that gets a place must call Give; one that does not should
// call Await.
func (p *Places) Take(now time.Time, tenant, endpoint string, first int) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	suspect := p.isSuspect(now, endpoint)
	if p.free(now, tenant, suspect) <= first {
		return nil
	}
	place := &Place{tenant: tenant, endpoint: endpoint, since: now, suspect: suspect}
	p.held[place] = true
	p.holds[tenant]++
	delete(p.waiting, tenant)
	return place
}

// Await notes that a tenant found no place, and when it will ask again.
func (p *Places) Await(now, comesAt time.Time, tenant, endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[tenant]
	if w == nil {
		w = &await{since: now, comesAt: comesAt}
		p.waiting[tenant] = w
	}
	if comesAt.Before(w.comesAt) || !now.Before(w.comesAt) {
		w.comesAt = comesAt // the earliest of the tenant's requests counts
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
	own, slowOwn, slowHeld := p.holds[tenant], 0, 0
	for h := range p.held {
		if h.suspect || now.Sub(h.since) > slowAfter {
			slowHeld++
			if h.tenant == tenant {
				slowOwn++
			}
		}
	}
	free := p.size - len(p.held) - own
	if suspect {
		free = min(free, p.slow-slowHeld-slowOwn)
	}
	free = (free + 1) / 2 // each place that the tenant takes also leaves one less free
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
		case p.holds[name] < own, p.holds[name] == own && w.since.Before(since):
			others++
		}
	}
	free = min(free, p.size-len(p.held)-others) // each of them gets a place first
	if suspect {
		free = min(free, p.slow-slowHeld-others)
	}
	return free
}

// Give gives a place back. answered reports whether the endpoint answered at all; how
// long the place was held tells how quick the endpoint is.
func (p *Places) Give(now time.Time, place *Place, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held[place] {
		return
	}
	delete(p.held, place)
	if p.holds[place.tenant]--; p.holds[place.tenant] == 0 {
		delete(p.holds, place.tenant)
	}
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

// Forget drops what is known about how quick an endpoint is.
func (p *Places) Forget(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owed, endpoint)
}
