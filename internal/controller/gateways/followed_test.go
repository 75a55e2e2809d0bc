// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
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
		"written, seen, gone":           {func(f *followed) { f.wrote(policy("2"), applied{}); f.set(policy("2")); f.get(name); f.drop(name, "3") }, 0},
		"written, gone":                 {func(f *followed) { f.wrote(policy("2"), applied{}); f.drop(name, "3") }, 0},
		"gone, and made anew meanwhile": {func(f *followed) { f.set(policy("1")); f.wrote(policy("4"), applied{}); f.drop(name, "3") }, 1},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFollowed(&Policies{}, Kind{})
			tc.happens(f)
			if len(f.applied) != tc.stays || len(f.written) != tc.stays || len(f.objects) != 0 {
				t.Errorf("%d, %d and %d stay, want %d, %d and none", len(f.applied), len(f.written), len(f.objects), tc.stays, tc.stays)
			}
		})
	}
}
