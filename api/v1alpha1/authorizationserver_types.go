// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AudienceParameter says how a token request names the API.
//
// +kubebuilder:validation:Enum=Resource;Audience;None
type AudienceParameter string

// The ways to name the API in a token request.
const (
	// AudienceParameterResource sends resource= (RFC 8707).
	AudienceParameterResource AudienceParameter = "Resource"
	// AudienceParameterAudience sends audience=, as Auth0 and Hydra expect.
	AudienceParameterAudience AudienceParameter = "Audience"
	// AudienceParameterNone sends neither: the scopes alone name the API.
	AudienceParameterNone AudienceParameter = "None"
)

// TokenFormat is the format of a server's access tokens.
//
// +kubebuilder:validation:Enum=JWT;Opaque
type TokenFormat string

// The formats of access tokens.
const (
	// TokenFormatJWT are JWTs that an API verifies with the server's keys.
	TokenFormatJWT TokenFormat = "JWT"
	// TokenFormatOpaque are tokens that only the server can judge.
	TokenFormatOpaque TokenFormat = "Opaque"
)

// AuthorizationServerSpec describes an OAuth 2.0 authorization server.
//
// +kubebuilder:validation:XValidation:rule="!has(self.tokenFormat) || self.tokenFormat != 'Opaque' || !has(self.jwks) && (!has(self.endpoints) || !has(self.endpoints.jwks))",message="opaque tokens need no keys: remove jwks and endpoints.jwks",fieldPath=".tokenFormat"
type AuthorizationServerSpec struct {
	// issuer is the server's issuer identifier, exactly as in its metadata and
	// in its tokens' iss claim (RFC 8414 section 2): an https URL without query
	// and fragment. It cannot be changed, because tokens, keys and claimed
	// identifiers belong to it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')",message="must be an https:// URL without user information, query, fragment and spaces (RFC 8414)"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable; create another AuthorizationServer for another issuer"
	Issuer string `json:"issuer,omitempty"`

	// endpoints overrides the discovered endpoints, or names those that are not
	// published. Discovery is not needed if token and jwks are set, or token
	// alone for opaque tokens.
	//
	// +optional
	Endpoints AuthorizationServerEndpoints `json:"endpoints,omitzero"`

	// caBundle names the PEM certificates that the server's TLS certificate must
	// chain to. If unset, the operator trusts the certificate authorities of its
	// image.
	//
	// +optional
	CABundle CABundleSource `json:"caBundle,omitzero"`

	// audienceParameter says how a token request names the API. Resource sends
	// resource= (RFC 8707). Audience sends audience= (Auth0, Hydra). None sends
	// neither and leaves it to the scopes (Entra, Keycloak). Defaults to
	// Resource.
	//
	// +optional
	// +default="Resource"
	AudienceParameter AudienceParameter `json:"audienceParameter,omitempty"`

	// tokenFormat is the format of the server's access tokens: JWT, or Opaque if
	// only the server can judge them. For Opaque, the operator fetches no JWKS and
	// publishes tokens without checking their contents. APIs get no verification
	// bundle: they ask the server (RFC 7662).
	// Defaults to JWT.
	//
	// +optional
	// +default="JWT"
	TokenFormat TokenFormat `json:"tokenFormat,omitempty"`

	// defaultTokenLifetime is the lifetime of tokens if the server gives none:
	// no expires_in in its answer and no exp in the token. From 10s to 24h.
	// Defaults to 5m.
	//
	// +optional
	// +default="5m"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="must be a duration from 10s to 24h, such as 5m or 1h30m"
	DefaultTokenLifetime Duration `json:"defaultTokenLifetime,omitempty"`

	// requests is the budget of token and provisioning requests to this server,
	// shared by all objects that use it. If unset, the operator's flag
	// --default-requests-per-second applies, which defaults to 100 per second.
	//
	// +optional
	Requests RequestBudget `json:"requests,omitzero"`

	// jwks says how the operator follows the server's signing keys.
	//
	// +optional
	JWKS JWKSPolicy `json:"jwks,omitzero"`

	// provisioning lets the operator create and maintain APIs, clients and their
	// secrets at the server. If unset, the operator only requests tokens, with
	// credentials that the M2MClients bring.
	//
	// +optional
	Provisioning Provisioning `json:"provisioning,omitzero"`
}

// AuthorizationServerEndpoints are the endpoints of an authorization server.
//
// +kubebuilder:validation:MinProperties=1
type AuthorizationServerEndpoints struct {
	// token is the token endpoint (RFC 6749 section 3.2).
	//
	// +optional
	Token EndpointURL `json:"token,omitempty"`

	// jwks is where the server publishes its signing keys (RFC 7517 section 5).
	//
	// +optional
	JWKS EndpointURL `json:"jwks,omitempty"`

	// registration is the client registration endpoint (RFC 7591 section 3).
	//
	// +optional
	Registration EndpointURL `json:"registration,omitempty"`
}

// CABundleSource names a key of a ConfigMap or of a Secret, in the same
// namespace or, for a ClusterAuthorizationServer, in the operator's namespace.
//
// +kubebuilder:validation:ExactlyOneOf=configMapRef;secretRef
type CABundleSource struct {
	// configMapRef names a ConfigMap and a key in it. The key defaults to
	// ca.crt.
	//
	// +optional
	ConfigMapRef ConfigMapKeyReference `json:"configMapRef,omitzero"`

	// secretRef names a Secret and a key in it. The key defaults to ca.crt.
	//
	// +optional
	SecretRef SecretKeyReference `json:"secretRef,omitzero"`
}

// RequestBudget limits the rate of requests.
type RequestBudget struct {
	// perSecond is the highest sustained number of requests per second, from 1
	// to 10000.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	PerSecond int32 `json:"perSecond,omitempty"`

	// burst is how many requests may be sent at once after a pause, from 1 to
	// 10000. Defaults to perSecond.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	Burst int32 `json:"burst,omitempty"`
}

// JWKSPolicy says how the operator follows signing keys.
//
// +kubebuilder:validation:MinProperties=1
type JWKSPolicy struct {
	// refreshInterval is how often the operator fetches the keys, from 10s to
	// 24h. It also fetches them at once when a fresh token has an unknown key
	// ID. Defaults to 1m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="must be a duration from 10s to 24h, such as 5m or 1h30m"
	RefreshInterval Duration `json:"refreshInterval,omitempty"`

	// retention is how long a key that the server no longer publishes stays in
	// the verification bundles, from 0s to 720h. It should be no shorter than
	// the longest token lifetime. Defaults to 24h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('720h')",message="must be a duration of at most 720h, such as 30m or 24h"
	Retention Duration `json:"retention,omitempty"`

	// revokedKeyIDs are keys that must no longer be trusted, whatever the server
	// publishes. They leave every verification bundle, and the tokens that they
	// signed are replaced at once. At most 64, each of at most 128 printable
	// ASCII characters. The operator does not accept keys with other IDs.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[ -~]+$`
	RevokedKeyIDs []string `json:"revokedKeyIDs,omitempty"`
}

// AuthorizationServerStatus is the observed state of an authorization server.
// Endpoints and keys are the last known good ones.
//
// +kubebuilder:validation:MinProperties=1
type AuthorizationServerStatus struct {
	// conditions are Ready, Discovered, KeysFresh unless tokens are opaque, and
	// ProvisioningReady if spec.provisioning is set.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that the conditions
	// describe.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// lastHandledRefreshAt is the last value of the annotation
	// m2m-operator.io/refresh-requested-at that the operator has acted on.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	LastHandledRefreshAt string `json:"lastHandledRefreshAt,omitempty"`

	// endpoints are the endpoints in use: those of the spec, or else the last
	// discovered ones.
	//
	// +optional
	Endpoints AuthorizationServerEndpoints `json:"endpoints,omitzero"`

	// keys are the signing keys in the verification bundles.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Keys []SigningKey `json:"keys,omitempty"`

	// keysLeftOut lists the first 32 published signing keys that cannot be used.
	// Tokens that they sign are refused. Keys beyond the limit are not listed;
	// the condition KeysFresh counts them.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	KeysLeftOut []KeyLeftOut `json:"keysLeftOut,omitempty"`

	// leftBehind lists what the operator could not delete at the server before
	// it let an object go, the newest 64.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	LeftBehind []LeftBehind `json:"leftBehind,omitempty"`
}

// SigningKey is a public key that an authorization server signs tokens with, or
// recently did.
type SigningKey struct {
	// keyID is the key's identifier (kid, RFC 7517 section 4.5), empty if the
	// server gives none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	KeyID string `json:"keyID,omitempty"`

	// algorithm is the key's algorithm (alg), empty if the server names none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Algorithm string `json:"algorithm,omitempty"`

	// publicKey is the key as a JSON Web Key with public members only.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8192
	PublicKey string `json:"publicKey,omitempty"`

	// firstSeenAt is when the operator first saw the key.
	//
	// +required
	FirstSeenAt *metav1.Time `json:"firstSeenAt,omitempty"`

	// retiredAt is when the operator first saw the server without the key. Unset
	// while the server publishes it.
	//
	// +optional
	RetiredAt *metav1.Time `json:"retiredAt,omitempty"`
}

// KeyLeftOut is a published key that cannot be used.
type KeyLeftOut struct {
	// keyID is the key's identifier (kid), with quotation marks and backslashes
	// escaped. Empty if it has none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	KeyID string `json:"keyID,omitempty"`

	// reason says why it cannot be used, such as "is an RSA key of less than
	// 2048 bits".
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Reason string `json:"reason,omitempty"`
}

// AuthorizationServer is an OAuth 2.0 authorization server that APIResources
// and M2MClients of the same namespace can use.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=as,categories=m2m
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.spec.issuer`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="KeysFresh",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="KeysFresh")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AuthorizationServer struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec describes the authorization server.
	//
	// +required
	Spec AuthorizationServerSpec `json:"spec,omitzero"`

	// status reports what the operator has observed. Until the operator has seen
	// the object, Ready is Unknown with reason Pending.
	//
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Pending", "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	// +optional
	Status AuthorizationServerStatus `json:"status,omitzero"`
}

// GetConditions returns the conditions of the status, shared with the object.
func (s *AuthorizationServer) GetConditions() []metav1.Condition {
	return s.Status.Conditions
}

// SetConditions replaces the conditions of the status.
func (s *AuthorizationServer) SetConditions(conditions []metav1.Condition) {
	s.Status.Conditions = conditions
}

// AuthorizationServerList is a list of AuthorizationServers.
//
// +kubebuilder:object:root=true
type AuthorizationServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []AuthorizationServer `json:"items"`
}
