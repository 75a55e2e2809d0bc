// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"slices"
	"testing"
)

// TestWhosePolicyHasAName: every policy of an APIResource leads back to it.
func TestWhosePolicyHasAName(t *testing.T) {
	for _, api := range []string{"payment-api", "payment.api"} {
		for name, want := range map[string][]string{
			ObjectName(api, "public"):   {api},
			SpareName(api, "public", 0): {api + ".public", api},
			SpareName(api, "public", 1): {api + ".public", api},
		} {
			if got := APIsOf(name); !slices.Equal(got, want) {
				t.Errorf("%s leads to %q, want %q", name, got, want)
			}
		}
	}
	for _, name := range []string{"", "m2m.", "m2m.a", "m2m..a", "m2m.a.", "a-copy", KeysName("api", "public")} {
		if got := APIsOf(name); len(got) > 0 {
			t.Errorf("%q leads to %q", name, got)
		}
	}
}
