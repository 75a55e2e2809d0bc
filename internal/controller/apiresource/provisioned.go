// SPDX-License-Identifier: Apache-2.0

package apiresource

import (
	"strings"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// apiProvisioned returns the condition Provisioned of an APIResource. It is empty if the
// server is not provisioned.
func apiProvisioned(api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem) conditions.Condition {
	if srv == nil || rules.Driver(srv.Spec) == "" {
		return conditions.Condition{}
	}
	if refused != nil {
		return conditions.False(v1alpha1.ConditionProvisioned, v1alpha1.ReasonNotAccepted, "The APIResource is not accepted")
	}
	st := api.Status.Provisioning
	here := record.IsAt(st.Server, srv)
	switch {
	case here && st.Failure.Reason != "":
		return conditions.False(v1alpha1.ConditionProvisioned, st.Failure.Reason, st.Failure.Message)
	case !here || st.SyncedAt == nil || st.ObservedGeneration != api.Generation:
		return conditions.Of(v1alpha1.ConditionProvisioned, record.NotYetProvisioned(srv))
	case len(st.Drift) > 0:
		return conditions.False(v1alpha1.ConditionProvisioned, v1alpha1.ReasonDrifted, "The server differs from what is declared: "+strings.Join(st.Drift, "; "))
	case rules.Driver(srv.Spec) == v1alpha1.DriverDynamicRegistration:
		return conditions.True(v1alpha1.ConditionProvisioned, v1alpha1.ReasonNotApplicable,
			"The server keeps no record of APIs; clients are registered for the API's scopes")
	}
	return conditions.True(v1alpha1.ConditionProvisioned, v1alpha1.ReasonProvisioned, "The server has the API as it is declared")
}
