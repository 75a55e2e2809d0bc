// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
)

// TestNothingStaysOfWhatIsGone: tenants make and delete policies without end, and the names
// of those that are gone must not fill the memory.
func TestNothingStaysOfWhatIsGone(t *testing.T) {
	name := types.NamespacedName{Namespace: "payments", Name: "m2m.payment-api.public"}
	policy := func(version string) *Object { return &Object{Name: name, UID: "1", Version: version} }
	for what, tc := range map[string]struct {
		happens func(*followed)
		stays   int
	}{
		"written, seen, gone": {func(f *followed) { f.wrote(policy("2"), applied{}); f.set(policy("2")); f.get(name); f.drop(name, "3") }, 0},
		"deleted, gone": {func(f *followed) {
			f.wrote(policy("2"), applied{})
			f.set(policy("2"))
			f.deleted[name] = "1"
			f.drop(name, "3")
		}, 0},
		"written, gone":                 {func(f *followed) { f.wrote(policy("2"), applied{}); f.drop(name, "3") }, 0},
		"gone, and made anew meanwhile": {func(f *followed) { f.set(policy("1")); f.wrote(policy("4"), applied{}); f.drop(name, "3") }, 1},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFollowed(&Policies{}, Kind{})
			tc.happens(f)
			if len(f.applied) != tc.stays || len(f.whole) != tc.stays || len(f.objects)+len(f.deleted) != 0 {
				t.Errorf("%d, %d and %d stay, want %d, %d and none", len(f.applied), len(f.whole), len(f.objects)+len(f.deleted), tc.stays, tc.stays)
			}
		})
	}
}

// TestAWriteIsToldAfterItsReport: the API server reports a policy, with its defaults, before
// the write has returned. Whoever looked then saw a policy that is not as wanted.
func TestAWriteIsToldAfterItsReport(t *testing.T) {
	p := &Policies{}
	f := newFollowed(p, Kind{})
	p.kinds = map[enforcement.Gateway][]*followed{"": {f}}
	want := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"action": "ALLOW"}}}
	is := &Object{Name: types.NamespacedName{Namespace: "payments", Name: "m2m.payment-api.mesh"}, UID: "1", Version: "2", Whole: true, Spec: cached.DigestOf([]byte("with defaults"))}
	same := []bool{}
	p.handlers = append(p.handlers, func(types.NamespacedName) { same = append(same, p.Same(Kind{}, is, want, "")) })
	f.set(is)
	f.wrote(is, applied{digestOf(want), is.Spec})
	if !slices.Equal(same, []bool{false, true}) {
		t.Errorf("told at %v, want before and after the write is known", same)
	}
}
