// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
)

// history is what two ways to the same manifests may leave different, each with the reason. Everything else must be
// the same.
var history = []struct {
	reason string
	of     *regexp.Regexp
}{
	{"generations count the changes; that statuses are about the present one is checked for itself", regexp.MustCompile(`"(?:observedG|g)eneration": \d+,?`)},
	{"the status repeats the last request that was handled", regexp.MustCompile(`\n *"lastHandled(?:RefreshAt|Rotation)": .*`)},
	{"the registrations of a client are numbered", regexp.MustCompile(`m2m-operator-(ID)-\d+|(\(m2m-operator:ID\) )\d+`)},
	{"a token says which request to refresh it came with", regexp.MustCompile(`,\\"request\\":\\"\w*\\"`)},
	{"the last known endpoints stay when neither the spec nor the server names one any more", regexp.MustCompile(`\n   "registration": "[^"]*",?`)},
	{"a token says from which reading of a Secret its credential came", regexp.MustCompile(`\\"source\\":\\"[^\\]*\\",?`)},
	{"failures in a row are counted from the change on", regexp.MustCompile(`"attempts": \d+,?`)},
	{"a policy that was written once and never changed does not say since when its terms are these", regexp.MustCompile(`,?\\"termsSince\\":\\"TIME\\"`)},
}

// remnant is an object that one way may leave behind and the other not, with the reason.
type remnant struct {
	reason string
	is     func(u *unstructured.Unstructured) bool
}

var remnants = []remnant{
	{"a Secret whose tokens were withdrawn stays, because pods mount it", func(u *unstructured.Unstructured) bool {
		return u.GetKind() == "Secret" && u.GetLabels()[v1alpha1.ManagedByLabel] == v1alpha1.ManagedByValue && u.Object["data"] == nil
	}},
}

// ofBundles are annotations that the operator writes to bundles only. On a Secret they are somebody else's.
var ofBundles = []string{v1alpha1.APIResourceAnnotation, v1alpha1.KeyIDsAnnotation, v1alpha1.ContentsAnnotation, v1alpha1.MetadataAnnotation}

// end returns the state without its history.
func (w *world) end() string {
	w.t.Helper()
	var out []string
	for _, u := range w.objects() {
		if !slices.ContainsFunc(remnants, func(r remnant) bool { return r.is(u) }) {
			w.withoutPast(u)
			out = append(out, w.stateOf(u))
		}
	}
	slices.Sort(out)
	state := strings.Join(append(out, w.atServer()...), "\n")
	for _, h := range history {
		state = h.of.ReplaceAllString(state, "$1$2")
	}
	lines := strings.Split(strings.ReplaceAll(state, ",\n", "\n"), "\n") // what was last may not be any more
	// A replaced registration stays for as long as was said when it was replaced.
	lines = slices.CompactFunc(lines, func(a, b string) bool { return a == b && strings.HasPrefix(a, "registered: ") })
	return strings.Join(lines, "\n")
}

// withoutPast takes from an object what says how things were, with the reason.
func (w *world) withoutPast(u *unstructured.Unstructured) {
	w.t.Helper()
	switch u.GetKind() {
	case "Secret":
		for _, a := range ofBundles {
			unstructured.RemoveNestedField(u.Object, "metadata", "annotations", a)
		}
	case "AuthorizationServer", "ClusterAuthorizationServer":
		u.SetFinalizers(nil) // one at which something was provisioned keeps its finalizer until it is deleted
	case "APIResource":
		if !w.scene.registers { // an API that no server provisions any more keeps the record of what was provisioned
			unstructured.RemoveNestedField(u.Object, "status", "provisioning")
		}
	case "M2MClient":
		if isReady(u) { // the client may have taken up what stayed registered
			id, _, _ := unstructured.NestedString(u.Object, "status", "clientID")
			delete(w.retained, id)
		} else { // while its credentials cannot be read, a client has the identifier that it had
			unstructured.RemoveNestedField(u.Object, "status", "clientID")
		}
	}
}

// isReady reports whether an object's condition Ready is true.
func isReady(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == v1alpha1.ConditionReady && m["status"] == "True"
	})
}

// versions returns the versions of all objects, by kind and name.
func (w *world) versions() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	for _, u := range w.objects() {
		all[u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName()] = u.GetResourceVersion()
	}
	return all
}

// unknowns returns the reasons for which something is not known or fails, with the objects that say so. They take
// nothing away that works, so a run that had it before has more than a fresh one.
func (w *world) unknowns() (all []string) {
	w.t.Helper()
	for _, u := range w.objects() {
		if u.GetDeletionTimestamp() != nil {
			all = append(all, fmt.Sprintf("%s %s is being deleted", u.GetKind(), u.GetName()))
		}
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range conditions {
			c, _ := c.(map[string]any)
			reason, _ := c["reason"].(string)
			// Nothing is registered again, and no bundle goes, because of a decision about an access or an API.
			withdraws := u.GetKind() == "M2MClient" && !w.scene.registers && (access.Decided(reason) || reason == v1alpha1.ReasonNoToken)
			if c["status"] != "True" && !withdraws {
				all = append(all, fmt.Sprintf("%s %s %s", u.GetKind(), u.GetName(), reason))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// differences returns the lines that differ between two states, by objects.
func differences(want, got string) string {
	if want == got {
		return ""
	}
	var out []string
	wanted, gotten := byObject(want), byObject(got)
	for _, name := range slices.Compact(slices.Sorted(concat(maps.Keys(wanted), maps.Keys(gotten)))) {
		for line := range strings.SplitSeq(gocmp.Diff(wanted[name], gotten[name]), "\n") {
			if strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+") {
				out = append(out, name+": "+strings.ReplaceAll(line, "\u00a0", " "))
			}
		}
	}
	return strings.Join(out, "\n")
}

func concat[T any](all ...iter.Seq[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, s := range all {
			for v := range s {
				if !yield(v) {
					return
				}
			}
		}
	}
}

var (
	objectStart = regexp.MustCompile(`(?m)^(\w+ \{$|registered: )`)
	objectName  = regexp.MustCompile(`(?m)^  "name(?:space)?": "(.*)"`)
)

// byObject returns the lines of a state's objects.
func byObject(state string) map[string][]string {
	all := map[string][]string{}
	starts := objectStart.FindAllStringIndex(state, -1)
	for i, at := range starts {
		end := len(state)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		text := state[at[0]:end]
		name, _, _ := strings.Cut(text, " ")
		for _, m := range objectName.FindAllStringSubmatch(text, 2) {
			name += " " + m[1]
		}
		for all[name] != nil {
			name += "'"
		}
		all[name] = strings.Split(strings.TrimSpace(text), "\n")
	}
	return all
}

// wrongs returns what must never be so when the operator has nothing to do any more.
func (w *world) wrongs() (all []string) {
	w.t.Helper()
	all = append(all, w.log.breaches...)
	w.log.breaches = nil
	said := map[string]bool{}
	for _, u := range w.objects() {
		conditions, found, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		if !found || u.GetDeletionTimestamp() != nil { // what is being deleted is not described any more
			continue
		}
		name := u.GetNamespace() + "/" + u.GetName()
		for _, c := range conditions {
			c, _ := c.(map[string]any)
			if c["status"] != "True" {
				said[strings.TrimPrefix(name, "/")] = true
			}
			if c["observedGeneration"] != u.GetGeneration() {
				all = append(all, fmt.Sprintf("%s %s: the condition %v is about generation %v of %d: %v", u.GetKind(), name, c["type"], c["observedGeneration"], u.GetGeneration(), c["message"]))
			}
		}
	}
	for what, f := range w.failures {
		object := strings.TrimPrefix(f.name.String(), "/")
		if of, ok := strings.CutPrefix(what, "bundle of "); ok {
			object, _, _ = strings.Cut(of, " ")
		}
		if f.inARow > 1 && !said[object] {
			all = append(all, fmt.Sprintf("%s fails for ever, and no condition says so: %v", what, f.err))
		}
	}
	return all
}
