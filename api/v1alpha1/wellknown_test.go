// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// names returns a value of VerifyAnnotation with n different names.
func names(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("a%d", i)
	}
	return strings.Join(all, ",")
}

// TestVerifyBoundsLeaveRoom names as many APIResources as may be named.
func TestVerifyBoundsLeaveRoom(t *testing.T) {
	if refs, invalid := ParseVerify(names(VerifyMaxNames), "shop"); len(refs) != VerifyMaxNames || len(invalid) > 0 {
		t.Errorf("%d names are read, %q are invalid", len(refs), invalid)
	}
	if long := strings.Repeat("a", VerifyMaxBytes); BoundVerify(long) != long {
		t.Error("a value of the greatest length is not kept")
	}
}

func TestParseVerify(t *testing.T) {
	own := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: name} }
	for name, tc := range map[string]struct {
		value       string
		wantRefs    []types.NamespacedName
		wantInvalid []string
	}{
		"nothing":                             {},
		"a name is of the object's namespace": {value: "payment-api", wantRefs: []types.NamespacedName{own("payment-api")}},
		"several names, with spaces and empty entries": {
			value:    " b , payments/a,, ",
			wantRefs: []types.NamespacedName{own("b"), {Namespace: "payments", Name: "a"}},
		},
		"an API that is named twice counts once": {value: "a,shop/a", wantRefs: []types.NamespacedName{own("a")}},
		"invalid names are returned separately": {
			value:       "a,B,x/y/z,/c,payments/," + strings.Repeat("n", 64),
			wantRefs:    []types.NamespacedName{own("a")},
			wantInvalid: []string{"B", "x/y/z", "/c", "payments/", strings.Repeat("n", 64)},
		},
		"too many names: none counts":                    {value: names(VerifyMaxNames + 1), wantInvalid: []string{"(more than 64 names)"}},
		"invalid names count towards the bound":          {value: strings.Repeat("B,", VerifyMaxNames) + "a", wantInvalid: []string{"(more than 64 names)"}},
		"a name that is repeated often counts once":      {value: strings.Repeat("a,", 200), wantRefs: []types.NamespacedName{own("a")}},
		"a value that is too long: no name counts":       {value: "a," + strings.Repeat(" ", VerifyMaxBytes), wantInvalid: []string{"(more than 4096 bytes)"}},
		"the placeholder of a long value reads the same": {value: BoundVerify(strings.Repeat("a,", VerifyMaxBytes)), wantInvalid: []string{"(more than 4096 bytes)"}},
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
