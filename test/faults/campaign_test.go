// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// places are the namespaces for the runs that go on at the same time.
type places chan *place

func newPlaces(t *testing.T, n int) places {
	t.Helper()
	// Thousands of operators come and go: what they leave is collected as soon as by default.
	debug.SetGCPercent(100)
	operator.CreateNamespace(t)
	if err := install(); err != nil {
		t.Fatal(err)
	}
	all := make(places, n)
	for range n {
		p := &place{shop: operator.NewNamespace(t, "shop", nil), payments: operator.NewNamespace(t, "payments", nil)}
		for range 10 {
			p.more = append(p.more, operator.NewNamespace(t, "more", nil))
		}
		all <- p
	}
	return all
}

// TestCampaign disturbs each scenario at each of its requests. With SHORT=1 it takes some of the cases, which
// a seed selects: each scenario with each kind of fault.
func TestCampaign(t *testing.T) {
	all, f := newPlaces(t, 8), newFigures(t)
	seed := seedOf(t)
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			free := undisturbed(t, all, s)
			for _, c := range chosen(s, casesOf(free), seed) {
				t.Run(c.String(), func(t *testing.T) {
					t.Parallel()
					p := <-all
					defer func() { all <- p }()
					start := time.Now()
					defer func() { f.add(s.name, c.fault, t.Failed(), time.Since(start)) }()
					r, o := play(t, p, s, &c.at, c.fault)
					// Of requests that many causes share, such as that for a list, a run may send one less.
					for again := 0; again < 3 && !r.wire.Met() && !t.Failed(); again++ {
						r, o = play(t, p, s, &c.at, c.fault)
					}
					judge(t, free, r, o, c)
				})
			}
		})
	}
}

// undisturbed runs a scenario twice without a fault. Both runs must be the same, or a disturbed run compares
// to nothing.
func undisturbed(t *testing.T, all places, s *scenario) *outcome {
	t.Helper()
	var runs []*outcome
	for range 2 {
		func() {
			p := <-all
			defer func() { all <- p }()
			_, o := play(t, p, s, nil, "")
			runs = append(runs, o)
		}()
	}
	if d := diff(runs[0].state, runs[1].state); d != "" {
		t.Errorf("two runs without a fault end differently:\n%s", d)
	}
	if !slices.Equal(sorted(runs[0].calls), sorted(runs[1].calls)) {
		t.Errorf("two runs without a fault send different requests:\n%v\n%v", runs[0].calls, runs[1].calls)
	}
	if t.Failed() {
		t.FailNow()
	}
	return runs[0]
}

func sorted(calls []Call) []string {
	var names []string
	for _, c := range calls {
		names = append(names, c.String())
	}
	slices.Sort(names)
	return names
}

// disturbance is a fault at a request.
type disturbance struct {
	at    Call
	fault Fault
}

// String names the case as a part of a test's name.
func (d disturbance) String() string {
	return strings.NewReplacer("/", ":", " ", "_").Replace(fmt.Sprintf("%s at %s", d.fault, d.at))
}

func casesOf(o *outcome) (all []disturbance) {
	for _, c := range o.calls {
		for _, f := range Faults(c) {
			all = append(all, disturbance{c, f})
		}
	}
	return all
}

// short is how many cases of each fault a short run takes of each scenario.
const short = 2

// chosen returns all cases, or for a short run some of each fault.
func chosen(s *scenario, all []disturbance, seed uint64) []disturbance {
	if os.Getenv("SHORT") == "" {
		return all
	}
	of := map[Fault]int{}
	random := rand.New(rand.NewPCG(seed, uint64(len(s.name))))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = slices.DeleteFunc(all, func(d disturbance) bool {
		of[d.fault]++
		return of[d.fault] > short
	})
	slices.SortStableFunc(all, func(a, b disturbance) int { return cmp.Compare(a.fault, b.fault) })
	return all
}

// seedOf returns the seed of a short run, which M2M_FAULTS_SEED can repeat.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("M2M_FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the seed is M2M_FAULTS_SEED=%d", seed)
	return seed
}

// outcome holds the end state of a run, and counts what the authorization server gave out.
type outcome struct {
	state   string
	issued  map[string]int // tokens, by resource
	lost    map[string]int // those of them that no Secret ever held
	cutDown map[string]int // those of them after which the operator wrote nothing before it was killed
	creates map[string]int
	calls   []Call // of the steps that faults can meet
}

// play runs a scenario. With a fault, it meets it at a call.
func play(t *testing.T, p *place, s *scenario, at *Call, fault Fault) (*run, *outcome) {
	t.Helper()
	r := newRun(t, p, s)
	r.start()
	defer r.clean()
	for _, step := range s.before {
		step.do(r)
		r.settle(patience)
	}
	past := len(r.wire.Calls())
	if at != nil {
		r.wire.Break(*at, fault)
		r.impatient = fault == TimeOut && at.Side == AuthorizationServer
	}
	for _, step := range s.steps {
		step.take(r)
	}
	return r, r.conclude(past)
}

// take lets a step happen, and the operator deal with it.
func (s step) take(r *run) {
	s.do(r)
	within := s.within
	if within == 0 {
		within = patience
	}
	r.settle(within)
}

// conclude ends a run, and returns its outcome with the calls after those of its preparation.
func (r *run) conclude(past int) *outcome {
	r.stop()
	o := &outcome{state: r.state(), issued: map[string]int{}, lost: map[string]int{}, cutDown: map[string]int{}, creates: maps.Clone(r.log.creates), calls: r.wire.Calls()[past:]}
	for _, i := range r.log.issued {
		o.issued[i.access]++
	}
	for _, i := range r.log.lost() {
		o.lost[i.access]++
		if i.writes == r.log.atDeath {
			o.cutDown[i.access]++
		}
	}
	for _, f := range r.failing() {
		r.t.Errorf("it fails for ever: %s", f)
	}
	for _, b := range r.log.breaches {
		r.t.Error(b)
	}
	return o
}
