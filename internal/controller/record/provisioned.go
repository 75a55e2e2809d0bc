// SPDX-License-Identifier: Apache-2.0

package record

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// NotYetProvisioned returns the problem that explains why there is nothing at a server yet.
func NotYetProvisioned(srv *rules.Server) *rules.Problem {
	if meta.IsStatusConditionFalse(srv.Status.Conditions, v1alpha1.ConditionProvisioningReady) {
		return &rules.Problem{Reason: v1alpha1.ReasonAuthorizationServerNotReady, Message: fmt.Sprintf(
			"Provisioning at %s %q is not ready; see its condition ProvisioningReady", srv.Key().Kind, srv.Key().Name)}
	}
	return BeingProvisioned(srv)
}

// BeingProvisioned returns the problem that provisioning at a server has not finished.
func BeingProvisioned(srv *rules.Server) *rules.Problem {
	return &rules.Problem{Reason: v1alpha1.ReasonProvisioning, Unknown: true, Message: fmt.Sprintf("%s %q is being provisioned", srv.Key().Kind, srv.Key().Name)}
}

// ProvisionedAPI returns the ID and scopes of an API at its server, as far as they belong to
// the APIResource. An M2MClient must not reach anything else there through it.
func ProvisionedAPI(api *v1alpha1.APIResource, srv *rules.Server) (id string, scopes []string, known bool) {
	st := api.Status.Provisioning
	if !IsAt(st.Server, srv) || st.SyncedAt == nil || st.ResourceID == "" && rules.Driver(srv.Spec) != v1alpha1.DriverDynamicRegistration {
		return "", nil, false
	}
	return st.ResourceID, StringsOf(st.Scopes), true
}

// GrantedAt returns what a client's server grants the client of an API.
func GrantedAt(c *v1alpha1.M2MClient, resource string) (v1alpha1.ProvisionedAccess, bool) {
	for _, a := range c.Status.Provisioning.Access {
		if string(a.Resource) == resource {
			return a, true
		}
	}
	return v1alpha1.ProvisionedAccess{}, false
}
