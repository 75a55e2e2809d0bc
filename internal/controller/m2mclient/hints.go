// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"fmt"
	"net/http"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
)

// RefusalHint says what to change after a refusal, where that can be told. What a
// client has at a server that the operator provisions is the operator's to put right.
func RefusalHint(p *Pass, a *Access, e *oauth.Error) string {
	const endpoint = "check the token endpoint in the server's status"
	provisioned := rules.Registered(p.Client)
	switch {
	case e.Status/100 == 3, e.Code == "" && e.Status == http.StatusMethodNotAllowed:
		return endpoint
	// Logto answers so with a code, wherever its API is not.
	case e.Status == http.StatusNotFound && (e.Code == "" || e.Code == "invalid_request"):
		return endpoint
	case provisioned:
		return ""
	case e.Code == "invalid_client":
		return credentialsHint(p.Client, "")
	// Glewlwyd answers every refusal so.
	case e.Code == "" && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return "the server gives no reason, its log may; " + credentialsHint(p.Client, ", and that the server knows the API and grants the scopes")
	case e.Code == "invalid_target":
		return fmt.Sprintf("register the API there as %q", a.Resource)
	case e.Code == "invalid_scope":
		return "register the scopes there, and grant them to the client"
	case e.Code == "unauthorized_client", e.Code == "unsupported_grant_type":
		return "allow the client the grant type client_credentials there"
	// Hydra answers so for an audience that the client does not list, Logto for a
	// secret that has expired.
	case e.Code == "invalid_request" && a.Inputs.Audience != "":
		return fmt.Sprintf("allow the client the audience %q there, and see the server's spec.audienceParameter", a.Inputs.Audience)
	case e.Code == "invalid_request":
		return "see whether the credentials have expired there, whether the server wants more parameters (spec.access[].parameters), and its spec.audienceParameter"
	}
	return ""
}

// credentialsHint says where to look when a server does not know the client. What
// else there is to check comes before what to try.
func credentialsHint(c *v1alpha1.M2MClient, also string) string {
	spec := c.Spec.Credentials
	secret := watch.CredentialSecret(c).Name
	if secret == "" {
		return fmt.Sprintf("register ServiceAccount %q of this cluster there", spec.ServiceAccount.Name) + also
	}
	other := "spec.credentials.clientSecret.method Post, for instance if it does not decode special characters in Basic"
	switch {
	case spec.ClientSecret.Method == v1alpha1.ClientSecretPost:
		other = "spec.credentials.clientSecret.method Basic"
	case spec.PrivateKeyJWT.Audience == v1alpha1.AssertionAudienceTokenEndpoint:
		other = "spec.credentials.privateKeyJWT.audience Issuer"
	case spec.PrivateKeyJWT.SecretRef.Name != "":
		other = "spec.credentials.privateKeyJWT.audience TokenEndpoint"
	}
	return fmt.Sprintf("check Secret %q%s; if that is right, the server may want %s", secret, also, other)
}
