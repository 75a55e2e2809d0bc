// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// How a cache is behind the API server.
const (
	Held     Fault = "held watch"         // it reports nothing for a while
	HeldLong Fault = "held watch, long"   // for longer than a reconcile waits for it
	Merged   Fault = "compacted watch"    // it breaks, and only the last state of each object is seen
	Older    Fault = "older after a kill" // a fresh operator begins with objects as they were before its predecessor wrote
)

// followed are the resources that the operator follows.
func followed() []string {
	return []string{
		"secrets", "configmaps", "m2mclients", "apiresources", "authorizationservers", "clusterauthorizationservers",
		"namespaces", "pods", "securitypolicies",
	}
}

const (
	// behind is how long a cache stays behind, by the operator's clock.
	behind = 20 * time.Second
	// stuck is how long a reconcile may send no request before others go on without it.
	stuck = 150 * time.Millisecond
)

// lag is a time in which one resource's watches report nothing. Reconciles that wait for what was just
// written do not return, as in production, and keep their object busy.
type lag struct {
	resource string
	busy     map[string]*visit
}

// visit is a reconcile that has not returned.
type visit struct {
	name   types.NamespacedName
	cancel context.CancelFunc
	done   chan struct{}
	result ctrl.Result
	err    error
}

// of reports whether a resource's watches lag behind.
func (l *lag) of(resource string) bool { return l != nil && l.resource == resource }

// visit begins a reconcile, and waits for it unless it waits for the watch.
func (l *lag) visit(r *run, what string, name types.NamespacedName, reconcile func(context.Context) (ctrl.Result, error)) {
	if l.busy[what] != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	v := &visit{name: name, cancel: cancel, done: make(chan struct{})}
	l.busy[what] = v
	go func() {
		defer close(v.done)
		v.result, v.err = reconcile(ctx)
	}()
	for calls := -1; calls != len(r.wire.Calls()); {
		calls = len(r.wire.Calls())
		select {
		case <-v.done:
			l.returned(r)
			return
		case <-time.After(stuck):
		}
	}
}

// returned notes the reconciles that have returned.
func (l *lag) returned(r *run) {
	for _, what := range slices.Sorted(maps.Keys(l.busy)) {
		v := l.busy[what]
		select {
		case <-v.done:
			v.cancel()
			delete(l.busy, what)
			r.visited(what, v.name, v.result, v.err)
		default:
		}
	}
}

// await waits for the reconciles that have not returned.
func (l *lag) await(r *run) {
	r.t.Helper()
	for _, what := range slices.Sorted(maps.Keys(l.busy)) {
		select {
		case <-l.busy[what].done:
		case <-time.After(time.Minute):
			r.t.Fatalf("the reconcile of %s does not return", what)
		}
	}
	l.returned(r)
}

// lagging lets a resource's watches lag while something is done, and the operator goes on for a while.
func (r *run) lagging(resource string, how Fault, do func()) {
	r.t.Helper()
	letGo := r.wire.Hold(resource)
	defer letGo()
	do()
	r.lag = &lag{resource, map[string]*visit{}}
	for _, op := range r.instances() {
		op.Lagging = map[string]bool{resource: true}
	}
	r.settle(behind)
	switch how {
	case HeldLong: // each reconcile that still waits ends as after its time-out
		for _, v := range r.lag.busy {
			v.cancel()
		}
		r.lag.await(r)
	case Merged:
		if err := r.wire.Compact(resource, versionNow(r)); err != nil {
			r.t.Fatal(err)
		}
	}
	letGo()
	r.lag.await(r)
	r.lag = nil
	for _, op := range r.instances() {
		op.Lagging = nil
	}
}

// versionNow returns the API server's present version.
func versionNow(r *run) string {
	r.t.Helper()
	var list v1alpha1.M2MClientList
	if err := operator.Kube.List(r.t.Context(), &list); err != nil {
		r.t.Fatal(err)
	}
	return list.ResourceVersion
}

// playLate runs a scenario with caches that are behind at each of its steps.
func playLate(t *testing.T, p *place, s *scenario, resource string, how Fault) (*run, *outcome) {
	t.Helper()
	r := newRun(t, p, s)
	r.start()
	defer r.clean()
	for _, step := range s.before {
		step.do(r)
		r.settle(patience)
	}
	past := len(r.wire.Calls())
	for _, step := range s.steps {
		within := step.within
		if within == 0 {
			within = patience
		}
		switch how { // the same time passes in all
		case "":
			step.do(r)
			r.settle(within)
			r.settle(behind)
		case Older:
			step.do(r)
			version := versionNow(r)
			r.settle(within)
			r.stop()
			present := r.wire.Past(resource, version)
			r.lagging(resource, how, r.start)
			present()
		default:
			r.lagging(resource, how, func() { step.do(r) })
			r.settle(within)
		}
		r.settle(within)
	}
	return r, r.conclude(past)
}

// TestStale runs each scenario while the watch of one resource is behind the others: for seconds, for longer
// than a reconcile waits, through a restart, or so long that the API server has forgotten what changed. What it
// ends in and what is issued and created is as without. SHORT=1 takes some cases of each kind.
func TestStale(t *testing.T) {
	all, f := newPlaces(t, 4), newFigures(t)
	cases := map[*scenario][]lateness{}
	for _, c := range chosenLate(seedOf(t)) {
		cases[c.scenario] = append(cases[c.scenario], c)
	}
	for s, of := range cases {
		t.Run(s.name, func(t *testing.T) {
			p := <-all
			_, free := playLate(t, p, s, "", "")
			all <- p
			if t.Failed() {
				t.FailNow()
			}
			for _, c := range of {
				t.Run(c.String(), func(t *testing.T) {
					t.Parallel()
					p := <-all
					defer func() { all <- p }()
					start := time.Now()
					defer func() { f.add(s.name, c.how, t.Failed(), time.Since(start)) }()
					r, o := playLate(t, p, s, c.resource, c.how)
					judgeSame(t, free, r, o)
				})
			}
		})
	}
}

// lateness is a case.
type lateness struct {
	scenario *scenario
	resource string
	how      Fault
}

// String names a case as a part of a test's name.
func (l lateness) String() string {
	return strings.ReplaceAll(fmt.Sprintf("%s of %s", l.how, l.resource), " ", "_")
}

// shortLate is how many scenarios a short run has, and how many cases of each.
const shortLate = 6

// chosenLate returns all cases, or for a short run some.
func chosenLate(seed uint64) (all []lateness) {
	scenarios := scenarios()
	random := rand.New(rand.NewPCG(seed, 1))
	if os.Getenv("SHORT") != "" {
		random.Shuffle(len(scenarios), func(i, j int) { scenarios[i], scenarios[j] = scenarios[j], scenarios[i] })
		scenarios = scenarios[:shortLate]
	}
	for _, s := range scenarios {
		var of []lateness
		for _, resource := range followed() {
			for _, how := range []Fault{Held, HeldLong, Merged, Older} {
				of = append(of, lateness{s, resource, how})
			}
		}
		if os.Getenv("SHORT") != "" {
			random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
			of = of[:shortLate]
		}
		all = append(all, of...)
	}
	return all
}

// judgeSame compares a run in which nothing was lost with the one without a fault.
func judgeSame(t *testing.T, free *outcome, r *run, o *outcome) {
	t.Helper()
	if d := diff(free.state, o.state); d != "" {
		t.Errorf("it ends differently (-without +with the fault):\n%s", d)
	}
	issuedOnce(t, free, o, disturbance{})
	createdOnce(t, free, o, disturbance{})
	if t.Failed() {
		t.Logf("the requests were\n%s", strings.Join(describeAll(r.wire.Calls()), "\n"))
	}
}
