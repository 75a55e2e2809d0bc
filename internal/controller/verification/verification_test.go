// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestDefaultScopeIsCarriedNowhere: no claim carries Entra's "/.default", which stands for other
// scopes.
func TestDefaultScopeIsCarriedNowhere(t *testing.T) {
	for scope, want := range map[string][]string{"payments:write": {"scope", "scp"}, "api://payment/.default": nil} {
		if diff := cmp.Diff(want, Carriers(scope, "", "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", scope, diff)
		}
	}
	if diff := cmp.Diff([]string{"scope", "scp"}, Carriers("api://payment/.default", v1alpha1.CarriedInScopeClaim, "")); diff != "" {
		t.Errorf("a default scope that is declared as carried (-want +got):\n%s", diff)
	}
}
