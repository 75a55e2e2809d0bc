// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// ResourceIdentifier names an API at its authorization server: the resource of
// RFC 8707, an absolute URI without fragment, or an opaque audience. It becomes
// the aud claim of the tokens.
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

// ScopeCarrier is where tokens carry a scope.
//
// +kubebuilder:validation:Enum=ScopeClaim;OtherClaim;Nowhere
type ScopeCarrier string

// The places where tokens carry scopes.
const (
	// CarriedInScopeClaim is the claim scope, or scp in a token without scope.
	CarriedInScopeClaim ScopeCarrier = "ScopeClaim"
	// CarriedInOtherClaim is a claim of another name, such as roles.
	CarriedInOtherClaim ScopeCarrier = "OtherClaim"
	// CarriedNowhere is for a scope that is asked for and that no token carries.
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

// ScopePrefix is the beginning of scopes up to a separator, so that the scopes
// of no other API begin with it by chance.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]+[/:.#]$')",message="must be the beginning of scopes up to a separator, such as payments/: it ends in '/', ':', '.' or '#'"
type ScopePrefix string

// TokenAudience is how tokens name an API other than by aud: by one of some
// values of a claim, or by their scopes.
//
// +kubebuilder:validation:ExactlyOneOf=claim;scopePrefix
// +kubebuilder:validation:XValidation:rule="has(self.values) == has(self.claim)",message="values are required with claim, and go with nothing else"
// +kubebuilder:validation:XValidation:rule="!has(self.claim) || !(self.claim in ['iss','aud','exp','nbf','iat','jti','typ','token_use','scope','scp'])",message="claim must tell tokens for this API from others: not iss, exp, nbf, iat, jti, typ or token_use; aud needs no rule, and scope and scp have scopePrefix"
type TokenAudience struct {
	// claim is the claim that names the API, such as client_id.
	//
	// +optional
	Claim ClaimName `json:"claim,omitempty"`

	// values are the values of claim that are accepted: it must be one of them,
	// or a list with one of them, exactly. At most 64.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Values []ClaimValue `json:"values,omitempty"`

	// scopePrefix is how the API's scopes begin, up to a separator, such as
	// payments/: a token must have a scope that begins so, in scope or scp.
	//
	// +optional
	ScopePrefix ScopePrefix `json:"scopePrefix,omitempty"`
}
