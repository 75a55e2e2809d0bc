// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// tour is how a chain of acts is judged: the end must be that of a fresh run with the same manifests, also after a
// restart, and after all is taken back it must be the start.
type tour struct {
	t      *testing.T
	places places
	scene  *scene
	base   git
	start  ending            // that of a run that gets the scene's manifests at once
	fresh  map[string]ending // those of such runs, by their manifests

	walks, compared int
}

// ending is how a run ends.
type ending struct {
	state    string
	unknowns []string
}

func newTour(t *testing.T, all places, s *scene) *tour {
	t.Helper()
	base := parse(t, s)
	start := afresh(t, all, s, base)
	return &tour{t: t, places: all, scene: s, base: base, start: start, fresh: map[string]ending{base.text(): start}}
}

// afresh returns the end of a fresh run.
func (o *tour) afresh(g git) ending {
	o.t.Helper()
	key := g.text()
	if _, known := o.fresh[key]; !known {
		o.fresh[key] = afresh(o.t, o.places, o.scene, g)
	}
	return o.fresh[key]
}

// begin brings a world to the start.
func (o *tour) begin(w *world) {
	o.t.Helper()
	if err := w.apply(o.base.copy()); err != nil {
		o.t.Fatal(err)
	}
	w.rest()
}

// walk performs acts in a world that is at the start, and goes back to it. It returns what is wrong, and the acts that
// the API server refused.
func (o *tour) walk(w *world, acts []act) (wrongs []string, refused []act) {
	o.t.Helper()
	for _, a := range acts {
		if err := w.perform(a); err != nil {
			refused = append(refused, a)
			continue
		}
		if a.hurry {
			continue
		}
		for _, wrong := range w.wrongs() {
			wrongs = append(wrongs, fmt.Sprintf("after %v: %s", a, wrong))
		}
	}
	w.rest()
	o.walks++
	end := w.end()
	if fresh := o.afresh(w.want); !w.usurped() && slices.Equal(fresh.unknowns, o.start.unknowns) {
		o.compared++
		if d := differences(fresh.state, end); d != "" {
			wrongs = append(wrongs, "it ends differently (-fresh +this):\n"+d)
		}
	}
	wrongs = append(wrongs, o.idle(w, end)...)
	w.reverse(o.base.copy())
	wrongs = append(wrongs, w.wrongs()...)
	if d := differences(o.start.state, w.end()); d != "" {
		wrongs = append(wrongs, "after the reversal it is not the start (-start +this):\n"+d)
	}
	return wrongs, refused
}

// idle starts another operator, which must change nothing.
func (o *tour) idle(w *world, end string) (wrongs []string) {
	o.t.Helper()
	versions, issued := w.versions(), len(w.log.issued)
	failing := len(w.failures) > 0
	w.restart()
	w.settle(time.Second)
	if d := differences(end, w.end()); d != "" {
		wrongs = append(wrongs, "another operator ends differently:\n"+d)
	}
	troubled := failing || w.scene.registers || slices.ContainsFunc(w.unknowns(), func(u string) bool { return !slices.Contains(o.start.unknowns, u) })
	for name, version := range w.versions() {
		// What fails is tried again, and its status counts how often. What is registered is compared now and then.
		if versions[name] != version && (!troubled || !v1alpha1Kinds.MatchString(name)) {
			wrongs = append(wrongs, fmt.Sprintf("another operator writes %s, the last requests are %v", name, last(w.wire.Calls(), 6)))
		}
	}
	if n := len(w.log.issued) - issued; n > 0 {
		wrongs = append(wrongs, fmt.Sprintf("another operator requests %d tokens", n))
	}
	return wrongs
}

// v1alpha1Kinds are those that have a status.
var v1alpha1Kinds = regexp.MustCompile(`^(\w*AuthorizationServer|APIResource|M2MClient) `)

// judge reports what is wrong after acts, with the fewest of them that lead to it in a world of their own.
func (o *tour) judge(acts []act, wrongs []string) {
	o.t.Helper()
	if again := o.alone(acts); len(again) > 0 {
		wrongs = again
	}
	for size := (len(acts) + 1) / 2; size > 0; {
		reduced := false
		for from := 0; from < len(acts) && len(acts) > 1; from += size {
			less := append(append([]act{}, acts[:from]...), acts[min(from+size, len(acts)):]...)
			if w := o.alone(less); len(w) > 0 {
				acts, wrongs, reduced = less, w, true
				break
			}
		}
		if !reduced {
			size /= 2
		}
		size = min(size, len(acts)/2)
	}
	o.t.Errorf("%s\n%s:\n%s", o.scene.name, chain(acts), strings.Join(wrongs, "\n"))
}

// alone walks in a world of its own.
func (o *tour) alone(acts []act) (wrongs []string) {
	o.t.Helper()
	within(o.t, o.places, o.scene, func(w *world) {
		o.begin(w)
		wrongs, _ = o.walk(w, acts)
	})
	return wrongs
}

// chain prints acts as a regression test has them.
func chain(acts []act) string {
	var lines []string
	for _, a := range acts {
		lines = append(lines, "\t"+a.String())
	}
	return strings.Join(lines, "\n")
}
