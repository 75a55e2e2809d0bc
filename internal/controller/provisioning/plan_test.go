// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// TestADecisionOutlastsUnknowns makes a server fail after the decision that an API
// does not belong to the APIResource. The failure does not undo the decision.
func TestADecisionOutlastsUnknowns(t *testing.T) {
	var st v1alpha1.ProvisioningRecord
	srv := rules.ServerOf(&v1alpha1.AuthorizationServer{})
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	fail := func(kind provision.ErrorKind, message string) {
		st.Failure = failureAfter(planOf(&st, "uid", srv), st.Failure, now, &provision.Error{Kind: kind, Message: message})
	}
	fail(provision.Unavailable, "no answer")
	fail(provision.Conflict, "it exists")
	fail(provision.Unavailable, "no answer")
	if f := st.Failure; f.Reason != v1alpha1.ReasonExistsAtServer || f.Message != "It exists" || f.Attempts != 3 {
		t.Errorf("after an unknown: %+v", f)
	}
	fail(provision.Forbidden, "never")
	if f := st.Failure; f.Reason != v1alpha1.ReasonProvisioningForbidden {
		t.Errorf("after another decision: %+v", f)
	}
}
