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

// Fault is a way to misbehave at one request. The zero value is none.
type Fault struct {
	// Status answers with this status and does nothing, unless Apply.
	Status int
	// Body, ContentType and Header go with Status. The default is a text/plain body with the status' name.
	Body, ContentType string
	Header            http.Header
	// Drop breaks the connection in the place of an answer, and does nothing, unless Apply.
	Drop bool
	// Apply carries the request out before its answer is replaced or dropped: the answer is lost.
	Apply bool
	// Delay is waited by the real clock before anything else, or until the request's context ends.
	Delay time.Duration
	// LoseRace lets a POST that would create a resource, a scope, a role or an assignment meet another one that is
	// identical and a moment earlier: what it would create exists, and it is answered with 500. For a secret the answer
	// is 422, and applications do not collide, so there it does nothing.
	LoseRace bool
}

// SetFault sets what decides about the fault of each request, nil for none. n counts the requests from 1, see
// [Server.ResetRequests]. The function is called under no lock of the server, possibly from several goroutines; it
// may change the server's state.
func (s *Server) SetFault(decide func(r *http.Request, n int) Fault) {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.decide = decide
}

// Route is the method and path pattern of a request, as [Server.Requests] counts it, "unknown" for none.
func Route(r *http.Request) string {
	if route, _ := find(r); route != nil {
		return route.pattern()
	}
	return "unknown"
}

// SetDown stops the database, or starts it again: every endpoint answers 500.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Requests counts the requests by method and path pattern, such as "DELETE /api/roles/{id}/scopes/{scopeId}"; those of
// unknown paths are under "unknown".
func (s *Server) Requests() map[string]int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return maps.Clone(s.record.counts)
}

// Count is the number of all requests.
func (s *Server) Count() int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return s.record.total
}

// ResetRequests begins to count anew.
func (s *Server) ResetRequests() {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.counts, s.record.total = nil, 0
}

// Violations are the requests that the server was not told how to answer, in their order, one sentence each.
func (s *Server) Violations() []string {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return slices.Clone(s.record.violations)
}

// ForgetViolations empties what [Server.Violations] returns, for tests that commit some on purpose.
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

// wait waits for the delay and reports whether the client is still there.
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
