// SPDX-License-Identifier: Apache-2.0

package record

import (
	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Parameters returns the extra parameters of an access for a token request.
func Parameters(a v1alpha1.Access) map[string]string {
	parameters := map[string]string{}
	for _, p := range a.Parameters {
		parameters[string(p.Name)] = p.Value
	}
	return parameters
}

// Audience returns the parameters that name an API in a token request.
func Audience(spec *v1alpha1.AuthorizationServerSpec, identifier string) (resource, audience string) {
	switch spec.AudienceParameter {
	case v1alpha1.AudienceParameterAudience:
		return "", identifier
	case v1alpha1.AudienceParameterNone:
		return "", ""
	default:
		return identifier, ""
	}
}

// Authentication returns how a registered client authenticates.
func Authentication(spec *v1alpha1.AuthorizationServerSpec, clientID string, secret provision.Sensitive) oauth.Authentication {
	if spec.Provisioning.DynamicRegistration.AuthenticationMethod == v1alpha1.ClientSecretPost {
		return oauth.ClientSecretPost(clientID, secret.Reveal())
	}
	return oauth.ClientSecretBasic(clientID, secret.Reveal())
}
