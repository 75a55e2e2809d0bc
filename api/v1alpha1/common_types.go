// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Duration is a length of time as hours, minutes, seconds and milliseconds,
// such as "90s", "5m" or "1h30m". Each field has a rule for its form and range.
//
// +kubebuilder:validation:Type=string
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=32
type Duration string

// Or returns the duration, or def where it is unset or cannot be parsed (the
// schema admits nothing that cannot).
func (d Duration) Or(def time.Duration) time.Duration {
	if v, err := time.ParseDuration(string(d)); err == nil {
		return v
	}
	return def
}

// ScopeName is a scope token of RFC 6749 section 3.3: printable ASCII without
// space, double quote and backslash.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]+$')",message="must be one scope: printable ASCII without space, double quote and backslash (RFC 6749)"
type ScopeName string

// ClaimName is the name of a claim of a token, such as roles or
// https://example.com/roles. A dot in it has no special meaning.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="must be the name of a claim, such as roles: printable ASCII without spaces"
type ClaimName string

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

// FileName is a key of a Secret or ConfigMap, and the name of the file it
// becomes when mounted.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$') && !self.startsWith('..') && self != '.'",message="must be a plain file name: letters, digits, '-', '_' and '.', not '.' and not starting with '..'"
type FileName string

// ObjectName is the name of a Kubernetes object.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of an object: lowercase letters, digits, '-' and '.', with a letter or digit at both ends"
type ObjectName string

// NamespaceName is the name of a namespace.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a namespace: lowercase letters, digits and '-', with a letter or digit at both ends"
type NamespaceName string

// ClientID is a client identifier of RFC 6749 section 2.2: printable ASCII.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^[ -~]+$')",message="must be printable ASCII (RFC 6749)"
type ClientID string

// AuthorizationServerKind is a kind that describes an authorization server.
//
// +kubebuilder:validation:Enum=AuthorizationServer;ClusterAuthorizationServer
type AuthorizationServerKind string

// The kinds that an AuthorizationServerReference can name.
const (
	KindAuthorizationServer        AuthorizationServerKind = "AuthorizationServer"
	KindClusterAuthorizationServer AuthorizationServerKind = "ClusterAuthorizationServer"
)

// AuthorizationServerReference names an AuthorizationServer of the same
// namespace, or a ClusterAuthorizationServer.
type AuthorizationServerReference struct {
	// kind is the kind of the authorization server: AuthorizationServer, in
	// the same namespace, or ClusterAuthorizationServer, whose
	// allowedNamespaces must include this one. Defaults to AuthorizationServer.
	//
	// +optional
	// +default="AuthorizationServer"
	Kind AuthorizationServerKind `json:"kind,omitempty"`

	// name is the name of the authorization server.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`
}

// SecretKeyReference names a key of a Secret in the same namespace.
type SecretKeyReference struct {
	// name is the name of the Secret.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// key is the key of the Secret's data. The default is said where the
	// reference is used.
	//
	// +optional
	Key FileName `json:"key,omitempty"`
}

// NamespaceSelection chooses namespaces by name, by label, or both: a namespace
// is chosen if it is named or if the selector matches it.
//
// +kubebuilder:validation:MinProperties=1
type NamespaceSelection struct {
	// names are the chosen namespaces by name, at most 64.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Names []NamespaceName `json:"names,omitempty"`

	// selector chooses namespaces by their labels. An empty selector ({})
	// chooses every namespace. Unset, only names count.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}
