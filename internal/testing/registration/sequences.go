// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Sequences runs random sequences. Each sequence changes the wanted scopes, lets time
// pass, has administrators change registrations at the server's console, makes the
// server fail and answers get lost, and kills the operator at every kind of boundary.
// In the end there is one registration with exactly the right scopes, which can get
// tokens, and every other registration has been reported. M2M_REGISTRATION_SEED runs
// one sequence. fresh returns an unused world; its first access says which APIs and
// scopes exist.
func Sequences(t *testing.T, n int, fresh func(t *testing.T, seed uint64) *World) {
	first := rand.Uint64() // printed, so that a failed run can be repeated
	seeds := []uint64{}
	for seed := first; len(seeds) < n; seed++ {
		seeds = append(seeds, seed)
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
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { run(fresh(t, seed), seed, counts) }) {
			t.Logf("run it again with M2M_REGISTRATION_SEED=%d", seed)
		}
	}
	t.Logf("calls and sequences: %v", counts)
	for _, must := range []string{"killed", "failed", "left behind", "drift"} {
		if counts[must] == 0 && len(seeds) > 1 {
			t.Errorf("%q never happened: the sequences miss what they should test", must)
		}
	}
}

func run(w *World, seed uint64, counts map[string]int) {
	t := w.t
	r := rand.New(rand.NewPCG(seed, 1)) // a sequence must be repeatable
	s := &sequence{World: w, r: r, counts: counts, apis: w.Want.Access, calm: true}
	var log []string
	for range 4 + r.IntN(10) {
		name := s.act()
		w.killAt = 0
		if r.IntN(3) == 0 {
			w.killAt, s.calm = 1+r.IntN(25), false
		}
		drift, err := w.Sync()
		log = append(log, fmt.Sprintf("%s, killed at %d: %v, %q", name, w.killAt, err, drift))
		s.note(drift, err)
	}
	if r.IntN(6) == 0 {
		s.removeAll(&log)
		return
	}
	w.killAt = 0
	w.faults = nil
	s.settle(&log)
	if w.Now = w.Now.Add(w.Rotation.Overlap + time.Second); w.Rotation.Every > 0 {
		w.Rotation.Every = 1000 * time.Hour
	}
	s.settle(&log)
	state := w.State()
	if len(state.LeftBehind) > 0 {
		counts["left behind"]++
	}
	if wrong := w.Wrong(); wrong != "" {
		t.Errorf("%s\n%s\nleft behind: %q", wrong, join(log), state.LeftBehind)
	}
	if s.calm && len(state.LeftBehind) > 0 {
		t.Errorf("nothing failed, but something was left behind: %q\n%s", state.LeftBehind, join(log))
	}
	// A correct registration is read once and not changed.
	before := string(w.stored)
	if drift := w.MustSync(); len(drift) > 0 || before != string(w.stored) || len(w.Requests) > 1 {
		t.Errorf("one more call made %q, drift %q, and of the state\n%s\n%s", w.Requests, drift, before, w.stored)
	}
}

type sequence struct {
	*World
	r      *rand.Rand
	counts map[string]int
	apis   []provision.Access // what exists
	calm   bool               // unset once anything failed or was killed
	begun  bool
}

func (s *sequence) act() string {
	if !s.begun {
		s.begun = true
		return "begin"
	}
	clients := s.Server.Registered()
	switch s.r.IntN(10) {
	case 0, 1:
		s.Want.Access = nil
		for _, api := range s.apis {
			var scopes []string
			for _, scope := range api.Scopes {
				if s.r.IntN(2) == 0 {
					scopes = append(scopes, scope)
				}
			}
			if len(scopes) > 0 {
				s.Want.Access = append(s.Want.Access, provision.Access{Resource: api.Resource, Scopes: scopes})
			}
		}
		return fmt.Sprint("access ", s.Want.Access)
	case 2:
		s.Rotation.Request += "x"
		return "rotate"
	case 3:
		s.Now = s.Now.Add(time.Duration(s.r.IntN(180)) * time.Minute)
		return "time"
	case 4:
		s.Rotation.Every = time.Duration(s.r.IntN(3)) * 12 * time.Hour
		s.Now = s.Now.Add(time.Duration(s.r.IntN(20)) * time.Hour)
		return fmt.Sprint("every ", s.Rotation.Every)
	case 5:
		if len(clients) > 0 {
			s.Server.Delete(clients[s.r.IntN(len(clients))].ID)
		}
		return "console deletes"
	case 6:
		// An unknown registration can be found only by its name.
		credentials := s.State().Credentials
		clients = slices.DeleteFunc(clients, func(c Registered) bool {
			return !slices.ContainsFunc(credentials, func(k provision.Credential) bool { return k.ClientID == c.ID })
		})
		if len(clients) > 0 {
			c := clients[s.r.IntN(len(clients))]
			switch s.r.IntN(3) {
			case 0:
				c.Name = "renamed"
			case 1:
				c.Scopes = s.apis[0].Scopes
			case 2:
				c.Scopes = c.Scopes[:s.r.IntN(len(c.Scopes)+1)]
			}
			s.Server.Change(c)
		}
		return "console changes"
	case 7, 8:
		s.calm = false
		method := []string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodDelete}[s.r.IntN(4)]
		f := &fault{method: method, times: 1 + s.r.IntN(2), lost: s.r.IntN(3) > 0}
		s.faults = append(s.faults, f)
		return fmt.Sprintf("fault %+v", *f)
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

// settle calls until nothing changes.
func (s *sequence) settle(log *[]string) {
	s.t.Helper()
	for range 8 {
		before := string(s.stored)
		drift, err := s.Sync()
		*log = append(*log, fmt.Sprintf("settle: %v, %q, %q", err, drift, s.Requests))
		if err == nil && before == string(s.stored) {
			return
		}
	}
	s.t.Errorf("it does not settle:\n%s\n%s", join(*log), s.stored)
}

// removeAll deletes the client, with kills and faults, and checks that everything left
// over was reported.
func (s *sequence) removeAll(log *[]string) {
	s.t.Helper()
	s.Want.Access = nil
	for i := range 40 {
		s.killAt = 0
		if i < 3 && s.r.IntN(2) == 0 {
			s.killAt = 1 + s.r.IntN(8)
		}
		err := s.Remove()
		*log = append(*log, fmt.Sprintf("remove, killed at %d: %v", s.killAt, err))
		if err == nil && !s.killed {
			break
		}
	}
	if wrong := s.Wrong(); wrong != "" {
		s.t.Errorf("%s\n%s\nleft behind: %q", wrong, join(*log), s.State().LeftBehind)
	}
}

func join(lines []string) (text string) {
	for i, l := range lines {
		text += fmt.Sprintln(i, l)
	}
	return text
}
