// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/oidctest"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// sequences is how many random sequences are run. M2M_REGISTRATION_SEED runs one.
const sequences = 1000

// TestRandomSequences changes what is wanted, lets time pass, has people change registrations at the server's console,
// lets the server fail and lose answers, and kills the operator at every kind of boundary. When all that is over, there
// is one registration with exactly the right scopes that gives tokens, and every other is announced.
func TestRandomSequences(t *testing.T) {
	first := rand.Uint64()
	seeds := make([]uint64, sequences)
	for i := range seeds {
		seeds[i] = first + uint64(i)
	}
	if one := os.Getenv("M2M_REGISTRATION_SEED"); one != "" {
		seed, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	t.Logf("%d sequences from seed %d on", len(seeds), seeds[0])
	counts := map[string]int{}
	for _, seed := range seeds {
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runSequence(t, seed, counts) }) {
			t.Logf("run it again with M2M_REGISTRATION_SEED=%d", seed)
		}
	}
	t.Logf("%v", counts)
	if len(seeds) > 1 {
		for _, must := range []string{"killed", "failed", "left behind", "drift"} {
			if counts[must] == 0 {
				t.Errorf("%q never happened: the sequences do not test what they should", must)
			}
		}
	}
}

func runSequence(t *testing.T, seed uint64, counts map[string]int) {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a sequence must be repeatable
	w := newWorld(t, oidctest.DynamicRegistration{RotateTokens: r.IntN(2) == 0})
	s := &sequence{world: w, r: r, counts: counts}
	var log []string
	for range 4 + r.IntN(10) {
		name := s.act()
		w.killAt = 0
		if r.IntN(3) == 0 {
			w.killAt, s.calm = 1+r.IntN(25), false
		}
		drift, err := w.sync()
		log = append(log, fmt.Sprintf("%s, killed at %d: %v, %q", name, w.killAt, err, drift))
		s.note(drift, err)
	}
	if r.IntN(6) == 0 {
		s.removeAll(&log)
		return
	}
	w.killAt = 0
	w.server.ClearFaults()
	s.settle(&log)
	if w.now = w.now.Add(w.rotation.Overlap + time.Second); w.rotation.Every > 0 {
		w.rotation.Every = 1000 * time.Hour
	}
	s.settle(&log)
	state := w.state()
	if len(state.LeftBehind) > 0 {
		counts["left behind"]++
	}
	if wrong := w.wrong(); wrong != "" {
		t.Errorf("%s\n%s\nleft behind: %q", wrong, join(log), state.LeftBehind)
	}
	if s.calm && len(state.LeftBehind) > 0 {
		t.Errorf("nothing failed, and something was left behind: %q\n%s", state.LeftBehind, join(log))
	}
	// What is as it should be is looked at once and stays as it is.
	before := string(w.stored)
	if drift := w.mustSync(); len(drift) > 0 || before != string(w.stored) || len(w.requests) > 1 {
		t.Errorf("one more call made %q, drift %q, and of the state\n%s\n%s", w.requests, drift, before, w.stored)
	}
}

type sequence struct {
	*world
	r      *rand.Rand
	counts map[string]int
	calm   bool // unset once anything failed or was killed
	begun  bool
}

func (s *sequence) act() string {
	if !s.begun {
		s.begun, s.calm = true, true
		return "begin"
	}
	clients := s.server.RegisteredClients()
	switch s.r.IntN(10) {
	case 0, 1:
		s.want.Access = nil
		for _, resource := range []string{payment, shipping} {
			var scopes []string
			for _, scope := range []string{"cancel", "read", "write"} {
				if s.r.IntN(2) == 0 {
					scopes = append(scopes, scope)
				}
			}
			if len(scopes) > 0 {
				s.want.Access = append(s.want.Access, access(resource, scopes...))
			}
		}
		return fmt.Sprint("access ", s.want.Access)
	case 2:
		s.rotation.Request += "x"
		return "rotate"
	case 3:
		s.now = s.now.Add(time.Duration(s.r.IntN(180)) * time.Minute)
		return "time"
	case 4:
		s.rotation.Every = time.Duration(s.r.IntN(3)) * 12 * time.Hour
		s.now = s.now.Add(time.Duration(s.r.IntN(20)) * time.Hour)
		return fmt.Sprint("every ", s.rotation.Every)
	case 5:
		if len(clients) > 0 {
			s.server.RemoveClient(clients[s.r.IntN(len(clients))].ID)
		}
		return "console deletes"
	case 6:
		// Of what nobody knows any more, the name is all that is left to find it by.
		credentials := s.state().Credentials
		clients = slices.DeleteFunc(clients, func(c oidctest.RegisteredClient) bool {
			return !slices.ContainsFunc(credentials, func(k provision.Credential) bool { return k.ClientID == c.ID })
		})
		if len(clients) > 0 {
			s.server.ChangeRegisteredClient(clients[s.r.IntN(len(clients))].ID, func(c *oidctest.RegisteredClient) {
				switch s.r.IntN(3) {
				case 0:
					c.Name = "renamed"
				case 1:
					c.Scopes = append(c.Scopes, "root")
				case 2:
					c.Scopes = c.Scopes[:s.r.IntN(len(c.Scopes)+1)]
				}
			})
		}
		return "console changes"
	case 7, 8:
		s.calm = false
		method := []string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodDelete}[s.r.IntN(4)]
		f := &oidctest.Fault{Times: 1 + s.r.IntN(2), Match: func(r *http.Request) bool { return r.Method == method }}
		if s.r.IntN(3) == 0 {
			f.Status, f.Body = http.StatusInternalServerError, "{}"
		} else {
			f.Cut = true
		}
		s.server.AddFault(oidctest.Registration, f)
		return fmt.Sprintf("fault %d of %s, %d times", f.Status, method, f.Times)
	}
	return "nothing"
}

func (s *sequence) note(drift []provision.Drift, err error) {
	if len(drift) > 0 {
		s.counts["drift"]++
	}
	switch {
	case s.killed:
		s.counts["killed"]++
	case err != nil:
		s.counts["failed"]++
	}
}

// settle calls until nothing changes any more.
func (s *sequence) settle(log *[]string) {
	s.t.Helper()
	for range 8 {
		before := string(s.stored)
		drift, err := s.sync()
		*log = append(*log, fmt.Sprintf("settle: %v, %q, %q", err, drift, s.requests))
		if err == nil && before == string(s.stored) {
			return
		}
	}
	s.t.Errorf("it does not come to rest:\n%s\n%s", join(*log), s.stored)
}

// removeAll deletes the client, with kills and faults, and checks that what is left is announced.
func (s *sequence) removeAll(log *[]string) {
	s.t.Helper()
	s.want.Access = nil
	for i := range 40 {
		s.killAt = 0
		if i < 3 && s.r.IntN(2) == 0 {
			s.killAt = 1 + s.r.IntN(8)
		}
		err := s.remove()
		*log = append(*log, fmt.Sprintf("remove, killed at %d: %v", s.killAt, err))
		if err == nil && !s.killed {
			break
		}
	}
	if wrong := s.wrong(); wrong != "" {
		s.t.Errorf("%s\n%s\nleft behind: %q", wrong, join(*log), s.state().LeftBehind)
	}
}

func join(lines []string) (text string) {
	for i, l := range lines {
		text += fmt.Sprintln(i, l)
	}
	return text
}
