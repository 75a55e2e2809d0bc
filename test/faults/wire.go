// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Side is the server that a request goes to.
type Side string

// The sides of a wire.
const (
	APIServer           Side = "api"
	AuthorizationServer Side = "auth"
)

// Call is a request as two runs can compare it.
type Call struct {
	Side Side
	Verb string
	// Object is the resource, the namespace and the name, and the subresource of a request
	// to the API server, and the path of one to an authorization server. The names of
	// namespaces and all identifiers are replaced.
	Object string
	// Number tells requests of the same verb and object apart, from 1.
	Number int
}

// String names a call, for people and as a part of a test's name.
func (c Call) String() string { return fmt.Sprintf("%s %s %s #%d", c.Side, c.Verb, c.Object, c.Number) }

// Writes reports whether a request can change something.
func (c Call) Writes() bool { return c.Verb != http.MethodGet }

// Fault is what happens to a request.
type Fault string

// The faults. KillAfter, CutBody and LoseAnswer execute the request.
const (
	KillBefore  Fault = "kill before" // the operator dies before the request is sent
	KillAfter   Fault = "kill after"  // it dies before it has the answer
	Conflict    Fault = "409"         // the API server says that the object has changed
	TooMany     Fault = "429"         // with Retry-After
	ServerError Fault = "500"         // without effect
	Unavailable Fault = "503"         // without effect
	TimeOut     Fault = "time out"    // there is no answer in time, and no effect
	CutBody     Fault = "cut body"    // the answer ends in its middle
	LoseAnswer  Fault = "lost answer" // the connection breaks before the answer
	Slow        Fault = "slow"        // the answer takes its time
)

// Kills reports whether the operator dies.
func (f Fault) Kills() bool { return f == KillBefore || f == KillAfter }

// Executes reports whether the server does what is asked before the fault.
func (f Fault) Executes() bool { return f == KillAfter || f == CutBody || f == LoseAnswer || f == Slow }

// Faults returns the faults that a request can meet.
func Faults(c Call) []Fault {
	all := []Fault{KillBefore, KillAfter, TooMany, ServerError, Unavailable, TimeOut, CutBody, LoseAnswer, Slow}
	if c.Side == APIServer && c.Writes() {
		all = append(all, Conflict)
	}
	return all
}

var (
	// errKilled is what every request of a killed operator gets.
	errKilled = errors.New("the operator was killed")
	// errBroken is what a request gets whose connection breaks.
	errBroken = errors.New("the connection broke")
)

// Observer sees each request that was executed, with its answer, before the operator does. It must
// leave the bodies readable.
type Observer func(Call, *http.Request, *http.Response)

// Wire is between one operator and its servers. Its zero value changes nothing.
type Wire struct {
	// Rename replaces what differs between two runs in the path of a request.
	Rename func(string) string
	// Observe, if not nil, sees what was executed.
	Observe Observer

	mu     sync.Mutex
	calls  []Call
	counts map[string]int
	at     Call
	fault  Fault
	met    bool
	writes int // that were executed
	life   *life
	views  map[string]*view // by resource
}

// life is the time from an operator's start to its death.
type life struct {
	ctx  context.Context
	kill context.CancelCauseFunc
}

// Live begins the life of an operator. Its context ends when it is killed.
func (w *Wire) Live() context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, kill := context.WithCancelCause(context.Background())
	w.life = &life{ctx, kill}
	return ctx
}

// Break does a fault at a call.
func (w *Wire) Break(at Call, fault Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.fault, w.met = at, fault, false
}

// Met reports whether the chosen call came.
func (w *Wire) Met() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.met
}

// Calls returns the calls so far, except those by which caches follow objects.
func (w *Wire) Calls() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Writes returns how many writes the API server has executed.
func (w *Wire) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// Through returns a transport over the wire to a server. Its requests belong to the operator that lives
// when it is made, those to an authorization server to the one that lives when they are sent.
func (w *Wire) Through(side Side, next http.RoundTripper) http.RoundTripper {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &transport{wire: w, side: side, next: next}
	if side == APIServer {
		t.life = w.life
	}
	return t
}

type transport struct {
	wire *Wire
	side Side
	next http.RoundTripper
	life *life // nil: the present one
}

// RoundTrip sends a request, or does to it what was chosen.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	w := t.wire
	call, follows := describe(t.side, req)
	if w.Rename != nil {
		call.Object = w.Rename(call.Object)
	}
	w.mu.Lock()
	mine := t.life
	if mine == nil {
		mine = w.life
	}
	if mine != nil && mine.ctx.Err() != nil {
		w.mu.Unlock()
		return nil, refuse(req, errKilled)
	}
	fault := Fault("")
	if !follows {
		fault = w.enter(&call)
	}
	w.mu.Unlock()
	if follows {
		return t.follow(req)
	}
	if fault == KillBefore {
		mine.kill(errKilled)
		return nil, refuse(req, errKilled)
	}
	if fault != "" && !fault.Executes() {
		return answer(t.side, fault, req)
	}
	return t.execute(call, fault, mine, req)
}

// enter numbers and records a call, and returns the fault that it meets. w.mu must be held.
func (w *Wire) enter(call *Call) Fault {
	if w.counts == nil {
		w.counts = map[string]int{}
	}
	name := call.String()
	w.counts[name]++
	call.Number = w.counts[name]
	w.calls = append(w.calls, *call)
	if w.met || w.fault == "" || *call != w.at {
		return ""
	}
	w.met = true
	return w.fault
}

// execute sends a request, and then spoils its answer.
func (t *transport) execute(call Call, fault Fault, mine *life, req *http.Request) (*http.Response, error) {
	if fault == Slow {
		time.Sleep(slowness)
	}
	if t.wire.Observe != nil {
		if err := keepBody(req); err != nil {
			return nil, err
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if t.side == APIServer && call.Writes() && resp.StatusCode < http.StatusBadRequest {
		t.wire.mu.Lock()
		t.wire.writes++
		t.wire.mu.Unlock()
	}
	if t.wire.Observe != nil {
		t.wire.Observe(call, req, resp)
	}
	switch fault {
	case KillAfter:
		mine.kill(errKilled)
		return nil, errors.Join(errKilled, resp.Body.Close())
	case LoseAnswer:
		return nil, errors.Join(errBroken, resp.Body.Close())
	case CutBody:
		return cut(resp)
	}
	return resp, nil
}

// describe names a request. follows reports whether a cache sends it, or a client that looks for kinds.
func describe(side Side, req *http.Request) (c Call, follows bool) {
	c = Call{Side: side, Verb: req.Method}
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if side == AuthorizationServer {
		c.Object = strings.Join(parts, "/")
		return c, false
	}
	switch parts[0] { // before the group and the version
	case "api":
		parts = parts[min(2, len(parts)):]
	case "apis":
		parts = parts[min(3, len(parts)):]
	default:
		return c, true
	}
	if len(parts) == 0 {
		return c, true
	}
	namespace := ""
	if parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	c.Object = parts[0]
	if len(parts) > 2 {
		c.Object += "/" + parts[2]
	}
	c.Object += " " + namespace
	if len(parts) > 1 {
		c.Object += "/" + parts[1]
	}
	query := req.URL.Query()
	follows = c.Verb == http.MethodGet && (query.Has("watch") || query.Has("limit") || query.Has("resourceVersion") || query.Has("resourceVersionMatch"))
	return c, follows || parts[0] == "events" || parts[0] == "leases"
}
