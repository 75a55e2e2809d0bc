// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"fmt"
	"net/http"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// refusalHint returns what to change after a refusal, if that can be told. At a server that
// the operator provisions, the operator itself fixes what a client has.
func refusalHint(p *pass, a *access, e *oauth.Error) string {
	const endpoint = "check the token endpoint in the server's status"
	provisioned := rules.Registered(p.Client)
	switch {
	case e.Detail == string(egress.CertificateAuthority):
		return distrusted(p.server)
	case e.Status/100 == 3, e.Code == "" && e.Status == http.StatusMethodNotAllowed:
		return endpoint
	// Logto answers so with a code, wherever its API is not.
	case e.Status == http.StatusNotFound && (e.Code == "" || e.Code == "invalid_request"):
		return endpoint
	case provisioned:
		return ""
	case e.Code == "invalid_client":
		return credentials.Hint(p.Client, "")
	// Glewlwyd answers every refusal so.
	case e.Code == "" && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return "the server gives no reason, but its log may; " + credentials.Hint(p.Client, ", and that the server knows the API and grants the scopes")
	case e.Code == "invalid_target" && a.inputs.Resource == "" && a.inputs.Audience == "":
		return "the request names no API (the server's spec.audienceParameter is None); set Resource or Audience there if the server wants to be told, or look up at the server which API it chooses for this client"
	case e.Code == "invalid_target":
		return fmt.Sprintf("register the API there as %q", a.resource)
	case e.Code == "invalid_scope" && len(a.inputs.Scopes) == 0:
		return fmt.Sprintf("the request names no scope; name in spec.access[].scopes those that the server requires for the API %q", a.resource)
	case e.Code == "invalid_scope":
		return fmt.Sprintf("register there the scopes %s of the API %q, and grant them to the client %q", text.List(a.inputs.Scopes, ", ", mostScopes), a.resource, a.inputs.ClientID)
	case e.Code == "unauthorized_client", e.Code == "unsupported_grant_type":
		return "allow the grant type client_credentials for the client there"
	// Hydra answers so for an audience that the client does not list, Logto for a
	// secret that has expired.
	case e.Code == "invalid_request" && a.inputs.Audience != "":
		return fmt.Sprintf("allow the audience %q for the client there, and check the server's spec.audienceParameter", a.inputs.Audience)
	case e.Code == "invalid_request":
		return "check whether the credentials have expired there and whether the server requires more parameters (spec.access[].parameters), and check the server's spec.audienceParameter"
	}
	return ""
}

// mostScopes is how many scopes a hint lists.
const mostScopes = 16

// distrusted says what to change at a server whose certificate's authority is not known.
func distrusted(srv *rules.Server) string {
	if srv.Spec.CABundle != (v1alpha1.CABundleSource{}) {
		return "the bundle of the server's spec.caBundle lacks that authority's certificate"
	}
	return "name a bundle with that authority's certificate in the server's spec.caBundle"
}
