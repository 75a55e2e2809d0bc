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
// same rule, so that quick ones always find some.
type Places struct {
	size, slow int

	mu   sync.Mutex
	held map[*Place]bool
	owed map[string]int // by endpoint: quick answers until it counts as quick; absent: it has not answered
}

// Place is a worker's, held while a request is under way.
type Place struct {
	tenant, endpoint string
	since            time.Time
	suspect          bool // its endpoint did not count as quick
}

// NewPlaces shares so many workers; fewer than one count as one.
func NewPlaces(workers int) *Places {
	workers = max(1, workers)
	return &Places{size: workers, slow: max(1, workers-workers/4), held: map[*Place]bool{}, owed: map[string]int{}}
}

// Take returns a place for a request of a tenant to an endpoint, nil if none is
// free for it. Who gets one owes it to Give.
func (p *Places) Take(now time.Time, tenant, endpoint string) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	owed, answered := p.owed[endpoint]
	suspect := owed > 0 || !answered
	var mine, slow, mineSlow int
	for h := range p.held {
		late := now.Sub(h.since) > slowAfter
		if h.tenant == tenant {
			mine++
		}
		if h.endpoint == endpoint && late {
			suspect = true
		}
		if h.suspect || late {
			slow++
			if h.tenant == tenant {
				mineSlow++
			}
		}
	}
	if mine >= p.size-len(p.held) || suspect && mineSlow >= p.slow-slow {
		return nil
	}
	place := &Place{tenant: tenant, endpoint: endpoint, since: now, suspect: suspect}
	p.held[place] = true
	return place
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
