// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Weather does random faults to requests, for runs without a plan. It counts what passes it.
type Weather struct {
	mu       sync.Mutex
	random   *rand.Rand
	part     float64 // of the requests that meet a fault
	requests int
	faults   map[Fault]int
	watches  map[*watched]bool
}

// NewWeather returns fine weather. The same seed gives the same faults to the same requests.
func NewWeather(seed uint64) *Weather {
	return &Weather{random: rand.New(rand.NewPCG(seed, 0)), faults: map[Fault]int{}, watches: map[*watched]bool{}}
}

// Set makes a part of the requests, from 0 to 1, meet a fault.
func (w *Weather) Set(part float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = part
}

// Requests returns how many requests there were, without those that caches send.
func (w *Weather) Requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests
}

// Faults returns how many requests met each fault.
func (w *Weather) Faults() map[Fault]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[Fault]int{}
	for f, n := range w.faults {
		all[f] = n
	}
	return all
}

// CutWatches ends all watches in the middle of what they report, and returns how many.
func (w *Weather) CutWatches() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.watches)
	for b := range w.watches {
		b.end()
	}
	clear(w.watches)
	return n
}

// Through returns a transport through the weather to a server.
func (w *Weather) Through(side Side, next http.RoundTripper) http.RoundTripper {
	return weathered{w, side, next}
}

type weathered struct {
	weather *Weather
	side    Side
	next    http.RoundTripper
}

// RoundTrip sends a request, or does to it what the weather wants.
func (t weathered) RoundTrip(req *http.Request) (*http.Response, error) {
	call, follows := describe(t.side, req)
	if follows {
		return t.weather.follow(t.next, req)
	}
	fault := t.weather.next(call)
	if fault == "" {
		return t.next.RoundTrip(req)
	}
	if !fault.Executes() {
		return answer(t.side, fault, req)
	}
	if fault == Slow {
		time.Sleep(slowness)
	}
	resp, err := t.next.RoundTrip(req)
	switch {
	case err != nil:
		return nil, err
	case fault == LoseAnswer:
		return nil, errors.Join(errBroken, resp.Body.Close())
	case fault == CutBody:
		return cut(resp)
	}
	return resp, nil
}

// next returns the fault that a call meets, if any. Nothing kills the operator.
func (w *Weather) next(c Call) Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	if w.random.Float64() >= w.part {
		return ""
	}
	var all []Fault
	for _, f := range Faults(c) {
		if !f.Kills() {
			all = append(all, f)
		}
	}
	fault := all[w.random.IntN(len(all))]
	w.faults[fault]++
	return fault
}

// follow sends a cache's request. A watch can be cut.
func (w *Weather) follow(next http.RoundTripper, req *http.Request) (*http.Response, error) {
	if !req.URL.Query().Has("watch") {
		return next.RoundTrip(req)
	}
	ctx, end := context.WithCancel(req.Context())
	resp, err := next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end()
		return nil, err
	}
	b := &watched{ReadCloser: resp.Body, weather: w, end: end}
	w.mu.Lock()
	w.watches[b] = true
	w.mu.Unlock()
	resp.Body = b
	return resp, nil
}

// watched is the body of a watch.
type watched struct {
	io.ReadCloser
	weather *Weather
	end     context.CancelFunc
}

// Close ends the watch.
func (b *watched) Close() error {
	b.weather.mu.Lock()
	delete(b.weather.watches, b)
	b.weather.mu.Unlock()
	b.end()
	return b.ReadCloser.Close()
}
