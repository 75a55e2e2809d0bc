// SPDX-License-Identifier: Apache-2.0

package tree

import "github.com/m2m-operator/m2m-operator/api/v1alpha1"

// wait begins the advice on what passes by itself.
const wait = "Wait a moment"

// advice says what to do about each reason for which a condition is not True. The messages of
// the conditions say what is wrong and where.
var advice = map[string]string{
	v1alpha1.ReasonPending: "Check that the operator runs and watches the namespace",

	// Of servers.
	v1alpha1.ReasonUnreachable:        "Check that the operator's pods reach the server: its address, network policies, and spec.caBundle if the certificate is from a private authority",
	v1alpha1.ReasonBadStatus:          "Open the address in the message yourself; if the server is well, correct spec.issuer or spec.endpoints",
	v1alpha1.ReasonMalformed:          "Open the address in the message yourself; correct spec.issuer or spec.endpoints",
	v1alpha1.ReasonRefused:            "Use an https:// address that is not loopback or link-local, or set the operator's flag that the message names",
	v1alpha1.ReasonEndpointMissing:    "Set the endpoint that the message names in spec",
	v1alpha1.ReasonCABundleInvalid:    "Put the certificate authority's PEM certificates under the key that spec.caBundle names",
	v1alpha1.ReasonNoKeys:             "Check that the server publishes an asymmetric signing key at its JWKS",
	v1alpha1.ReasonKeysChangeTooOften: "Let the server keep its signing keys for longer; the last good ones stay in use",

	// Of APIs.
	v1alpha1.ReasonAuthorizationServerNotFound:   "Create the server, or correct spec.authorizationServerRef",
	v1alpha1.ReasonAuthorizationServerNotAllowed: "Ask the platform team to add the namespace to spec.allowedNamespaces of the ClusterAuthorizationServer",
	v1alpha1.ReasonIdentifierClaimed:             "Use the APIResource that has the identifier, or choose another identifier",
	v1alpha1.ReasonIdentifierContested:           "Delete one of the APIResources, or let the platform team decide with spec.identifierClaims",
	v1alpha1.ReasonIdentifierNotAllowed:          "Ask the platform team for the identifier: spec.allowedNamespaces and spec.identifierClaims of the ClusterAuthorizationServer",
	v1alpha1.ReasonNotAccepted:                   "See the condition Accepted of the APIResource",
	v1alpha1.ReasonDistributing:                  wait + "; if this stays, see the events of the ConfigMap",
	v1alpha1.ReasonConfigMapNotOwned:             "Delete or rename the ConfigMap that the message names",
	v1alpha1.ReasonBundleRefused:                 "Change the quota or policy that the message names",
	v1alpha1.ReasonOpaqueToken:                   "Take the annotation m2m-operator.io/verify off the workloads, and let the API ask the server about tokens",

	// Of gateways that check tokens.
	v1alpha1.ReasonNotEnabled:       "Ask the platform team to allow the gateway: the operator's flag --enforcement and the permission for it",
	v1alpha1.ReasonKindNotInstalled: "Install the gateway's CustomResourceDefinitions, or remove the entry from spec.enforcement",
	v1alpha1.ReasonObjectNotOwned:   "Delete or rename the object that the message names, or choose another name for the entry",
	v1alpha1.ReasonObjectRefused:    "Change the quota, policy or permission that the message names",
	v1alpha1.ReasonNotEnforceable:   "Change what the message names, or let the API's workloads check tokens",
	v1alpha1.ReasonEnforcing:        wait + "; if this stays, see whether the gateway runs",
	v1alpha1.ReasonTargetNotFound:   "Create the target, or correct targetRefs",
	v1alpha1.ReasonGatewayRefused:   "Change what the message names; at Conflicted, remove the other policy of the target",
	v1alpha1.ReasonOverridden:       "Name the target of the other policy in targetRefs, or remove that policy",

	// Of grants.
	v1alpha1.ReasonNotGranted:             "Ask the API's team for a grant; kubectl m2m why shows the line that decides",
	v1alpha1.ReasonScopeNotGranted:        "Ask the API's team to add the scope to a grant, or request another; kubectl m2m why shows the line that decides",
	v1alpha1.ReasonAPIResourceNotFound:    "Create the APIResource, or correct spec.access",
	v1alpha1.ReasonAPIResourceNotAccepted: "Ask the API's team to look at the condition Accepted of the APIResource",
	v1alpha1.ReasonAPIResourceNotWatched:  "Add the API's namespace to the operator's flag --watch-namespaces",
	v1alpha1.ReasonIssuerMismatch:         "Use the same spec.issuer, to the letter, for the API's server and the client's",
	v1alpha1.ReasonServerMismatch:         "Leave spec.authorizationServerRef out, or use one M2MClient for each server",

	// Of tokens.
	v1alpha1.ReasonAuthorizationServerNotReady:    "See the conditions of the AuthorizationServer",
	v1alpha1.ReasonAuthorizationServerUnavailable: "Look at the server; the operator tries again with one client at a time",
	v1alpha1.ReasonWaitingForBudget:               wait + "; if this stays, raise spec.requests of the AuthorizationServer",
	v1alpha1.ReasonWaitingForKey:                  wait + "; if this stays, see the condition KeysFresh of the AuthorizationServer",
	v1alpha1.ReasonCredentialsNotFound:            "Create the Secret or the key that the message names",
	v1alpha1.ReasonCredentialsInvalid:             "Replace the credentials in the Secret that the message names",
	v1alpha1.ReasonCredentialsNotAllowed:          "Label the Secret m2m-operator.io/credentials=true",
	v1alpha1.ReasonParameterNotAllowed:            "Remove the parameter from spec.access",
	v1alpha1.ReasonTokenRequestFailed:             "Look at the server; the operator tries again soon",
	v1alpha1.ReasonTokenRequestRefused:            "Correct the credentials, or the application at the server; the operator tries again",
	v1alpha1.ReasonTokenNotVerified:               "See the condition Verified",
	v1alpha1.ReasonTokenExpired:                   "See the condition Fresh for why the token was not replaced",
	v1alpha1.ReasonTokenMissing:                   "See the conditions Granted and Fresh",
	v1alpha1.ReasonSecretRefused:                  "Change the quota or policy that the message names",
	v1alpha1.ReasonSecretNotOwned:                 "Delete the Secret that the message names, or choose another spec.secret.name",
	v1alpha1.ReasonInvalidTemplate:                "Correct the template, label or annotation that the message names",
	v1alpha1.ReasonNoToken:                        "See the conditions Granted and Fresh",

	// Of verification, as the condition Verified names what the API would refuse.
	"UnknownKey":          "Check that spec.endpoints.jwks, or the server's metadata, leads to the keys that the server signs with",
	"UnusableKey":         "Let the server sign with a key that verifiers accept, such as RSA of 2048 bits or ES256",
	"BadSignature":        "Check that spec.endpoints.jwks leads to the keys that the server signs with",
	"WrongIssuer":         "Make spec.issuer of the AuthorizationServer equal to the iss of the server's tokens",
	"WrongAudience":       "Make the API's identifier equal to the aud of the server's tokens, or set spec.audienceParameter or the API's spec.verification.audience",
	"Expired":             "Compare the clocks of the server and of the cluster",
	"NotYetValid":         "Compare the clocks of the server and of the cluster",
	"MissingScopes":       "Grant the scopes to the application at the server, or say with carriedIn where its tokens carry them",
	"AlgorithmNotAllowed": "Add the algorithm to the API's spec.verification.algorithms, or let the server sign with one that is listed",
	"WrongType":           "Correct the API's spec.verification.tokenType: it must be the typ of the server's tokens",
	"MalformedToken":      "Check that the server issues JWTs; if not, set spec.tokenFormat to Opaque",

	// Of what exists at a server.
	v1alpha1.ReasonProvisioning:              wait + "; if this stays, see the condition ProvisioningReady of the AuthorizationServer",
	v1alpha1.ReasonDrifted:                   "Change the server or the declaration, or set spec.managementPolicy to Full",
	v1alpha1.ReasonExistsAtServer:            "Ask the owner of the AuthorizationServer to list it in spec.provisioning.adoption",
	v1alpha1.ReasonAdoptedNotFound:           "Correct spec.provisioning.adoption, or create it at the server",
	v1alpha1.ReasonProvisioningRefused:       "Correct what the server refuses; the operator tries again",
	v1alpha1.ReasonProvisioningFailed:        "Look at the server; the operator tries again soon",
	v1alpha1.ReasonProvisioningNotConfigured: "Set spec.provisioning of the AuthorizationServer, or spec.credentials of the M2MClient",
	v1alpha1.ReasonProvisioningForbidden:     "Use another API: the operator never gives away a server's administration API",
	v1alpha1.ReasonScopeNotProvisioned:       "Create the scope at the server, or remove it from the objects",
}

// Advice says what to do about a reason for which a condition is not True. AdviceOn also
// considers the other conditions of the object.
func Advice(reason string) string { return advice[reason] }
