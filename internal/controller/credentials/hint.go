// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"fmt"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// Hint says where to look when a server does not know the client. What
// else there is to check comes before what to try.
func Hint(c *v1alpha1.M2MClient, also string) string {
	spec := c.Spec.Credentials
	secret := watch.CredentialSecret(c).Name
	if secret == "" {
		return fmt.Sprintf("register ServiceAccount %q of this cluster there", spec.ServiceAccount.Name) + also
	}
	other := "spec.credentials.clientSecret.method Post, for instance because it does not decode special characters in Basic"
	switch {
	case spec.ClientSecret.Method == v1alpha1.ClientSecretPost:
		other = "spec.credentials.clientSecret.method Basic"
	case spec.PrivateKeyJWT.Audience == v1alpha1.AssertionAudienceTokenEndpoint:
		other = "spec.credentials.privateKeyJWT.audience Issuer"
	case spec.PrivateKeyJWT.SecretRef.Name != "":
		other = "spec.credentials.privateKeyJWT.audience TokenEndpoint"
	}
	return fmt.Sprintf("check Secret %q%s; if it is correct, the server may require %s", secret, also, other)
}
