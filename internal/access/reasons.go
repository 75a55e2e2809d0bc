// SPDX-License-Identifier: Apache-2.0

package access

import "github.com/m2m-operator/m2m-operator/api/v1alpha1"

// kind tells whether a reason takes away what a tenant already has.
type kind int

const (
	// decision: somebody with the right to do so decided it. It withdraws at once.
	decision kind = iota + 1
	// unknown: the answer is not known now, or something fails for the moment. It takes
	// nothing away and adds nothing.
	unknown
)

// reasons maps each reason that can keep a tenant from an access, a token or an identifier to
// its kind.
var reasons = map[string]kind{
	// Of servers.
	v1alpha1.ReasonAuthorizationServerNotAllowed:  decision, // by the platform
	v1alpha1.ReasonAuthorizationServerNotFound:    unknown,  // deleting one may be a slip
	v1alpha1.ReasonAuthorizationServerNotReady:    unknown,
	v1alpha1.ReasonAuthorizationServerUnavailable: unknown,

	// Of APIs.
	v1alpha1.ReasonIdentifierNotAllowed:   decision, // by the platform
	v1alpha1.ReasonIdentifierClaimed:      decision, // by who has it
	v1alpha1.ReasonIdentifierContested:    unknown,  // nobody has it
	v1alpha1.ReasonAPIResourceNotFound:    decision, // by its owner, who deleted it
	v1alpha1.ReasonAPIResourceNotAccepted: decision, // for one of the decisions above
	v1alpha1.ReasonAPIResourceNotWatched:  unknown,
	v1alpha1.ReasonNotAccepted:            unknown, // Accepted has the reason that counts

	// Of grants.
	v1alpha1.ReasonNotGranted:      decision, // by the API's owner
	v1alpha1.ReasonScopeNotGranted: decision,
	v1alpha1.ReasonIssuerMismatch:  decision, // by the API's owner, who chose another issuer
	v1alpha1.ReasonServerMismatch:  decision, // by the client's owner

	// Of what exists at a server.
	v1alpha1.ReasonExistsAtServer:            decision, // by the server's owner, who does not list it
	v1alpha1.ReasonProvisioningForbidden:     decision,
	v1alpha1.ReasonProvisioningNotConfigured: unknown,
	v1alpha1.ReasonProvisioning:              unknown,
	v1alpha1.ReasonProvisioningRefused:       unknown,
	v1alpha1.ReasonProvisioningFailed:        unknown,
	v1alpha1.ReasonAdoptedNotFound:           unknown,
	v1alpha1.ReasonDrifted:                   unknown,
	v1alpha1.ReasonScopeNotProvisioned:       unknown,

	// Of gateways that check tokens. What withdraws there is a decision about the API.
	v1alpha1.ReasonNotEnabled:       unknown,
	v1alpha1.ReasonKindNotInstalled: unknown,
	v1alpha1.ReasonObjectNotOwned:   unknown,
	v1alpha1.ReasonObjectRefused:    unknown,
	v1alpha1.ReasonNotEnforceable:   unknown,
	v1alpha1.ReasonEnforcing:        unknown,
	v1alpha1.ReasonTargetNotFound:   unknown,
	v1alpha1.ReasonGatewayRefused:   unknown,
	v1alpha1.ReasonOverridden:       unknown,
	v1alpha1.ReasonNoKeys:           unknown,
	v1alpha1.ReasonOpaqueToken:      unknown,

	// Of tokens and the Secret that they go to.
	v1alpha1.ReasonCredentialsNotFound:   unknown,
	v1alpha1.ReasonCredentialsInvalid:    unknown,
	v1alpha1.ReasonCredentialsNotAllowed: unknown, // no new token; what was issued stays
	v1alpha1.ReasonParameterNotAllowed:   unknown,
	v1alpha1.ReasonTokenRequestFailed:    unknown,
	v1alpha1.ReasonTokenRequestRefused:   unknown,
	v1alpha1.ReasonTokenNotVerified:      unknown,
	v1alpha1.ReasonWaitingForBudget:      unknown,
	v1alpha1.ReasonWaitingForKey:         unknown,
	v1alpha1.ReasonSecretNotOwned:        unknown,
	v1alpha1.ReasonSecretRefused:         unknown,
	v1alpha1.ReasonInvalidTemplate:       unknown,
}

// Decided reports whether a reason is a decision, which withdraws at once what was given. Any
// other reason is an unknown: it takes nothing away and adds nothing.
func Decided(reason string) bool { return reasons[reason] == decision }
