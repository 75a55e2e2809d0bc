// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// ResourceIdentifier names an API at its authorization server: the resource of
// RFC 8707, which is an absolute URI without fragment, or an opaque audience.
// It becomes the aud claim of the tokens.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$') && !self.contains('#')",message="must be an absolute URI without fragment, or an opaque audience, without spaces (RFC 8707)"
// +kubebuilder:validation:XValidation:rule="!self.matches('^(?i)https://[^/]+\\\\.logto\\\\.app/api/?$')",message="is the administration API of a Logto server: a token for it could change every API and application there"
type ResourceIdentifier string

// ScopeName is a scope token of RFC 6749 section 3.3: printable ASCII without
// space, double quote and backslash.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]+$')",message="must be one scope: printable ASCII without space, double quote and backslash (RFC 6749)"
type ScopeName string

// ScopeCarrier says where tokens carry a scope.
//
// +kubebuilder:validation:Enum=ScopeClaim;OtherClaim;Nowhere
type ScopeCarrier string

// The places where tokens carry scopes.
const (
	// CarriedInScopeClaim is the claim scope, or scp if the token has no scope.
	CarriedInScopeClaim ScopeCarrier = "ScopeClaim"
	// CarriedInOtherClaim is another claim, such as roles.
	CarriedInOtherClaim ScopeCarrier = "OtherClaim"
	// CarriedNowhere is for a scope that is requested but that no token carries.
	CarriedNowhere ScopeCarrier = "Nowhere"
)

// ClaimName is the name of a claim of a token, such as roles or
// https://example.com/roles. A dot in it has no special meaning.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="must be the name of a claim, such as roles: printable ASCII without spaces"
type ClaimName string

// ClaimValue is a value of a claim: printable ASCII.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="self.matches('^[ -~]+$')",message="must be the value of a claim: printable ASCII"
type ClaimValue string

// ScopePrefix is the beginning of scopes, up to and including a separator, so
// that no other API's scopes begin with it by chance.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]+[/:.#]$')",message="must be a prefix of scopes that ends with a separator ('/', ':', '.' or '#'), such as payments/"
type ScopePrefix string

// TokenAudience says how tokens name an API without aud: by the value of
// another claim, or by their scopes.
//
// +kubebuilder:validation:ExactlyOneOf=claim;scopePrefix
// +kubebuilder:validation:XValidation:rule="has(self.values) == has(self.claim)",message="values are required with claim, and not allowed without it"
// +kubebuilder:validation:XValidation:rule="!has(self.claim) || !(self.claim in ['iss','aud','exp','nbf','iat','jti','typ','token_use','scope','scp'])",message="claim must be one that distinguishes tokens for this API, unlike iss, exp, nbf, iat, jti, typ and token_use; for aud remove audience, for scope and scp use scopePrefix"
type TokenAudience struct {
	// claim is the claim that names the API, such as client_id.
	//
	// +optional
	Claim ClaimName `json:"claim,omitempty"`

	// values are the accepted values of claim. The claim must equal one of them,
	// or be a list that contains one. At most 64.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Values []ClaimValue `json:"values,omitempty"`

	// scopePrefix is the common prefix of the API's scopes, up to and including
	// a separator, such as payments/. A token must have a scope with this
	// prefix, in scope or scp.
	//
	// +optional
	ScopePrefix ScopePrefix `json:"scopePrefix,omitempty"`
}
