// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Fault says how a request goes wrong. Its members combine if that makes sense: a
// Status with a Retry-After header after a Delay, a Cut through a rewritten body.
// Without Status, Body, Malformed, Empty or Redirect, the server executes the request
// as usual, and only the answer suffers: a token whose answer is cut off has been
// issued.
type Fault struct {
	// Status, Body and ContentType replace the answer; 200 and application/json are the defaults.
	Status            int
	Body, ContentType string
	// Header is set on the answer, e.g. Retry-After.
	Header http.Header
	// Delay passes by the real clock before anything else happens.
	Delay time.Duration
	// Hang never answers, until the client gives up or the server closes.
	Hang bool
	// Cut closes the connection in the middle of the body.
	Cut bool
	// Redirect answers 307, or Status, with this Location.
	Redirect string
	// Malformed answers with truncated JSON, Empty with no body at all.
	Malformed, Empty bool
	// Huge puts a member of 32 MiB before the others: a valid answer for clients that read that much.
	Huge bool
	// Rewrite changes, adds or deletes members of the JSON answer: a token response, a metadata document, a JWKS.
	Rewrite func(map[string]any)
	// Claims changes the token's claims before the server signs it with the right key. Opaque tokens have none.
	Claims func(map[string]any)

	// Times is how many requests meet the fault. Default: it stays until cleared.
	Times int
	// ClientID limits the fault to the requests of one client, Match to those for which it
	// returns true.
	ClientID string
	Match    func(*http.Request) bool
}

const hugeSize = 32 << 20

// SetFault replaces all faults of an endpoint with this one, or removes them if f is nil.
func (s *Server) SetFault(e Endpoint, f *Fault) {
	s.faults[e].clear()
	if f != nil {
		s.AddFault(e, f)
	}
}

// AddFault adds a fault to an endpoint. A request meets the first fault that applies to it and is not used up.
func (s *Server) AddFault(e Endpoint, f *Fault) {
	armed := &armedFault{Fault: *f}
	armed.left.Store(int64(f.Times))
	s.faults[e].mu.Lock()
	defer s.faults[e].mu.Unlock()
	s.faults[e].armed = append(s.faults[e].armed, armed)
}

// ClearFaults removes the faults of all endpoints. Requests that already hang or wait are not released.
func (s *Server) ClearFaults() {
	for i := range s.faults {
		s.faults[i].clear()
	}
}

type armedFault struct {
	Fault
	left atomic.Int64 // of Times
}

type faults struct {
	mu    sync.Mutex
	armed []*armedFault
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = nil
}

// next returns the fault that a request meets, or nil.
func (f *faults) next(r *http.Request, clientID string) *Fault {
	f.mu.Lock()
	armed := f.armed // only ever appended to, so this slice stays valid
	f.mu.Unlock()
	for _, a := range armed {
		if (a.ClientID != "" && a.ClientID != clientID) || (a.Match != nil && !a.Match(r)) {
			continue
		}
		if a.Times > 0 && a.left.Add(-1) < 0 {
			continue
		}
		return &a.Fault
	}
	return nil
}

// faulty waits as long as the fault says. It returns the answer if the fault determines it, and nil if go-oidc has to
// make it.
func faulty(r *http.Request, f *Fault) *answer {
	if f == nil {
		return nil
	}
	var over <-chan time.Time // never, for Hang
	if !f.Hang {
		over = time.After(f.Delay)
	}
	select {
	case <-over:
	case <-r.Context().Done(): // the client has given up, or the server is closed
		panic(http.ErrAbortHandler)
	}
	if f.Status == 0 && f.Body == "" && f.Redirect == "" && !f.Malformed && !f.Empty {
		return nil
	}
	a := &answer{header: http.Header{"Content-Type": {"application/json"}}, status: http.StatusOK}
	a.body.WriteString(f.Body)
	if f.Malformed {
		a.body.WriteString(`{"access_token":"eyJ`)
	}
	if f.Redirect != "" {
		a.status = http.StatusTemporaryRedirect // 307 keeps method and body, which makes it dangerous
		a.header.Set("Location", f.Redirect)
	}
	if f.Status != 0 {
		a.status = f.Status
	}
	return a
}

// send writes the answer, with the parts of the fault that concern how it is sent.
func (a *answer) send(w http.ResponseWriter, f *Fault) {
	if f == nil {
		f = &Fault{}
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if f.ContentType != "" {
		w.Header().Set("Content-Type", f.ContentType)
	}
	for name, values := range f.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	body := a.body.Bytes()
	if f.Cut {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
		body = body[:len(body)/2]
	}
	w.WriteHeader(a.status)
	if rest, isObject := bytes.CutPrefix(body, []byte("{")); f.Huge && isObject {
		writeHuge(w)
		body = rest
	}
	_, _ = w.Write(body)
	if f.Cut {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func writeHuge(w http.ResponseWriter) {
	_, _ = w.Write([]byte(`{"padding":"`))
	chunk := bytes.Repeat([]byte("a"), 64<<10)
	for range hugeSize / len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
	_, _ = w.Write([]byte(`",`))
}
