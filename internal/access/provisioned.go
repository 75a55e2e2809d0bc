// SPDX-License-Identifier: Apache-2.0

package access

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// Driver returns how a server is provisioned, "" if it is not.
func Driver(spec *v1alpha1.AuthorizationServerSpec) v1alpha1.ProvisioningDriver {
	switch {
	case spec.Provisioning.Logto.Endpoint != "":
		return v1alpha1.DriverLogto
	case spec.Provisioning.DynamicRegistration != (v1alpha1.DynamicRegistrationProvisioning{}):
		return v1alpha1.DriverDynamicRegistration
	}
	return ""
}

// ProvisioningServer returns how a status names a server in its present configuration.
func ProvisioningServer(s *Server) v1alpha1.ProvisioningServer {
	return v1alpha1.ProvisioningServer{
		Kind: kindOf(s.Object), Namespace: v1alpha1.NamespaceName(s.Object.GetNamespace()), Name: v1alpha1.ObjectName(s.Object.GetName()),
		Issuer: s.Spec.Issuer, Driver: Driver(s.Spec),
	}
}

// Adopts reports whether a server's owner lets an APIResource adopt an API that already exists
// at the server.
func Adopts(spec *v1alpha1.AuthorizationServerSpec, api *v1alpha1.APIResource) bool {
	return slices.ContainsFunc(spec.Provisioning.Adoption.APIResources, func(a v1alpha1.AdoptedAPIResource) bool {
		return a.Identifier == api.Spec.Identifier && string(a.Namespace) == api.Namespace
	})
}

// refusedAt returns the problem that keeps an APIResource from having its API at a
// provisioned server, nil if there is none. An adopted API is lost as soon as its entry is
// removed from the list, whether or not the server can be asked.
func refusedAt(api *v1alpha1.APIResource, s *Server) *Problem {
	st := api.Status.Provisioning
	if st.Server != ProvisioningServer(s) {
		return nil
	}
	reason := ""
	switch {
	case Decided(st.Failure.Reason):
		reason = st.Failure.Reason
	case st.Origin == v1alpha1.OriginAdopted && !Adopts(s.Spec, api):
		reason = v1alpha1.ReasonExistsAtServer
	default:
		return nil
	}
	p := problemf(reason, "The operator may not manage the API of APIResource %q at %s; see its condition Provisioned",
		client.ObjectKeyFromObject(api), title(s.Object))
	if reason == v1alpha1.ReasonExistsAtServer {
		return p.at(s.Object, "spec.provisioning.adoption.apiResources")
	}
	return p.at(api, "spec.identifier")
}
