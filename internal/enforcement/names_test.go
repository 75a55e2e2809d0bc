// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"slices"
	"testing"
)

// TestWhosePolicyHasAName: every policy of an APIResource leads back to it.
func TestWhosePolicyHasAName(t *testing.T) {
	for _, api := range []string{"payment-api", "payment.api"} {
		for _, name := range []string{ObjectName(api, "public"), SpareName(api, "public", 0), SpareName(api, "public", 1)} {
			if got := APIsOf(name); !slices.Contains(got, api) {
				t.Errorf("%s leads to %q", name, got)
			}
		}
	}
	for _, name := range []string{"", "m2m.", "m2m.a", "m2m..a", "m2m.a.", "a-copy", KeysName("api", "public")} {
		if got := APIsOf(name); len(got) > 0 {
			t.Errorf("%q leads to %q", name, got)
		}
	}
}
