// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"strings"
	"testing"
)

// ruled is what stands at a rule's place in a write, and what the rule refuses of it.
type ruled struct {
	values [][2]any
	says   string
}

// TestRules mutates each CEL rule of the kinds. Somebody's write must show each mutant.
func TestRules(t *testing.T) {
	kinds, err := readKinds(root + "/config/crd/bases")
	if err != nil || len(kinds) != 4 {
		t.Fatalf("%d kinds: %v", len(kinds), err)
	}
	rules := rulesOf(kinds)
	if len(rules) < 40 {
		t.Fatalf("the schemas have %d rules only", len(rules))
	}
	var writes []*write
	for _, w := range recorded(t) {
		if w.Group == "m2m-operator.io" && w.Subresource == "" && w.object != nil && w.checked() {
			w.object.Object = defaulted(w, kinds)
			writes = append(writes, w)
		}
	}
	known := survivors(t)
	killed, total := 0, 0
	for _, r := range rules {
		mutants, err := mutate(r.expression)
		if err != nil {
			t.Fatal(err)
		}
		mutants = append(mutants, mutant{was: r.expression, is: "nothing", expression: "true"})
		dead, born := map[string]bool{}, map[string]bool{}
		for _, p := range r.places {
			cases := casesOf(t, r, p, writes)
			for _, m := range mutants {
				check, err := p.check(m.expression)
				if err != nil || dead[m.expression] {
					continue
				}
				born[m.expression] = true
				for _, c := range cases {
					if check(c.values) != c.says {
						dead[m.expression] = true
						break
					}
				}
			}
		}
		killed, total = killed+len(dead), total+len(born)
		for _, m := range mutants {
			if born[m.expression] && !dead[m.expression] && !known.explains(r.message, r.places[0].String(), short(m.was), short(m.is)) {
				t.Errorf("%q at %s: %s → %s survives", r.message, r.places[0], short(m.was), short(m.is))
			}
		}
		known.allSurvive(t, r.message)
	}
	t.Logf("%d writes kill %d of %d mutants of %d rules", len(writes), killed, total, len(rules))
}

func (p place) String() string { return p.resource + "." + strings.Join(p.path, ".") }

// casesOf returns what the writes have at a place. A verdict is the API server's, too.
func casesOf(t *testing.T, r *rule, p place, writes []*write) (all []ruled) {
	t.Helper()
	check, err := p.check(r.expression)
	if err != nil {
		t.Fatalf("%s at %s: %v", r.expression, p, err)
	}
	for _, w := range writes {
		if w.Resource != p.resource {
			continue
		}
		var old any
		if w.old != nil {
			old = w.old.Object
		}
		values := valuesAt(w.object.Object, old, p.path)
		says := check(values)
		violates := says != ""
		if said := strings.Contains(w.Refusal, r.message); said != violates && (violates || len(r.places) == 1) {
			if w.Refusal == "" {
				t.Errorf("%s: the API server allowed it, and the rule does not: %s", w, r.message)
			}
			continue // it is refused for what is checked before the rules
		}
		all = append(all, ruled{values, says})
	}
	return all
}
