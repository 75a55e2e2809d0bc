// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types. Every kind has Ready, which summarises the others.
const (
	// ConditionReady reports whether the object does its job now.
	//
	// An AuthorizationServer is ready while its token endpoint and, unless its
	// tokens are opaque, at least one signing key are known. An APIResource is
	// ready while it is accepted, its namespace has the bundle if it needs it,
	// and tokens are checked wherever spec.enforcement says. An M2MClient is
	// ready while every access has a working token. While that holds but is not
	// being renewed, the message says why and, of a token, until when it works.
	//
	// Possible reasons for this condition to be True are Ready. If it is False
	// or Unknown, its reason and message are those of the condition that fails,
	// or Pending as long as the operator has not seen the object.
	//
	// There is no condition Stalled, with which kstatus would take an object for
	// failed and Flux would give up at once: what is missing, even a grant, may
	// be applied a moment later.
	ConditionReady = "Ready"

	// ConditionDiscovered, on an AuthorizationServer, reports whether the
	// server's endpoints are known from its metadata or from the spec.
	//
	// Possible reasons for this condition to be True are Discovered,
	// EndpointsConfigured; to be False: Unreachable, BadStatus, Malformed,
	// IssuerMismatch, Refused, EndpointMissing, CABundleInvalid. If discovery
	// fails, endpoints that were found earlier stay in use.
	ConditionDiscovered = "Discovered"

	// ConditionKeysFresh, on an AuthorizationServer whose tokens are not opaque,
	// reports whether the last fetch of the signing keys succeeded.
	//
	// Possible reasons for this condition to be True are KeysFetched; to be
	// False: Unreachable, BadStatus, Malformed, NoKeys, Refused,
	// EndpointMissing, CABundleInvalid, KeysChangeTooOften. The last good keys
	// stay in use.
	ConditionKeysFresh = "KeysFresh"

	// ConditionAccepted, on an APIResource, reports whether it may describe the
	// API.
	//
	// Possible reasons for this condition to be True are Accepted; to be False:
	// AuthorizationServerNotFound, AuthorizationServerNotAllowed,
	// IdentifierClaimed, IdentifierContested, IdentifierNotAllowed.
	ConditionAccepted = "Accepted"

	// ConditionDistributed, on an APIResource, reports whether its own namespace
	// has the verification bundle if workloads there are annotated for it.
	// Bundles in other namespaces do not matter; status.bundle counts them.
	//
	// Possible reasons for this condition to be True are Distributed,
	// OpaqueToken; to be False: BundleRefused, ConfigMapNotOwned,
	// InvalidTemplate, NoKeys, NotAccepted, Distributing, OpaqueToken.
	// OpaqueToken means that there is no bundle; the condition is then False if
	// workloads of the namespace wait for one.
	ConditionDistributed = "Distributed"

	// ConditionEnforced, on an APIResource with spec.enforcement, reports whether
	// tokens are checked wherever the spec says. If it is False, the gateway
	// refuses every request, or checks what it was told before, or nothing. The
	// message says which entry is affected, and why.
	//
	// Possible reasons for this condition to be True are Enforced; to be False:
	// NotEnabled, KindNotInstalled, ObjectNotOwned, ObjectRefused, NotAccepted,
	// AuthorizationServerNotFound, AuthorizationServerNotAllowed, OpaqueToken,
	// NoKeys, NotEnforceable, Enforcing, TargetNotFound, GatewayRefused,
	// Overridden.
	ConditionEnforced = "Enforced"

	// ConditionGranted, on an M2MClient, reports whether every access is
	// allowed.
	//
	// Possible reasons for this condition to be True are Granted; to be False:
	// NotGranted, ScopeNotGranted, APIResourceNotFound, APIResourceNotAccepted,
	// APIResourceNotWatched, AuthorizationServerNotFound,
	// AuthorizationServerNotAllowed, IdentifierContested, IssuerMismatch,
	// ServerMismatch, ExistsAtServer, ProvisioningForbidden; to be Unknown:
	// APIResourceNotWatched, AuthorizationServerNotFound. If somebody decided
	// not to allow an access, its token is withdrawn. If something is not
	// watched or not found, tokens stay. A client that the operator registers
	// keeps a token with those of its scopes that are granted.
	ConditionGranted = "Granted"

	// ConditionFresh, on an M2MClient, reports whether tokens are replaced when
	// they should be. Ready=True with Fresh=False means that refreshing fails
	// but the token still works.
	//
	// Possible reasons for this condition to be True are TokensFresh; to be
	// False: AuthorizationServerNotFound, AuthorizationServerNotAllowed,
	// AuthorizationServerNotReady, AuthorizationServerUnavailable,
	// CredentialsNotFound, CredentialsInvalid, CredentialsNotAllowed,
	// ParameterNotAllowed, TokenRequestFailed, TokenRequestRefused,
	// TokenNotVerified, SecretNotOwned, SecretRefused, InvalidTemplate,
	// NotGranted, APIResourceNotWatched, or a reason of the condition
	// Provisioned; to be Unknown: WaitingForBudget, WaitingForKey, Provisioning.
	ConditionFresh = "Fresh"

	// ConditionVerified, on an M2MClient, reports whether the tokens pass the
	// verification that their APIs perform.
	//
	// Possible reasons for this condition to be True are TokensVerified; to be
	// Unknown: OpaqueToken, NoToken; to be False: UnknownKey, UnusableKey,
	// BadSignature, WrongIssuer, WrongAudience, Expired, NotYetValid,
	// MissingScopes, AlgorithmNotAllowed, WrongType, MalformedToken. A token
	// that does not pass is not published. A token in use is judged again when
	// its API's keys or terms change, and replaced if a new one passes.
	ConditionVerified = "Verified"

	// ConditionProvisioned reports whether the server has what the object
	// declares. It is on an APIResource of a server with spec.provisioning, and
	// on an M2MClient without spec.credentials.
	//
	// Possible reasons for this condition to be True are Provisioned,
	// NotApplicable; to be False: Drifted, ExistsAtServer, AdoptedNotFound,
	// ProvisioningRefused, ProvisioningFailed, ProvisioningNotConfigured,
	// ProvisioningForbidden, NotAccepted, ScopeNotProvisioned,
	// AuthorizationServerNotReady; to be Unknown: Provisioning,
	// APIResourceNotFound, APIResourceNotWatched, AuthorizationServerNotFound,
	// AuthorizationServerNotAllowed, ServerMismatch.
	ConditionProvisioned = "Provisioned"

	// ConditionProvisioningReady, on an AuthorizationServer with
	// spec.provisioning, reports whether its provisioning credential works and
	// suffices.
	//
	// Possible reasons for this condition to be True are ProvisioningReady; to
	// be False: CredentialsNotFound, CredentialsInvalid, CredentialsNotAllowed,
	// EndpointMissing, CABundleInvalid, ProvisioningRefused, ProvisioningFailed.
	ConditionProvisioningReady = "ProvisioningReady"
)

// Reasons of conditions and events.
const (
	// ReasonReady: the object does its job.
	ReasonReady = "Ready"
	// ReasonPending: the operator has not seen the object yet. The schema sets
	// this reason on every new object.
	ReasonPending = "Pending"

	// ReasonDiscovered: the server's metadata was read and names the issuer.
	ReasonDiscovered = "Discovered"
	// ReasonEndpointsConfigured: the spec names every endpoint that is needed.
	ReasonEndpointsConfigured = "EndpointsConfigured"
	// ReasonUnreachable: the server gave no answer.
	ReasonUnreachable = "Unreachable"
	// ReasonBadStatus: the server answered with an unexpected HTTP status.
	ReasonBadStatus = "BadStatus"
	// ReasonMalformed: the server's answer cannot be parsed.
	ReasonMalformed = "Malformed"
	// ReasonIssuerMismatch: the metadata names another issuer, or an
	// APIResource belongs to another issuer than the client's server.
	ReasonIssuerMismatch = "IssuerMismatch"
	// ReasonRefused: the operator's flags forbid a connection to the address.
	ReasonRefused = "Refused"
	// ReasonEndpointMissing: neither the metadata nor the spec names the
	// endpoint.
	ReasonEndpointMissing = "EndpointMissing"
	// ReasonCABundleInvalid: the CA bundle does not exist or contains no
	// certificate.
	ReasonCABundleInvalid = "CABundleInvalid"

	// ReasonKeysFetched: the signing keys are current.
	ReasonKeysFetched = "KeysFetched"
	// ReasonNoKeys: no usable signing key is known.
	ReasonNoKeys = "NoKeys"
	// ReasonKeysChangeTooOften: the server replaces its signing keys faster than
	// the operator accepts new ones.
	ReasonKeysChangeTooOften = "KeysChangeTooOften"

	// ReasonAccepted: the APIResource describes its API.
	ReasonAccepted = "Accepted"
	// ReasonNotAccepted: the APIResource is not accepted, see its Accepted
	// condition.
	ReasonNotAccepted = "NotAccepted"
	// ReasonAuthorizationServerNotFound: the named authorization server does not
	// exist.
	ReasonAuthorizationServerNotFound = "AuthorizationServerNotFound"
	// ReasonAuthorizationServerNotAllowed: the ClusterAuthorizationServer does
	// not allow the namespace.
	ReasonAuthorizationServerNotAllowed = "AuthorizationServerNotAllowed"
	// ReasonIdentifierClaimed: another APIResource at the same issuer has the
	// identifier.
	ReasonIdentifierClaimed = "IdentifierClaimed"
	// ReasonIdentifierContested: APIResources of several namespaces at one
	// issuer have the identifier, and none of them was accepted before. None is
	// accepted until only one is left or a ClusterAuthorizationServer decides.
	ReasonIdentifierContested = "IdentifierContested"
	// ReasonIdentifierNotAllowed: the ClusterAuthorizationServer of the issuer
	// does not let the namespace declare an API with this identifier, or any
	// API.
	ReasonIdentifierNotAllowed = "IdentifierNotAllowed"
	// ReasonInvalidTemplate: a template cannot be rendered, or a label or
	// annotation of spec.secret or spec.bundle is invalid.
	ReasonInvalidTemplate = "InvalidTemplate"

	// ReasonDistributed: the bundle is where it is needed.
	ReasonDistributed = "Distributed"
	// ReasonDistributing: the bundle is on its way to some namespaces.
	ReasonDistributing = "Distributing"
	// ReasonConfigMapNotOwned: a ConfigMap of the bundle's name exists and is
	// not the operator's.
	ReasonConfigMapNotOwned = "ConfigMapNotOwned"

	// ReasonBundleRefused: the API server refuses the bundle because of a quota,
	// an admission policy or its own validation. The condition of an APIResource
	// is about its own namespace; an event on the ConfigMap reports it in every
	// namespace.
	ReasonBundleRefused = "BundleRefused"

	// ReasonEnforced: gateways check tokens as the spec says.
	ReasonEnforced = "Enforced"
	// ReasonNotEnabled: the installation does not let the operator write
	// policies for this kind of gateway.
	ReasonNotEnabled = "NotEnabled"
	// ReasonKindNotInstalled: the API server does not know a kind of object that
	// the gateway reads its policies from.
	ReasonKindNotInstalled = "KindNotInstalled"
	// ReasonObjectNotOwned: an object of a name that the operator needs for
	// spec.enforcement exists and is not this APIResource's.
	ReasonObjectNotOwned = "ObjectNotOwned"
	// ReasonObjectRefused: the API server refuses an object of spec.enforcement
	// because of a quota, an admission policy, the operator's role or the kind's
	// own validation.
	ReasonObjectRefused = "ObjectRefused"
	// ReasonNotEnforceable: the gateway cannot check something that must be
	// checked, so it refuses every request.
	ReasonNotEnforceable = "NotEnforceable"
	// ReasonEnforcing: an object of spec.enforcement is being written, or the
	// gateway has not reported on it yet.
	ReasonEnforcing = "Enforcing"
	// ReasonTargetNotFound: no gateway reports on a policy. A target does not
	// exist, or no gateway of this kind serves it.
	ReasonTargetNotFound = "TargetNotFound"
	// ReasonGatewayRefused: the gateway does not apply a policy.
	ReasonGatewayRefused = "GatewayRefused"
	// ReasonOverridden: a more specific policy replaces the operator's for a
	// part of the target.
	ReasonOverridden = "Overridden"

	// ReasonGranted: every access is allowed.
	ReasonGranted = "Granted"
	// ReasonNotGranted: the APIResource grants this client nothing.
	ReasonNotGranted = "NotGranted"
	// ReasonScopeNotGranted: the APIResource does not grant a scope that the
	// client requests, or does not know it.
	ReasonScopeNotGranted = "ScopeNotGranted"
	// ReasonAPIResourceNotFound: the APIResource does not exist.
	ReasonAPIResourceNotFound = "APIResourceNotFound"
	// ReasonAPIResourceNotWatched: the APIResource is in a namespace that the
	// operator does not watch.
	ReasonAPIResourceNotWatched = "APIResourceNotWatched"
	// ReasonAPIResourceNotAccepted: the APIResource is not accepted.
	ReasonAPIResourceNotAccepted = "APIResourceNotAccepted"

	// ReasonTokensFresh: no token is overdue.
	ReasonTokensFresh = "TokensFresh"
	// ReasonAuthorizationServerNotReady: the server's token endpoint or its
	// keys are not known yet.
	ReasonAuthorizationServerNotReady = "AuthorizationServerNotReady"
	// ReasonAuthorizationServerUnavailable: many requests to the server failed
	// in a row; one client at a time tries again.
	ReasonAuthorizationServerUnavailable = "AuthorizationServerUnavailable"
	// ReasonWaitingForBudget: the server's request budget is used up for now.
	ReasonWaitingForBudget = "WaitingForBudget"
	// ReasonWaitingForKey: the token is signed with an unknown key, and the
	// operator is fetching the server's keys.
	ReasonWaitingForKey = "WaitingForKey"
	// ReasonCredentialsNotFound: the Secret with the credentials, or a key in
	// it, does not exist.
	ReasonCredentialsNotFound = "CredentialsNotFound"
	// ReasonCredentialsInvalid: the credentials cannot be used.
	ReasonCredentialsInvalid = "CredentialsInvalid"
	// ReasonCredentialsNotAllowed: the Secret with the credentials does not have
	// the label m2m-operator.io/credentials=true. The operator is set to send
	// only Secrets with this label.
	ReasonCredentialsNotAllowed = "CredentialsNotAllowed"
	// ReasonParameterNotAllowed: the operator itself sets a parameter of an
	// access at this server.
	ReasonParameterNotAllowed = "ParameterNotAllowed"
	// ReasonTokenRequestFailed: the server could not answer; the operator tries
	// again soon.
	ReasonTokenRequestFailed = "TokenRequestFailed"
	// ReasonTokenRequestRefused: the server refused the request; the operator
	// tries again slowly, because the server may catch up.
	ReasonTokenRequestRefused = "TokenRequestRefused"
	// ReasonTokenNotVerified: the server issued a token that the API would
	// refuse, see the Verified condition. As a reason of Ready: the API would
	// now refuse the token in use.
	ReasonTokenNotVerified = "TokenNotVerified"
	// ReasonTokenExpired: a token expired before it could be replaced.
	ReasonTokenExpired = "TokenExpired"
	// ReasonTokenMissing: no token has been issued yet.
	ReasonTokenMissing = "TokenMissing"
	// ReasonSecretRefused: the API server refuses the client's Secret because of
	// a quota, an admission policy or its own validation.
	ReasonSecretRefused = "SecretRefused"
	// ReasonSecretNotOwned: a Secret of the client's Secret name exists and is
	// not this client's.
	ReasonSecretNotOwned = "SecretNotOwned"

	// ReasonTokensVerified: the tokens pass the verification that their APIs
	// perform.
	ReasonTokensVerified = "TokensVerified"
	// ReasonOpaqueToken: the token is not a JWT, or the server's tokens are
	// declared opaque, so the token was not checked.
	ReasonOpaqueToken = "OpaqueToken"
	// ReasonNoToken: there is no token to verify.
	ReasonNoToken = "NoToken"

	// ReasonProvisioned: the server has what the object declares.
	ReasonProvisioned = "Provisioned"
	// ReasonProvisioningReady: the provisioning credential works.
	ReasonProvisioningReady = "ProvisioningReady"
	// ReasonNotApplicable: the server keeps no record of APIs.
	ReasonNotApplicable = "NotApplicable"
	// ReasonProvisioning: the operator is bringing the server in line with the
	// object.
	ReasonProvisioning = "Provisioning"
	// ReasonDrifted: the server differs from the declaration, and
	// spec.managementPolicy is Observe.
	ReasonDrifted = "Drifted"
	// ReasonExistsAtServer: the server already has it, and it is not the
	// operator's. The AuthorizationServer's owner can list it in
	// spec.provisioning.adoption.
	ReasonExistsAtServer = "ExistsAtServer"
	// ReasonAdoptedNotFound: the object to adopt or observe does not exist at
	// the server.
	ReasonAdoptedNotFound = "AdoptedNotFound"
	// ReasonProvisioningRefused: the server refused; the operator tries again
	// slowly.
	ReasonProvisioningRefused = "ProvisioningRefused"
	// ReasonProvisioningFailed: the server could not answer; the operator tries
	// again soon.
	ReasonProvisioningFailed = "ProvisioningFailed"
	// ReasonProvisioningNotConfigured: the client has no credentials, and its
	// server has no spec.provisioning.
	ReasonProvisioningNotConfigured = "ProvisioningNotConfigured"
	// ReasonProvisioningForbidden: the operator does not provision this, such
	// as a server's administration API.
	ReasonProvisioningForbidden = "ProvisioningForbidden"
	// ReasonServerMismatch: the APIs of a client without credentials belong to
	// different authorization servers, or to another server than the client
	// names.
	ReasonServerMismatch = "ServerMismatch"
	// ReasonScopeNotProvisioned: the server does not know a scope, or dropped
	// it.
	ReasonScopeNotProvisioned = "ScopeNotProvisioned"
)

// Reasons of events that are not reasons of conditions.
const (
	// ReasonTokenIssued: a fresh token is in the Secret.
	ReasonTokenIssued = "TokenIssued"
	// ReasonTokenWithdrawn: a token was removed from the Secret because its
	// access is no longer allowed.
	ReasonTokenWithdrawn = "TokenWithdrawn"
	// ReasonShortLivedToken: a token lives for less than 4 minutes, so that a
	// mounted file may be late.
	ReasonShortLivedToken = "ShortLivedToken"
	// ReasonDriftCorrected: the operator reverted a change at the server.
	ReasonDriftCorrected = "DriftCorrected"
	// ReasonCredentialRotated: a new client secret is in use.
	ReasonCredentialRotated = "CredentialRotated"
	// ReasonLeftBehind: the object was let go, but something of it remains at
	// the server.
	ReasonLeftBehind = "LeftBehind"
	// ReasonKeysChanged: the server's signing keys changed.
	ReasonKeysChanged = "KeysChanged"
	// ReasonFormerKeyLeft: the server had replaced a signing key under the same
	// ID, and the former key left the bundles because no token in use needs it.
	ReasonFormerKeyLeft = "FormerKeyLeft"
	// ReasonBundleWritten: a verification bundle was written.
	ReasonBundleWritten = "BundleWritten"

	// ReasonTokenNotReady, on a pod: the Secret that it mounts for its M2MClient
	// does not exist, or no longer belongs to the client.
	ReasonTokenNotReady = "TokenNotReady"
	// ReasonVerificationNotReady, on a pod: a verification bundle that it asks
	// for does not exist, or is not up to date.
	ReasonVerificationNotReady = "VerificationNotReady"
	// ReasonContainersNotFound, on a pod: m2m-operator.io/containers names
	// containers that it does not have.
	ReasonContainersNotFound = "ContainersNotFound"
	// ReasonMisplaced, on a pod or workload: an annotation of the operator is on
	// the workload instead of its pod template, or is a label. It has no effect
	// there.
	ReasonMisplaced = "Misplaced"
)
