// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

var (
	sequences = flag.Int("sequences", 300/thinned, "how many random sequences TestAnythingHappens runs; make faults runs more")
	every     = flag.Int("every", max(4, thinned), "of how many requests TestKilledAnywhere and TestFailsAnywhere take one, from a random one on; make faults takes each")
	seedFlag  = flag.Uint64("seed", 0, "the one seed that TestAnythingHappens runs, 0 for as many new ones as -sequences says")
)

// Whatever changes in Git and at the server, whatever fails and wherever the operator is killed: in the end the server
// has exactly what is declared, a token carries exactly what is granted, and nothing is left of what was deleted.
// Repeat a seed with: go test ./internal/provision -run AnythingHappens -seed N
func TestAnythingHappens(t *testing.T) {
	t.Parallel()
	first, last := rand.Uint64()>>20, uint64(0)
	if *seedFlag > 0 {
		first, last = *seedFlag, *seedFlag+1
	} else {
		last = first + uint64(*sequences)
	}
	t.Logf("Seeds %d to %d", first, last-1)
	var next atomic.Uint64
	next.Store(first)
	var failures atomic.Int32
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for failures.Load() < 5 {
				seed := next.Add(1) - 1
				if seed >= last {
					return
				}
				w, err := live(seed)
				if err == nil {
					continue
				}
				failures.Add(1)
				trace := w.trace
				if omitted := len(trace) - 400; omitted > 0 && *seedFlag == 0 {
					trace = append([]string{fmt.Sprintf("(%d lines)", omitted)}, trace[omitted:]...)
				}
				t.Errorf("Run with -seed %d again.\n%s\n\n%v", seed, strings.Join(trace, "\n"), err)
			}
		})
	}
	workers.Wait()
}

// live is one sequence: the life of a few objects.
func live(seed uint64) (w *world, err error) {
	w, err = newWorld(seed)
	if err != nil {
		return w, err
	}
	w.populate()
	for _, a := range w.apis {
		w.tracef("%s: theirs %t, refused %t, watching %t, scopes %v", a.want.Owner.Name, a.theirs, a.refused, a.watching, a.want.Scopes)
	}
	// Each life has some of all that can happen, and more of that: what takes three of a kind in a row happens too.
	w.kinds = w.rand.Perm(12)[:1+w.rand.IntN(12)]
	if w.rand.IntN(3) == 0 {
		w.kinds = []int{0, rotating, rotating, rotating, pick(w.rand, w.kinds)}
	}
	theirs := w.theirs()
	for range 5 + w.rand.IntN(25) {
		w.happen()
		if wrong := w.never(); len(wrong) > 0 {
			return w, errors.New(strings.Join(wrong, "\n"))
		}
	}
	w.calm()
	if err := w.settle(theirs); err != nil {
		return w, fmt.Errorf("after all that: %w", err)
	}
	w.tracef("everything is deleted")
	for _, a := range w.apis {
		a.deleting = a.exists && !a.watching && !a.refused
	}
	for _, c := range w.clients {
		c.deleting, c.retain = c.exists, false
	}
	for range w.rand.IntN(8) {
		w.disturb()
		w.reconcile()
	}
	w.calm()
	for _, a := range w.apis {
		a.deleting = a.exists
	}
	if err := w.settle(theirs); err != nil {
		return w, fmt.Errorf("after everything was deleted: %w", err)
	}
	return w, nil
}

const rotating = 6 // of all that can happen

// happen is one thing that happens, and what the operator does about it.
func (w *world) happen() {
	a, c := pick(w.rand, w.apis), pick(w.rand, w.clients)
	switch pick(w.rand, w.kinds) {
	case 0, 1, 2:
		w.tracef("%s", w.meddle())
	case 3:
		w.changeScopes(a)
		w.tracef("%s declares %v, %s", a.want.Owner.Name, a.want.Scopes, a.want.TokenLifetime)
	case 4, 5:
		for i := range w.apis {
			w.changeAccess(c, i)
		}
		w.tracef("%s/%s is granted %v", c.owner.Cluster, c.owner.Name, c.access)
	case rotating:
		w.rotate(c)
		w.tracef("%s/%s rotates %+v", c.owner.Cluster, c.owner.Name, c.rotation)
	case 7:
		w.now = w.now.Add(pick(w.rand, []time.Duration{time.Second, time.Minute, time.Hour, 5 * time.Hour}))
		w.tracef("it is %s", w.now)
	case 8:
		w.replaceClient(c)
	case 9:
		w.replaceAPI(a)
	case 10:
		w.loseCredentials(c)
	case 11:
		if !a.watching && !a.refused && !a.deleting {
			a.want.Observe = !a.want.Observe && a.state().ID != ""
			w.tracef("%s is observed: %t", a.want.Owner.Name, a.want.Observe)
		}
	}
	w.disturb()
	w.reconcile()
}

// rotate changes how the credential is rotated, or asks for it.
func (w *world) rotate(c *clientOwner) {
	rotation := provision.Rotation{
		Request: pick(w.rand, []string{"", "a", "b", "c", "d", "e"}),
		Every:   pick(w.rand, []time.Duration{0, 2 * time.Hour}),
		Overlap: pick(w.rand, []time.Duration{0, 10 * time.Minute, 24 * time.Hour}),
	}
	if state := c.known(); rotation.Request != c.rotation.Request {
		c.leaked = nil
		for _, k := range state.Credentials {
			if rotation.Request != "" && rotation.Request != state.Rotation && k.Stage != provision.Issuing && k.Request != rotation.Request {
				c.leaked = append(c.leaked, k.Secret)
			}
		}
	}
	c.rotation = rotation
}

// replaceClient deletes the object and creates it again once it is gone, or at once if the client was retained.
func (w *world) replaceClient(c *clientOwner) {
	who := c.owner.Cluster + "/" + c.owner.Name
	switch {
	case !c.exists:
		c.exists, c.retained, c.owner.UID, c.access = true, false, w.newUID(), map[int][]string{}
		for i := range w.apis {
			w.changeAccess(c, i)
		}
		w.tracef("%s is made again", who)
	case !c.deleting:
		// What lost its marks at the console is found by its identifier only, which goes with the object.
		c.deleting, c.retain = true, w.rand.IntN(2) == 0 && w.recognizable(c)
		w.tracef("%s is deleted, retain %t", who, c.retain)
	}
}

// recognizable reports whether the marks alone identify what a client has.
func (w *world) recognizable(c *clientOwner) bool {
	all, state := w.server.Snapshot(), c.known()
	return slices.ContainsFunc(all.Applications, func(a logtotest.Application) bool {
		return a.ID == state.ID && a.CustomData != nil && marked(c.owner, a.CustomData) && a.Name == c.owner.DisplayName() && a.Description != ""
	}) && slices.ContainsFunc(all.Roles, func(r logtotest.Role) bool {
		return r.ID == state.GrantID && r.Name == c.owner.DisplayName()
	})
}

func (w *world) replaceAPI(a *apiOwner) {
	switch {
	case a.watching || a.refused || a.state().Origin == provision.Observed:
	case !a.exists:
		a.exists, a.want.Owner.UID, a.want.Observe = true, w.newUID(), false
		w.tracef("%s is made again", a.want.Owner.Name)
	case !a.deleting && w.rand.IntN(2) == 0:
		a.deleting, a.want.Observe = true, false
		w.tracef("%s is deleted", a.want.Owner.Name)
	case !a.deleting:
		// Retained, and made again: names and descriptions say whose it is.
		for _, r := range w.server.Snapshot().Resources {
			unmarked := func(s logtotest.Scope) bool { return s.Name != "surplus" && !a.want.Owner.Owns(s.Description) }
			if r.Indicator == a.want.Identifier && !a.theirs && (!a.want.Owner.Owns(r.Name) || slices.ContainsFunc(r.Scopes, unmarked)) {
				return
			}
		}
		a.stored, a.want.Owner.UID, a.want.Observe = []byte("{}"), w.newUID(), false
		w.tracef("%s is retained, and made again", a.want.Owner.Name)
	}
}

// loseCredentials loses the Secret with the credentials, not the status.
func (w *world) loseCredentials(c *clientOwner) {
	state := c.state()
	state.Credentials, state.Sequence = nil, 0
	w.wire.killAt = 0
	check(record(&w.wire, &c.stored, state)(nil))
	w.tracef("the credentials of %s/%s are lost", c.owner.Cluster, c.owner.Name)
}

// disturb prepares what will go wrong in the next pass.
func (w *world) disturb() {
	w.calm()
	if w.rand.IntN(2) == 0 {
		w.wire.killAt = w.wire.boundary + 1 + w.rand.IntN(60)
	}
	if w.rand.IntN(3) == 0 {
		rate := 2 + w.rand.IntN(12)
		w.server.SetFault(func(r *http.Request, _ int) (f logtotest.Fault) {
			if w.rand.IntN(rate) > 0 {
				return f
			}
			f = pick(w.rand, faults)
			w.tracef("    %s %s meets %+v", r.Method, r.URL.Path, f)
			return f
		})
	}
	if w.rand.IntN(20) == 0 {
		w.server.SetDown(true)
		w.tracef("the database is down")
	}
}

var faults = []logtotest.Fault{
	{Status: http.StatusInternalServerError},
	{Status: http.StatusInternalServerError, Apply: true},
	{Status: http.StatusBadGateway, Apply: true, ContentType: "text/html", Body: "<html>Bad gateway</html>"},
	{Drop: true},
	{Drop: true, Apply: true},
	{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3"}}},
	{LoseRace: true},
}

func (w *world) calm() {
	w.server.SetFault(nil)
	w.server.SetDown(false)
	w.wire.killAt = 0
}

// reconcile is a pass over some or all objects, in any order.
func (w *world) reconcile() {
	var passes []func()
	for _, a := range w.apis {
		passes = append(passes, func() { _, _ = w.reconcileAPI(a) })
	}
	for _, c := range w.clients {
		passes = append(passes, func() { _, _ = w.reconcileClient(c) })
	}
	w.rand.Shuffle(len(passes), func(i, j int) { passes[i], passes[j] = passes[j], passes[i] })
	for _, pass := range passes[w.rand.IntN(len(passes)):] {
		pass()
	}
}

// settle lets the operator work undisturbed until nothing is left to do, and compares everything with what should be
// there.
func (w *world) settle(theirs string) error {
	for _, a := range w.apis {
		a.want.Observe = a.watching
	}
	for _, c := range w.clients {
		c.rotation.Every = 0
	}
	quiet := 0
	for pass := 0; quiet < 2; pass++ {
		if pass == 60 {
			return errors.New("the operator finds no rest")
		}
		w.writes = 0
		troubles := w.undisturbed()
		if len(troubles) == 0 && w.writes == 0 && w.idle() {
			quiet++
		} else {
			quiet = 0
			w.tracef("pass %d: %d writes, %q", pass, w.writes, troubles)
		}
		w.now = w.now.Add(5 * time.Minute)
		for _, c := range w.clients {
			if quiet == 0 && len(troubles) == 0 && w.writes == 0 && c.next.After(w.now) {
				w.now = c.next
			}
		}
	}
	wrong := w.rest()
	if diff := cmp.Diff(theirs, w.theirs()); diff != "" {
		wrong = append(wrong, "what other people have (-before +after):\n"+diff)
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

// undisturbed makes a pass over all objects, and returns what was wrong.
func (w *world) undisturbed() (troubles []string) {
	note := func(who string, drift []provision.Drift, err error) {
		for _, d := range drift {
			troubles = append(troubles, who+": "+string(d))
		}
		if err != nil {
			troubles = append(troubles, who+": "+err.Error())
		}
	}
	for _, a := range w.apis {
		drift, err := w.reconcileAPI(a)
		switch {
		case a.refused && a.exists && !a.deleting && provision.KindOf(err) == provision.Conflict:
		case a.watching && err == nil:
		case a.refused && err == nil && a.exists:
			troubles = append(troubles, a.want.Owner.Name+": took what is not its own")
		default:
			note(a.want.Owner.Name, drift, err)
		}
	}
	for _, c := range w.clients {
		drift, err := w.reconcileClient(c)
		note(c.owner.Cluster+"/"+c.owner.Name, drift, err)
	}
	return troubles
}

// idle reports whether no credential has anything to wait for.
func (w *world) idle() bool {
	return !slices.ContainsFunc(w.clients, func(c *clientOwner) bool {
		return slices.ContainsFunc(c.known().Credentials, func(k provision.Credential) bool { return k.Stage == provision.Retiring })
	})
}
