// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SignatureAlgorithm is an asymmetric JWS algorithm (RFC 7518, RFC 8037).
//
// +kubebuilder:validation:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA
type SignatureAlgorithm string

// VerificationFormat is a form in which some verifiers need keys or rules.
//
// +kubebuilder:validation:Enum=PEM;PEMPerKey;JWKPerKey;OpenIDConfiguration;Envoy
type VerificationFormat string

const (
	// FormatPEM is keys.pem, with all public keys (SubjectPublicKeyInfo).
	FormatPEM VerificationFormat = "PEM"
	// FormatPEMPerKey is key-<thumbprint>.pem for each key.
	FormatPEMPerKey VerificationFormat = "PEMPerKey"
	// FormatJWKPerKey is key-<thumbprint>.jwk for each key.
	FormatJWKPerKey VerificationFormat = "JWKPerKey"
	// FormatOpenIDConfiguration is openid-configuration.json, an OpenID discovery
	// document whose jwks_uri is the file jwks.json.
	FormatOpenIDConfiguration VerificationFormat = "OpenIDConfiguration"
	// FormatEnvoy are envoy-ecds-jwt-authn.yaml and envoy-ecds-rbac.yaml, filters
	// that Envoy reads again when they change.
	FormatEnvoy VerificationFormat = "Envoy"
)

// APIResourceSpec describes an API and who may call it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.grants) || self.grants.all(g, !has(g.scopes) || g.scopes.all(s, has(self.scopes) && self.scopes.exists(x, x.name == s)))",message="a grant names a scope that is not in spec.scopes",fieldPath=".grants"
// +kubebuilder:validation:XValidation:rule="!has(self.enforcement) || self.enforcement.all(e, !has(e.rules) || e.rules.all(r, !has(r.scopes) || r.scopes.all(s, has(self.scopes) && self.scopes.exists(x, x.name == s))))",message="a rule requires a scope that is not in spec.scopes",fieldPath=".enforcement"
type APIResourceSpec struct {
	// authorizationServerRef names the server that issues the tokens for this
	// API.
	//
	// +required
	AuthorizationServerRef AuthorizationServerReference `json:"authorizationServerRef,omitzero"`

	// identifier is the API's identifier at the authorization server, and the
	// aud claim that its tokens must carry: an absolute URI without fragment
	// (RFC 8707), or an opaque audience. At one issuer it belongs to the first
	// APIResource that claims it. It cannot be changed.
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable; create another APIResource for another identifier"
	Identifier ResourceIdentifier `json:"identifier,omitempty"`

	// scopes are the scopes that the API knows, at most 64.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Scopes []Scope `json:"scopes,omitempty"`

	// grants say which M2MClients of other namespaces may request which scopes.
	// Clients of the API's own namespace may request any of its scopes. If
	// unset, no other namespace may call the API. To remove the last grant,
	// remove the field: an empty list is refused. At most 32, with at most 512
	// names and scopes together.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.map(g, (has(g.clients.namespaces.names) ? size(g.clients.namespaces.names) : 0) + (has(g.clients.names) ? size(g.clients.names) : 0) + (has(g.scopes) ? size(g.scopes) : 0)).sum() <= 512",message="the grants together must have at most 512 names and scopes"
	Grants []Grant `json:"grants,omitempty"`

	// verification says how the API's workloads check tokens.
	//
	// +optional
	Verification Verification `json:"verification,omitzero"`

	// enforcement says where tokens for the API are checked, if not, or not
	// only, by its own workloads. At a gateway that the installation allows, the
	// operator then writes and maintains the gateway's policy. A token that is
	// signed with a new key waits until the gateway has the key, while its
	// predecessor works. If unset, only the workloads check tokens. At most 8.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Enforcement []Enforcement `json:"enforcement,omitempty"`

	// bundle adds labels and annotations to the ConfigMap of the verification
	// bundle in the API's own namespace. If unset, the ConfigMap carries only
	// what the operator itself needs. In other namespaces it never carries
	// anything else.
	//
	// +optional
	Bundle BundleMetadata `json:"bundle,omitzero"`

	// accessTokenLifetime is the lifetime of access tokens for this API, in
	// whole seconds from 1m to 24h. It needs a provisioned server that supports
	// a lifetime for each API. If unset, the server decides.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s)){1,4}$') && duration(self) >= duration('1m') && duration(self) <= duration('24h')",message="must be a duration of whole seconds from 1m to 24h, such as 15m or 1h"
	AccessTokenLifetime Duration `json:"accessTokenLifetime,omitempty"`

	// managementPolicy says what the operator may do with the API at a
	// provisioned server. Full creates the API and keeps it as declared. Observe
	// changes nothing and reports differences. Defaults to Full.
	//
	// +optional
	// +default="Full"
	ManagementPolicy ManagementPolicy `json:"managementPolicy,omitempty"`

	// deletionPolicy says what happens to the API at a provisioned server when
	// the APIResource is deleted. Retain leaves it there, because it may have
	// other users. Delete deletes it if the operator created it. Defaults to
	// Retain.
	//
	// +optional
	// +default="Retain"
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// Scope is one permission of an API.
//
// +kubebuilder:validation:XValidation:rule="has(self.claim) == (has(self.carriedIn) && self.carriedIn == 'OtherClaim')",message="claim is required with carriedIn: OtherClaim, and not allowed otherwise"
type Scope struct {
	// name is the scope as clients request it (RFC 6749 section 3.3) and as
	// tokens carry it.
	//
	// +required
	Name ScopeName `json:"name,omitempty"`

	// description says what the scope permits.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Description string `json:"description,omitempty"`

	// carriedIn says where tokens carry the scope, and so where the operator and
	// the API's pods look for it. ScopeClaim: in the claim scope, or in scp if
	// the token has no scope. OtherClaim: in the claim that claim names.
	// Nowhere: tokens do not carry it, and nobody looks for it. If unset,
	// ScopeClaim. A scope that ends in /.default stands for others, so its
	// default is Nowhere.
	//
	// +optional
	CarriedIn ScopeCarrier `json:"carriedIn,omitempty"`

	// claim is the claim that carries the scope, with carriedIn: OtherClaim. It
	// is a string of names separated by spaces, or a list of names, such as
	// roles or permissions.
	//
	// +optional
	Claim ClaimName `json:"claim,omitempty"`
}

// Grant lets clients request scopes.
type Grant struct {
	// clients are the M2MClients that the grant is for.
	//
	// +required
	Clients GrantedClients `json:"clients,omitzero"`

	// scopes are the scopes that the clients may request, out of spec.scopes. If
	// unset, they may only request a token without scopes.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`
}

// GrantedClients chooses M2MClients.
type GrantedClients struct {
	// namespaces are the namespaces of the clients.
	//
	// +required
	Namespaces NamespaceSelection `json:"namespaces,omitzero"`

	// names are the names of the clients in these namespaces. If unset, every
	// client there.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Names []ObjectName `json:"names,omitempty"`
}

// Verification says how tokens are checked.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.formats) || !has(self.files) || self.files.all(f, !(f.name == 'keys.pem' && 'PEM' in self.formats || f.name == 'key-*.pem' && 'PEMPerKey' in self.formats || f.name == 'key-*.jwk' && 'JWKPerKey' in self.formats || f.name == 'openid-configuration.json' && 'OpenIDConfiguration' in self.formats || f.name in ['envoy-ecds-jwt-authn.yaml','envoy-ecds-rbac.yaml'] && 'Envoy' in self.formats))",message="a file has the name of one that spec.verification.formats adds; choose another name or remove the format",fieldPath=".files"
type Verification struct {
	// algorithms are the accepted signature algorithms (RFC 8725 section 3.1).
	// If unset, those of the issuer's keys.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	Algorithms []SignatureAlgorithm `json:"algorithms,omitempty"`

	// clockSkew is how far the clocks of issuer and API may differ when exp and
	// nbf are checked, from 0s to 5m. Defaults to 30s.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('5m')",message="must be a duration of at most 5m, such as 30s"
	ClockSkew Duration `json:"clockSkew,omitempty"`

	// tokenType is the typ header that tokens must carry, such as at+jwt (RFC
	// 9068). If unset, any typ is accepted: many servers use JWT.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9!#$&^_.+/-]+$')",message="must be a media type, such as at+jwt"
	TokenType string `json:"tokenType,omitempty"`

	// audience says how tokens name the API if the server puts no aud into them,
	// as Amazon Cognito does. The operator and the bundle's files then check
	// this instead of aud. A file that cannot check it, such as
	// envoy-jwt-authn.yaml, is left out. The tokens of clients that the operator
	// registers must still have the identifier in aud. If unset, aud must be, or
	// contain, the identifier.
	//
	// +optional
	Audience TokenAudience `json:"audience,omitzero"`

	// namespaces are the namespaces, besides the API's own, whose pods verify
	// tokens for the API, such as a gateway's. A token that is signed with a new
	// key waits for their pods, too, while its predecessor works. Any namespace
	// can have the bundle. A namespace that is not listed can delay a token by
	// 10 seconds at most. If unset, none.
	//
	// +optional
	Namespaces NamespaceSelection `json:"namespaces,omitzero"`

	// formats add files to the verification bundle that only some verifiers
	// need. PEM: keys.pem, all public keys. PEMPerKey and JWKPerKey:
	// key-<thumbprint>.pem and key-<thumbprint>.jwk, a file for each key, with
	// its thumbprint of RFC 7638. OpenIDConfiguration:
	// openid-configuration.json, an OpenID discovery document whose jwks_uri is
	// the file jwks.json where the operator mounts it. Envoy:
	// envoy-ecds-jwt-authn.yaml and envoy-ecds-rbac.yaml, filters that Envoy
	// reads again when they change. If unset, none of them.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Formats []VerificationFormat `json:"formats,omitempty"`

	// files are additional files of the verification bundle, at most 16.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Files []VerificationFile `json:"files,omitempty"`
}

// BundleMetadata is added to the ConfigMap of a verification bundle.
//
// +kubebuilder:validation:MinProperties=1
type BundleMetadata struct {
	// labels are added to the ConfigMap. At most 32, of 8192 characters
	// together. If unset, none.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('m2m-operator.io/') && k != 'app.kubernetes.io/managed-by')",message="labels of m2m-operator.io/ and app.kubernetes.io/managed-by are reserved for the operator"
	// +kubebuilder:validation:XValidation:rule="self.map(k, size(k) + size(self[k])).sum() <= 8192",message="labels must have at most 8192 characters together"
	Labels map[string]string `json:"labels,omitempty"`

	// annotations are added to the ConfigMap. At most 32, of 8192 characters
	// together. If unset, none.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('m2m-operator.io/'))",message="annotations of m2m-operator.io/ are reserved for the operator"
	// +kubebuilder:validation:XValidation:rule="self.map(k, size(k) + size(self[k])).sum() <= 8192",message="annotations must have at most 8192 characters together"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// VerificationFile is a file rendered from a template.
type VerificationFile struct {
	// name is the file's name, a key of the ConfigMap. It cannot be the name of
	// a file that the operator writes itself. A name with an asterisk, such as
	// key-*.pem, stands for one file for each of the issuer's keys. The
	// template's .Key is then the key, and its thumbprint (RFC 7638) replaces
	// the asterisk. If the template renders nothing for a key, there is no file
	// for it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]*[*]?[-._a-zA-Z0-9]*$') && !self.startsWith('..') && self != '.'",message="must be a plain file name: letters, digits, '-', '_' and '.', not '.' and not starting with '..'; one '*' stands for a key's thumbprint"
	// +kubebuilder:validation:XValidation:rule="!self.contains('*') || size(self) <= 211",message="must have at most 211 characters if it contains '*'"
	// +kubebuilder:validation:XValidation:rule="!(self in ['jwks.json','issuer','audience','verification.json','protected-resource.json','envoy-jwt-authn.yaml'])",message="is the name of a file that the operator writes itself; choose another"
	Name string `json:"name,omitempty"`

	// template is a Go template of the file. It can use .Issuer, .Audience,
	// .JWKS, .AudienceClaims, .AudienceValues, .AudiencePrefix, .JWKSURI,
	// .Algorithms, .Scopes, .ScopeClaims, .ClockSkewSeconds, .TokenType,
	// .Namespace, .Name and .Keys, and the functions join, json, quote, base64
	// and indent. .Keys are the issuer's keys, each with .ID, .Type (RSA, EC or
	// OKP), .Algorithm, .JWK, .PEM and .Thumbprint.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Template string `json:"template,omitempty"`
}

// APIResourceStatus is the observed state of an API.
//
// +kubebuilder:validation:MinProperties=1
type APIResourceStatus struct {
	// conditions are Ready, Accepted, Distributed, at a provisioned server
	// Provisioned, and with spec.enforcement Enforced.
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

	// identifierHold is set when the APIResource is accepted and removed when it
	// is refused. While it is set, no other APIResource can have the identifier
	// at that issuer.
	//
	// +optional
	IdentifierHold IdentifierHold `json:"identifierHold,omitzero"`

	// bundle describes the verification bundle of this API.
	//
	// +optional
	Bundle VerificationBundle `json:"bundle,omitzero"`

	// provisioning records the state of the API at a provisioned
	// server.
	//
	// +optional
	Provisioning APIResourceProvisioning `json:"provisioning,omitzero"`
}

// IdentifierHold says at which issuer, and since when, an APIResource owns its
// identifier.
type IdentifierHold struct {
	// issuer is the issuer at which this APIResource owns the identifier.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Issuer string `json:"issuer,omitempty"`

	// since is when the APIResource was accepted there. If two were accepted,
	// the first one has the identifier.
	//
	// +required
	Since *metav1.Time `json:"since,omitempty"`
}

// VerificationBundle says where an API's verification bundle is.
type VerificationBundle struct {
	// configMapName is the name of the ConfigMap in every namespace that needs
	// it.
	//
	// +required
	ConfigMapName ObjectName `json:"configMapName,omitempty"`

	// namespaces is the number of namespaces that have the bundle.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Namespaces *int32 `json:"namespaces,omitempty"`

	// undelivered is the number of other namespaces that ask for the bundle but
	// do not have its current version: it is on its way, or something there
	// blocks it. If unset, none.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	Undelivered int32 `json:"undelivered,omitempty"`
}

// APIResource is an API that clients call with tokens of an authorization
// server. It belongs to the API's team.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=apires,categories=m2m
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must have at most 63 characters"
// +kubebuilder:printcolumn:name="Identifier",type=string,JSONPath=`.spec.identifier`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Namespaces",type=integer,priority=1,JSONPath=`.status.bundle.namespaces`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type APIResource struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata. The name has at most 63
	// characters.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec describes the API.
	//
	// +required
	Spec APIResourceSpec `json:"spec,omitzero"`

	// status reports what the operator has observed. Until the operator has seen
	// the object, Ready is Unknown with reason Pending.
	//
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Pending", "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	// +optional
	Status APIResourceStatus `json:"status,omitzero"`
}

// GetConditions returns the conditions of the status, shared with the object.
func (a *APIResource) GetConditions() []metav1.Condition {
	return a.Status.Conditions
}

// SetConditions replaces the conditions of the status.
func (a *APIResource) SetConditions(conditions []metav1.Condition) {
	a.Status.Conditions = conditions
}

// APIResourceList is a list of APIResources.
//
// +kubebuilder:object:root=true
type APIResourceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []APIResource `json:"items"`
}
