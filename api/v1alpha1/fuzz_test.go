// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// FuzzParseVerify: anybody who may annotate a pod chooses the value. What is read of it are
// names that may exist, each once and not too many, and reads the same if it is written again.
func FuzzParseVerify(f *testing.F) {
	for _, value := range []string{"", "a", "a,b/c, d ,", "a/b/c", ",,", "A", strings.Repeat("a,", 200), strings.Repeat("a", VerifyMaxBytes+1)} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		refs, invalid := ParseVerify(value, "shop")
		if len(refs)+len(invalid) > VerifyMaxNames {
			t.Fatalf("%d names, %d of them invalid", len(refs)+len(invalid), len(invalid))
		}
		seen := map[types.NamespacedName]bool{}
		var all []string
		for _, r := range refs {
			if seen[r] || len(validation.IsDNS1123Label(r.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(r.Name)) > 0 {
				t.Errorf("read %q", r)
			}
			seen[r] = true
			all = append(all, r.String())
		}
		again, invalid := ParseVerify(strings.Join(all, ","), "elsewhere")
		if len(strings.Join(all, ",")) <= VerifyMaxBytes && (len(again) != len(refs) || len(invalid) > 0) {
			t.Errorf("%q became %q and %q", all, again, invalid)
		}
	})
}
