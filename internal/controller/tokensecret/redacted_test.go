// SPDX-License-Identifier: Apache-2.0

package tokensecret

import "testing"

func TestRedactedLeavesNoPieces(t *testing.T) {
	got := redacted("denied: eyJa.b1c and ZXlK, x", []string{"1", "", "eyJa.b1c", "ZXlK"})
	if want := "denied: (removed) and (removed), x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
