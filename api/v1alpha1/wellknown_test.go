// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestParseVerify(t *testing.T) {
	own := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: name} }
	for name, tc := range map[string]struct {
		value       string
		wantRefs    []types.NamespacedName
		wantInvalid []string
	}{
		"nothing":                             {},
		"a name is of the object's namespace": {value: "payment-api", wantRefs: []types.NamespacedName{own("payment-api")}},
		"several, with spaces and empty places": {
			value:    " b , payments/a,, ",
			wantRefs: []types.NamespacedName{own("b"), {Namespace: "payments", Name: "a"}},
		},
		"what is named twice counts once": {value: "a,shop/a", wantRefs: []types.NamespacedName{own("a")}},
		"what is no name is told apart": {
			value:       "a,B,x/y/z,/c,payments/," + strings.Repeat("n", 64),
			wantRefs:    []types.NamespacedName{own("a")},
			wantInvalid: []string{"B", "x/y/z", "/c", "payments/", strings.Repeat("n", 64)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			refs, invalid := ParseVerify(tc.value, "shop")
			if diff := cmp.Diff(tc.wantRefs, refs); diff != "" {
				t.Errorf("refs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantInvalid, invalid); diff != "" {
				t.Errorf("invalid (-want +got):\n%s", diff)
			}
		})
	}
}
