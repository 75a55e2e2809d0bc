// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// always meets every request with the same fault.
func always(f logto.Fault) func(*http.Request, int) logto.Fault {
	return func(*http.Request, int) logto.Fault { return f }
}

func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  logto.Fault
		status int // 0: no answer
		body   string
		header string // of Content-Type
		done   bool
	}{
		"none":                      {logto.Fault{}, 200, "", "application/json; charset=utf-8", true},
		"a status":                  {logto.Fault{Status: 503}, 503, "Service Unavailable", "text/plain; charset=utf-8", false},
		"a body":                    {logto.Fault{Status: 500, Body: "{}", ContentType: "application/json"}, 500, "{}", "application/json", false},
		"done and a status":         {logto.Fault{Status: 500, Apply: true}, 500, "Internal Server Error", "text/plain; charset=utf-8", true},
		"no answer":                 {logto.Fault{Drop: true}, 0, "", "", false},
		"done and no answer":        {logto.Fault{Drop: true, Apply: true}, 0, "", "", true},
		"only delayed":              {logto.Fault{Delay: time.Millisecond}, 200, "", "application/json; charset=utf-8", true},
		"a race that nothing loses": {logto.Fault{LoseRace: true}, 200, "", "application/json; charset=utf-8", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.SetFault(always(tc.fault))
			got, err := w.send(w.request("POST", "/api/applications", `{"name":"new","type":"MachineToMachine"}`))
			if (err != nil) != (tc.status == 0) {
				t.Fatalf("error: %v", err)
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error: %v, want an unexpected end", err)
			}
			if got.status != tc.status || tc.body != "" && got.raw != tc.body {
				t.Errorf("got %d %s", got.status, got.raw)
			}
			if err == nil && got.header.Get("Content-Type") != tc.header {
				t.Errorf("content type %q, want %q", got.header.Get("Content-Type"), tc.header)
			}
			if done := len(w.Snapshot().Applications) == 2; done != tc.done {
				t.Errorf("done: %v, want %v", done, tc.done)
			}
			w.wantNoViolations()
		})
	}
}

func TestAFaultCarriesHeaders(t *testing.T) {
	w := newWorld(t)
	w.SetFault(always(logto.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}))
	if got := w.do("GET", "/api/roles", nil); got.status != 429 || got.header.Get("Retry-After") != "7" {
		t.Errorf("got %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
}

// A client that disconnects while it sends violates nothing.
func TestABodyThatBreaksOff(t *testing.T) {
	w := newWorld(t)
	r := w.request("POST", "/api/applications", "{}")
	r.Body = io.NopCloser(iotest.ErrReader(errors.New("the client is gone")))
	if got, err := w.send(r); err == nil {
		t.Errorf("got %d", got.status)
	}
	w.wantNoViolations()
}

func TestADelayEndsWithTheRequest(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.SetFault(func(*http.Request, int) logto.Fault {
		cancel()
		return logto.Fault{Delay: time.Hour}
	})
	_, err := w.send(w.request("POST", "/api/applications", `{"name":"new","type":"MachineToMachine"}`).WithContext(ctx))
	if !errors.Is(err, context.Canceled) || len(w.Snapshot().Applications) != 1 {
		t.Errorf("error %v, %d applications", err, len(w.Snapshot().Applications))
	}
}

func TestTheHookCountsRequests(t *testing.T) {
	w := newWorld(t)
	w.ResetRequests()
	var numbers []int
	var routes []string
	w.SetFault(func(r *http.Request, n int) logto.Fault {
		numbers = append(numbers, n)
		routes = append(routes, logto.Route(r))
		return logto.Fault{}
	})
	w.do("GET", "/api/roles", nil)
	w.do("GET", w.at("roles", w.role), nil)
	w.do("GET", w.at("roles", w.role)+"?x=1", nil)
	w.do("GET", "/nowhere", nil)
	if diff := cmp.Diff([]int{1, 2, 3, 4}, numbers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"GET /api/roles", "GET /api/roles/{id}", "GET /api/roles/{id}", "unknown"}, routes); diff != "" {
		t.Error(diff)
	}
	want := map[string]int{"GET /api/roles": 1, "GET /api/roles/{id}": 2, "unknown": 1}
	if diff := cmp.Diff(want, w.Requests()); diff != "" || w.Count() != 4 {
		t.Errorf("%d in all (-want +got):\n%s", w.Count(), diff)
	}
	w.ResetRequests()
	if len(w.Requests()) != 0 || w.Count() != 0 {
		t.Errorf("after the reset %v, %d", w.Requests(), w.Count())
	}
}

func TestALostRaceIsA500AndTheOtherOnesRowExists(t *testing.T) {
	for name, tc := range map[string]struct {
		send   func(*world) result
		status int
		again  int // the status without a race
		exists func(logto.Snapshot) bool
	}{
		"a resource": {
			func(w *world) result {
				return w.do("POST", "/api/resources", object{"name": "x", "indicator": "https://x.example.com"})
			}, 500, 422, func(s logto.Snapshot) bool { return len(s.Resources) == 2 },
		},
		"a scope": {
			func(w *world) result {
				return w.do("POST", w.at("resources", w.api, "scopes"), object{"name": "x"})
			}, 500, 422, func(s logto.Snapshot) bool { return len(s.Resources[0].Scopes) == 3 },
		},
		"a role": {
			func(w *world) result {
				return w.do("POST", "/api/roles", object{"name": "x", "description": "x", "type": "MachineToMachine"})
			}, 500, 422, func(s logto.Snapshot) bool { return len(s.Roles) == 2 },
		},
		"a grant": {
			func(w *world) result { return w.grant(w.read) }, 500, 422,
			func(s logto.Snapshot) bool { return len(s.Roles[0].Scopes[payments]) == 1 },
		},
		"an assignment": {
			(*world).assign, 500, 422, func(s logto.Snapshot) bool { return len(s.Roles[0].Applications) == 1 },
		},
		"an assignment, from the application": {
			func(w *world) result {
				return w.do("POST", w.at("applications", w.app, "roles"), object{"roleIds": []string{w.role}})
			}, 500, 201, func(s logto.Snapshot) bool { return len(s.Roles[0].Applications) == 1 },
		},
		"a secret": {
			func(w *world) result {
				return w.do("POST", w.at("applications", w.app, "secrets"), object{"name": "x"})
			}, 422, 422, func(s logto.Snapshot) bool { return len(s.Applications[0].Secrets) == 2 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.SetFault(always(logto.Fault{LoseRace: true}))
			for _, which := range []string{"first", "second"} {
				if got := tc.send(w); got.status != tc.status || !tc.exists(w.Snapshot()) {
					t.Errorf("%s loser: %d %s, want %d; %+v", which, got.status, got.raw, tc.status, w.Snapshot())
				}
			}
			w.SetFault(nil)
			if got := tc.send(w); got.status != tc.again {
				t.Errorf("afterwards: %d %s, want %d", got.status, got.raw, tc.again)
			}
			w.wantNoViolations()
		})
	}
}

func TestParallelPostsLeaveOneResourceAndEightApplications(t *testing.T) {
	w := newWorld(t)
	w.SetFault(func(_ *http.Request, n int) logto.Fault { return logto.Fault{LoseRace: n%8 != 1} })
	w.ResetRequests()
	parallel := func(path, body string) map[int]int {
		var mu sync.Mutex
		var running sync.WaitGroup
		statuses := map[int]int{}
		for range 8 {
			r := w.request("POST", path, body)
			running.Go(func() {
				got, err := w.send(r)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				statuses[got.status]++
			})
		}
		running.Wait()
		return statuses
	}
	// The one that does not lose may come after one that did, and then finds that one's row.
	got := parallel("/api/resources", `{"name":"x","indicator":"https://x.example.com"}`)
	if got[500] != 7 || got[201]+got[422] != 1 {
		t.Errorf("statuses of the resource: %v", got)
	}
	got = parallel("/api/applications", `{"name":"x","type":"MachineToMachine"}`)
	if diff := cmp.Diff(map[int]int{200: 8}, got); diff != "" {
		t.Errorf("statuses of the application:\n%s", diff)
	}
	if s := w.Snapshot(); len(s.Resources) != 2 || len(s.Applications) != 9 {
		t.Errorf("%d resources, %d applications", len(s.Resources), len(s.Applications))
	}
}

func TestWithItsDatabaseDownEverythingIs500(t *testing.T) {
	w, secret := newGranted(t)
	w.SetDown(true)
	for _, path := range []string{"/oidc/jwks", "/oidc/.well-known/openid-configuration", "/api/roles", w.at("applications", w.app)} {
		if got := w.do("GET", path, nil); got.status != http.StatusInternalServerError || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %d %q", path, got.status, got.header.Get("Content-Type"))
		}
	}
	if got := w.token(w.app, secret, "resource", payments); got.status != http.StatusInternalServerError {
		t.Errorf("token: %d", got.status)
	}
	w.SetDown(false)
	if got := w.token(w.app, secret, "resource", payments); got.status != http.StatusOK {
		t.Errorf("token, with the database up again: %d", got.status)
	}
	w.wantNoViolations()
}
