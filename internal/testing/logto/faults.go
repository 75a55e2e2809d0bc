// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Fault says how one request goes wrong. The zero value is no fault.
type Fault struct {
	// Status is the answer's status. The request is not executed unless Apply is set.
	Status int
	// Body, ContentType and Header go with Status. The default is a text/plain body with the status's name.
	Body, ContentType string
	Header            http.Header
	// Drop breaks the connection instead of answering. The request is not executed
	// unless Apply is set.
	Drop bool
	// Apply executes the request before its answer is replaced or dropped: only the
	// answer is lost.
	Apply bool
	// Delay passes by the real clock before anything else happens, or until the request's context ends.
	Delay time.Duration
	// LoseRace makes a POST that would create a resource, a scope, a role or an assignment lose a race with an
	// identical one: what it would create exists, and the answer is 500. For a secret the answer is 422. Applications
	// do not collide, so for them it does nothing.
	LoseRace bool
}

// SetFault sets the function that decides on the fault of each request; nil removes it. n counts the requests from
// 1, see [Server.ResetRequests]. The server holds no lock during the call, so the function may change the server's
// state. Several goroutines may call it at once.
func (s *Server) SetFault(decide func(r *http.Request, n int) Fault) {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.decide = decide
}

// Route returns the method and path pattern of a request, as [Server.Requests] counts it, "unknown" for none.
func Route(r *http.Request) string {
	if route, _ := find(r); route != nil {
		return route.pattern()
	}
	return "unknown"
}

// SetDown stops the database, or starts it again. While it is down, every endpoint answers 500.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Requests counts the requests by method and path pattern, such as "DELETE /api/roles/{id}/scopes/{scopeId}".
// Requests to unknown paths count as "unknown".
func (s *Server) Requests() map[string]int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return maps.Clone(s.record.counts)
}

// Count returns the number of all requests.
func (s *Server) Count() int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return s.record.total
}

// ResetRequests sets all counts to 0.
func (s *Server) ResetRequests() {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.counts, s.record.total = nil, 0
}

// Violations returns one sentence for each request that this server does not know how to answer, in the order of the
// requests.
func (s *Server) Violations() []string {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return slices.Clone(s.record.violations)
}

// ForgetViolations empties what [Server.Violations] returns, for tests that cause some on purpose.
func (s *Server) ForgetViolations() {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.violations = nil
}

type recorder struct {
	mu         sync.Mutex
	decide     func(*http.Request, int) Fault
	counts     map[string]int
	total      int
	violations []string
}

func (r *recorder) violate(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, what)
}

// meet counts a request and returns its fault.
func (s *Server) meet(r *http.Request, pattern string) Fault {
	s.record.mu.Lock()
	if s.record.counts == nil {
		s.record.counts = map[string]int{}
	}
	s.record.counts[pattern]++
	s.record.total++
	n, decide := s.record.total, s.record.decide
	s.record.mu.Unlock()
	if decide == nil {
		return Fault{}
	}
	return decide(r, n)
}

// wait waits for the delay and reports whether the client is still connected.
func (f Fault) wait(ctx context.Context) bool {
	if f.Delay == 0 {
		return true
	}
	timer := time.NewTimer(f.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f Fault) replaces() bool { return f.Status != 0 || f.Drop }

func (f Fault) answer() answer {
	a := answer{status: f.Status, text: f.Body, header: http.Header{}}
	maps.Copy(a.header, f.Header)
	if f.ContentType != "" {
		a.header.Set("Content-Type", f.ContentType)
	}
	if f.Body == "" {
		a.text = http.StatusText(f.Status)
	}
	return a
}
