// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestValues: the API server takes each valid value of each field, and refuses each invalid one with an answer that
// names the field.
func TestValues(t *testing.T) {
	all, random := newPlaces(t, 1), rand.New(rand.NewPCG(stateSeed(t), 0))
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			within(t, all, s, func(w *world) {
				base := parse(t, s)
				if err := w.apply(base); err != nil {
					t.Fatal(err)
				}
				for _, f := range s.of(fields(t)) {
					valid, invalid := some(f.valid(), random), some(f.invalid(), random)
					for _, v := range valid {
						if err := w.wouldTake(f, v); err != nil {
							t.Errorf("%s %s: %s is refused: %v", f.kind, f.path, abridged(v), err)
						}
					}
					for _, v := range invalid {
						err := w.wouldTake(f, v)
						if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) || !f.named(err.Error()) {
							t.Errorf("%s %s: the answer to %s does not name the field: %v", f.kind, f.path, abridged(v), err)
						}
					}
				}
			})
		})
	}
}

// TestFields changes each field of each kind to each of its valid values, and back. A short run takes some fields with
// one value of each, and several fields before it compares.
func TestFields(t *testing.T) {
	newFigures(t)
	all, seed := newPlaces(t, 9), stateSeed(t) // each scene needs three at a time
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			o, random := newTour(t, all, s), rand.New(rand.NewPCG(seed, 1))
			groups := o.groups(fields(t), random)
			t.Logf("%d walks are planned", len(groups))
			for len(groups) > 0 {
				within(t, all, s, func(w *world) { groups = o.through(w, groups) })
			}
			t.Logf("%d walks, of which %d were compared with a fresh run", o.walks, o.compared)
		})
	}
}

// through walks through groups of changes in one world, until something is wrong. It returns the groups that remain.
func (o *tour) through(w *world, groups [][]act) [][]act {
	o.t.Helper()
	o.begin(w)
	for len(groups) > 0 {
		group, start := groups[0], time.Now()
		groups = groups[1:]
		wrongs, refused := o.walk(w, group)
		shared().add("states of "+o.scene.name, "fields", len(wrongs) > 0, time.Since(start))
		if len(refused) == 1 && len(group) == 1 {
			o.t.Errorf("the API server refuses %v", refused[0])
			continue
		}
		for _, a := range refused { // it contradicts another of the group
			groups = append(groups, []act{a})
		}
		if len(wrongs) > 0 {
			o.judge(group, wrongs)
			break
		}
	}
	return groups
}

// stateSeed returns the seed of M2M_FAULTS_SEED, or else for a short run always the same.
func stateSeed(t *testing.T) uint64 {
	t.Helper()
	if isShort() && os.Getenv("M2M_FAULTS_SEED") == "" {
		return 1
	}
	return seedOf(t)
}

// some returns all values, or for a short run one of them.
func some(values []string, random *rand.Rand) []string {
	if !isShort() || len(values) == 0 {
		return values
	}
	return []string{values[random.IntN(len(values))]}
}

// together is how many fields a short run changes before it compares.
const together = 4

// groups returns the changes of fields, in groups that are done together.
func (o *tour) groups(all []field, random *rand.Rand) (groups [][]act) {
	var acts []act
	for _, f := range o.scene.of(all) {
		for _, v := range some(f.valid(), random) {
			acts = append(acts, act{do: "set", on: o.scene.target(f), path: f.path, value: v})
		}
	}
	random.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
	size := 1
	if isShort() {
		size = together
	}
	// Where something fails, there is less to compare: that must not spoil the others.
	broken := func(a act) bool { return failing.MatchString(a.value) }
	sound := slices.DeleteFunc(slices.Clone(acts), broken)
	acts = slices.DeleteFunc(acts, func(a act) bool { return !broken(a) })
	if isShort() {
		sound, acts = sound[:min(size, len(sound))], acts[:min(size, len(acts))]
	}
	groups = slices.AppendSeq(slices.Collect(slices.Chunk(sound, size)), slices.Chunk(acts, size))
	return groups
}

// failing are values with which something fails.
var failing = regexp.MustCompile(`missing|127\.0\.0\.1:9|nknown|aaaa|\{\{"|Nonsense|Opaque|not a label|elsewhere|nothing|admin|private`)

func isShort() bool { return os.Getenv("SHORT") != "" }

// named reports whether an answer names a field: by its path, or by its name after the path of what it is in.
func (f field) named(answer string) bool {
	path := strings.ReplaceAll(f.path, "[]", "[0]")
	at := strings.LastIndex(path, ".")
	_, after, found := strings.Cut(answer, path[:at]+":")
	return strings.Contains(answer, path) || found && strings.Contains(after, path[at+1:])
}

// wouldTake returns what the API server says to a change.
func (w *world) wouldTake(f field, value string) error {
	w.t.Helper()
	on := w.scene.target(f)
	manifest := w.want.copy()[on]
	change(manifest, f.kind, f.path, value)
	want := &unstructured.Unstructured{Object: w.render(manifest).(map[string]any)}
	live := want.DeepCopy()
	if err := operator.Kube.Get(w.t.Context(), client.ObjectKeyFromObject(want), live); err != nil {
		w.t.Fatal(err)
	}
	live.Object["spec"] = want.Object["spec"]
	return operator.Kube.Update(w.t.Context(), live, client.DryRunAll)
}

// abridged returns the beginning of a text.
func abridged(s string) string {
	if len(s) > 120 {
		return fmt.Sprintf("%s… (%d bytes)", s[:120], len(s))
	}
	return s
}
