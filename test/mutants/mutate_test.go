// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"slices"
	"testing"
)

func TestMutate(t *testing.T) {
	for expression, want := range map[string][]string{
		"a && (b || !c)": {
			"a || b || !c", "a", "!a && (b || !c)", "b || !c", "a && b && !c", "a && b", "a && (!b || !c)", "a && !c", "a && (b || c)",
		},
		"x.all(k, k == 'a' || k in y)": {
			`!(x.all(k, k == "a" || k in y))`, `x.exists(k, k == "a" || k in y)`, `x.all(k, k == "a" && k in y)`, `x.all(k, k == "a")`,
			`x.all(k, k != "a" || k in y)`, `x.all(k, k in y)`, `x.all(k, k == "a" || !(k in y))`,
		},
		"c ? a.?b.orValue([]) : ['x', 'y']": {
			`!(c ? a.?b.orValue([]) : ["x", "y"])`, `a.?b.orValue([])`, `["x", "y"]`, `!c ? a.?b.orValue([]) : ["x", "y"]`,
			`c ? a.?b.orValue([]) : ["y"]`, `c ? a.?b.orValue([]) : ["x"]`,
		},
		"size(a) <= 3": {"!(size(a) <= 3)", "size(a) < 3"},
		"l.filter(x, p)[?'k'].orValue(0) + 1 > 2": {
			`!(l.filter(x, p)[?"k"].orValue(0) + 1 > 2)`, `l.filter(x, p)[?"k"].orValue(0) + 1 >= 2`,
			`l.filter(x, p)[?"k"].orValue(0) > 2`, `1 > 2`, `l[?"k"].orValue(0) + 1 > 2`, `l.filter(x, !p)[?"k"].orValue(0) + 1 > 2`,
		},
	} {
		mutants, err := mutate(expression)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range mutants {
			got = append(got, m.expression)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", expression, got, want)
		}
	}
}
