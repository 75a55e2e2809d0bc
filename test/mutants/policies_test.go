// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/admission"
)

const root = "../.."

// installed is the name of a policy in config/default.
const installed = "m2m-operator-"

func recorded(t *testing.T) []*write {
	t.Helper()
	dir := os.Getenv("M2M_RECORD_WRITES")
	if dir == "" {
		t.Fatal("M2M_RECORD_WRITES is not set: make mutants records the suites' writes and runs this")
	}
	writes, err := readWrites(dir)
	if err != nil {
		t.Fatal(err)
	}
	return writes
}

// judged is a write and what the policy says to it.
type judged struct {
	write      *write
	attributes *admission.VersionedAttributes
	reasons    []string
}

// TestPolicies mutates each policy. Somebody's write must show each mutant.
func TestPolicies(t *testing.T) {
	policies, err := readPolicies(root + "/config/admission")
	if err != nil || len(policies) < 10 {
		t.Fatalf("%d policies: %v", len(policies), err)
	}
	writes := recorded(t)
	known := survivors(t)
	for _, p := range policies {
		t.Run(p.Name, func(t *testing.T) {
			original, err := compile(p)
			if err != nil {
				t.Fatal(err)
			}
			cases := judgeAll(t, original, writes)
			all, err := mutantsOf(p)
			if err != nil {
				t.Fatal(err)
			}
			killed, stillborn := 0, 0
			for _, m := range all {
				j, err := compile(m.policy)
				switch {
				case err != nil:
					stillborn++
				case j.differs(cases):
					killed++
				case !known.explains(p.Name, m.at, m.was, m.is):
					t.Errorf("%s survives", m)
				}
			}
			t.Logf("%d writes kill %d of %d mutants; %d others do not compile", len(cases), killed, len(all)-stillborn, stillborn)
			known.allSurvive(t, p.Name)
		})
	}
}

// judgeAll returns the policy's verdicts, which must be those of the API server once it is
// seen to know the policy.
func judgeAll(t *testing.T, j *judge, writes []*write) (all []judged) {
	t.Helper()
	name := installed + j.policy.Name
	known := slices.IndexFunc(writes, func(w *write) bool {
		return w.byPolicy(name+"'") || slices.ContainsFunc(w.Warnings, func(text string) bool { return strings.Contains(text, "'"+name+"'") })
	})
	if known < 0 {
		t.Fatal("no write shows that the API server knows the policy")
	}
	for _, w := range writes[known:] {
		if w.suite != writes[known].suite || w.Refusal != "" && !w.byPolicy(installed) {
			continue // no policies were there, or it never came to them
		}
		a := w.attributes()
		reasons := j.verdict(a)
		switch {
		case w.byPolicy(name+"'") && len(reasons) == 0:
			t.Errorf("%s: the API server refused it, and this policy does not: %s", w, w.Refusal)
		case w.Refusal == "" && len(reasons) > 0 && !j.warns():
			t.Errorf("%s: the API server allowed it, and this policy does not: %q", w, reasons)
		case j.warns() && w.Refusal == "":
			var want []string
			for _, text := range w.Warnings {
				if _, advice, ok := strings.Cut(text, "'"+name+"' with binding '"+name+"': "); ok {
					want = append(want, strings.TrimSuffix(advice, `"`))
				}
			}
			if !slices.Equal(want, reasons) {
				t.Errorf("%s: the API server warned of %q, and this policy of %q", w, want, reasons)
			}
		}
		all = append(all, judged{w, a, reasons})
	}
	return all
}

// warns reports whether what the policy says is compared word for word.
func (j *judge) warns() bool { return j.policy.Name == "advice" }

// differs reports whether the suite that recorded the writes would fail with this policy.
func (j *judge) differs(cases []judged) bool {
	return slices.ContainsFunc(cases, func(c judged) bool {
		reasons := j.verdict(c.attributes)
		if j.warns() {
			return !slices.Equal(reasons, c.reasons)
		}
		return (len(reasons) > 0) != (len(c.reasons) > 0)
	})
}
