// SPDX-License-Identifier: Apache-2.0

package record

import (
	"cmp"
	"net/url"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// UsableEndpoints chooses each endpoint from the spec, else from what this process has
// discovered itself, else from the status if it is at the issuer's address. The last one
// lets work go on after a restart while the server's metadata cannot be read.
func UsableEndpoints(spec *v1alpha1.AuthorizationServerSpec, found, told v1alpha1.AuthorizationServerEndpoints) v1alpha1.AuthorizationServerEndpoints {
	told.Token, told.JWKS, told.Registration = nearby(spec.Issuer, told.Token), nearby(spec.Issuer, told.JWKS), nearby(spec.Issuer, told.Registration)
	return FirstEndpoints(spec.Endpoints, found, told)
}

// FirstEndpoints takes each endpoint from the first argument that has it.
func FirstEndpoints(from ...v1alpha1.AuthorizationServerEndpoints) (all v1alpha1.AuthorizationServerEndpoints) {
	for _, e := range from {
		all.Token, all.JWKS, all.Registration = cmp.Or(all.Token, e.Token), cmp.Or(all.JWKS, e.JWKS), cmp.Or(all.Registration, e.Registration)
	}
	return all
}

// nearby returns the endpoint if it has the issuer's scheme, host and port, else "".
func nearby(issuer string, endpoint v1alpha1.EndpointURL) v1alpha1.EndpointURL {
	a, errA := url.Parse(issuer)
	b, errB := url.Parse(string(endpoint))
	if errA != nil || errB != nil || a.Scheme != b.Scheme || a.Host != b.Host {
		return ""
	}
	return endpoint
}

// EndpointsOf returns the endpoints that a server's metadata names.
func EndpointsOf(m *jwks.Metadata) v1alpha1.AuthorizationServerEndpoints {
	return v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(m.TokenEndpoint), JWKS: v1alpha1.EndpointURL(m.JWKSURI), Registration: v1alpha1.EndpointURL(m.RegistrationEndpoint),
	}
}
