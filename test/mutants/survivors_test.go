// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

// survivor is a mutant that no write can tell from the original, or need not.
type survivor struct {
	Of  string `json:"of"`  // the policy, or the rule's message
	At  string `json:"at"`  // where in it
	Was string `json:"was"` // the part that is changed; empty: every mutant here
	Is  string `json:"is"`
	Why string `json:"why"`

	found int
}

type list struct{ all []*survivor }

func survivors(t *testing.T) *list {
	t.Helper()
	text, err := os.ReadFile("testdata/survivors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := &list{}
	if err := yaml.UnmarshalStrict(text, &l.all); err != nil {
		t.Fatal(err)
	}
	for _, s := range l.all {
		if s.Why == "" {
			t.Errorf("testdata/survivors.yaml gives no reason for %q in %s of %s", s.Was, s.At, s.Of)
		}
	}
	return l
}

// explains reports whether a mutant may survive.
func (l *list) explains(of, at, was, is string) bool {
	i := slices.IndexFunc(l.all, func(s *survivor) bool { return s.Of == of && s.At == at && s.Was == was && s.Is == is })
	if i >= 0 {
		l.all[i].found++
	}
	return i >= 0
}

// allSurvive fails for entries whose mutant is killed, or is no mutant.
func (l *list) allSurvive(t *testing.T, of string) {
	t.Helper()
	for _, s := range l.all {
		if s.Of == of && s.found == 0 {
			t.Errorf("testdata/survivors.yaml excuses %s: %s → %s, which does not survive", s.At, s.Was, s.Is)
		}
	}
}
