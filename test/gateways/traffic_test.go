// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// way is a way to have tokens checked: an address, and who has the caller's tokens.
type way struct {
	name string
	door door
	ours bool // the caller has the token that the operator published; otherwise it requests its own
}

// habit is how a caller uses connections.
type habit struct {
	name  string
	every time.Duration
	keeps bool
}

var habits = []habit{
	{"a connection for each call", 50 * time.Millisecond, false},
	{"a kept connection", 50 * time.Millisecond, true},
	{"a kept connection, seldom used", 3 * time.Second, true},
}

// tally is what happened to calls.
type tally struct {
	Calls       int            `json:"calls"`
	Refused     int            `json:"refused"`
	Unreachable int            `json:"unreachable"` // Envoy is down
	Statuses    map[string]int `json:"statuses,omitempty"`
}

func (t *tally) add(o *tally) {
	t.Calls, t.Refused, t.Unreachable = t.Calls+o.Calls, t.Refused+o.Refused, t.Unreachable+o.Unreachable
}

// traffic makes calls in some ways and counts what happens to them, by step, way and habit.
type traffic struct {
	ways []way

	mu              sync.Mutex
	step            string
	published, mine string // tokens
	tally           map[string]map[string]map[string]*tally
}

func (c *traffic) begin(step string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step, c.tally[step] = step, map[string]map[string]*tally{}
	for _, w := range c.ways {
		c.tally[step][w.name] = map[string]*tally{}
		for _, h := range habits {
			c.tally[step][w.name][h.name] = &tally{Statuses: map[string]int{}}
		}
	}
}

// sum is what happened to all calls of a way in a step.
func (c *traffic) sum(step, way string) (all tally) {
	for _, h := range habits {
		all.add(c.tally[step][way][h.name])
	}
	return all
}

func (c *traffic) renew(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mine = token
}

// start makes calls until the returned function is called.
func (c *traffic) start(t *testing.T, namespace string) (stop func()) {
	done := make(chan struct{})
	var all sync.WaitGroup
	c.published = tokenOfCart(t, namespace)
	all.Go(func() {
		each(50*time.Millisecond, done, func() {
			token := tokenOfCart(t, namespace)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.published = token
		})
	})
	for _, w := range c.ways {
		for _, h := range habits {
			transport := &http.Transport{DisableKeepAlives: !h.keeps, MaxConnsPerHost: 1}
			by := &http.Client{Timeout: 5 * time.Second, Transport: transport}
			all.Go(func() {
				defer transport.CloseIdleConnections()
				each(h.every, done, func() { c.call(w, h, by) })
			})
		}
	}
	return func() { close(done); all.Wait() }
}

// each does something at intervals until done is closed.
func each(interval time.Duration, done <-chan struct{}, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			do()
		}
	}
}

// call makes a call and counts it in the step in which it began.
func (c *traffic) call(w way, h habit, by *http.Client) {
	c.mu.Lock()
	counts, token := c.tally[c.step][w.name][h.name], c.mine
	if w.ours {
		token = c.published
	}
	c.mu.Unlock()
	status, err := w.door.callBy(by, http.MethodGet, "/payments", token)
	c.mu.Lock()
	defer c.mu.Unlock()
	counts.Calls++
	switch {
	case err != nil:
		counts.Unreachable++
	case status != http.StatusOK:
		counts.Refused++
		counts.Statuses[strconv.Itoa(status)]++
	}
}

// keyServer passes a server's keys on, and counts who asks for them, by the request's path.
type keyServer struct {
	url string

	mu    sync.Mutex
	asked map[string]int
}

func startKeyServer(t *testing.T, issuer *oidc.Server) *keyServer {
	t.Helper()
	k := &keyServer{asked: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.asked[r.URL.Path[1:]]++
		k.mu.Unlock()
		resp, err := caller.Get(issuer.JWKSURL())
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		rw.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		rw.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(rw, resp.Body)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	k.url = "http://" + l.Addr().String()
	return k
}

// take returns how often it was asked since the last time.
func (k *keyServer) take() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked := k.asked
	k.asked = map[string]int{}
	return asked
}
