// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"cmp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// M2MClientSpec describes a calling service: the APIs it calls, its credentials
// and the Secret with its tokens.
//
// +kubebuilder:validation:XValidation:rule="!has(self.credentials) || has(self.authorizationServerRef)",message="authorizationServerRef is required with credentials: they are sent to that server",fieldPath=".authorizationServerRef"
// +kubebuilder:validation:XValidation:rule="has(self.credentials) || self.access.all(a, has(a.apiResourceRef))",message="resource requires credentials: the operator registers clients only for APIs whose owners consent in an APIResource",fieldPath=".access"
// +kubebuilder:validation:XValidation:rule="!has(self.credentials) || !has(self.credentialRotation)",message="credentialRotation is only for clients that the operator registers; remove it, and rotate credentials yourself",fieldPath=".credentialRotation"
// +kubebuilder:validation:XValidation:rule=`!has(self.secret) || !has(self.secret.template) || self.access.all(a, !((has(a.key) ? a.key : (has(a.apiResourceRef) ? a.apiResourceRef.name : "")) in self.secret.template))`,message="secret.template has a key that is already the key of an access",fieldPath=".secret.template"
type M2MClientSpec struct {
	// authorizationServerRef names the server that issues the tokens. The
	// operator sends the client's credentials to this server only. It is
	// required with credentials. Without them it may be left out: the server is
	// then that of the client's APIs.
	//
	// +optional
	AuthorizationServerRef AuthorizationServerReference `json:"authorizationServerRef,omitzero"`

	// access lists the APIs that the client calls. Each has its own token under
	// its own key in the Secret. At least 1, at most 16, with at most 256 scopes
	// together.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule=`self.all(a, self.exists_one(b, (has(a.key) ? a.key : (has(a.apiResourceRef) ? a.apiResourceRef.name : "")) == (has(b.key) ? b.key : (has(b.apiResourceRef) ? b.apiResourceRef.name : ""))))`,message="two accesses have the same key; give one of them another key"
	// +kubebuilder:validation:XValidation:rule="self.map(a, has(a.scopes) ? size(a.scopes) : 0).sum() <= 256",message="the accesses together must have at most 256 scopes"
	Access []Access `json:"access,omitempty"`

	// credentials are what the client authenticates with at the authorization
	// server. If unset, the operator registers the client at its APIs' server,
	// which must have spec.provisioning, and keeps the secret to itself.
	//
	// +optional
	Credentials ClientCredentials `json:"credentials,omitzero"`

	// secret describes the Secret with the tokens.
	//
	// +optional
	Secret TokenSecret `json:"secret,omitzero"`

	// refresh says when a token is replaced.
	//
	// +optional
	Refresh RefreshPolicy `json:"refresh,omitzero"`

	// credentialRotation says when the operator replaces the secret of a client
	// that it registered. If unset, it does so when the server lets the secret
	// expire, or on request by the annotation m2m-operator.io/rotate-credential.
	//
	// +optional
	CredentialRotation CredentialRotation `json:"credentialRotation,omitzero"`

	// deletionPolicy says what happens at the server to a client that the
	// operator registered when the M2MClient is deleted. Delete deletes it.
	// Retain leaves it there without a secret. Defaults to Delete.
	//
	// +optional
	// +default="Delete"
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// Access is one API that a client calls.
//
// +kubebuilder:validation:ExactlyOneOf=apiResourceRef;resource
// +kubebuilder:validation:XValidation:rule="has(self.key) || has(self.apiResourceRef)",message="key is required with resource"
// +kubebuilder:validation:XValidation:rule="has(self.resource) || !has(self.verification)",message="verification is only allowed with resource; for an APIResource, its own spec.verification applies",fieldPath=".verification"
type Access struct {
	// apiResourceRef names the APIResource that describes the API. It must
	// belong to the same issuer as the client's authorization server. If it is
	// in another namespace, it must grant the client the scopes.
	//
	// +optional
	APIResourceRef APIResourceReference `json:"apiResourceRef,omitzero"`

	// resource names an API that no APIResource describes, by its identifier at
	// the authorization server.
	//
	// +optional
	Resource ResourceIdentifier `json:"resource,omitempty"`

	// scopes are the scopes that the token must carry, at most 64. If unset, the
	// token is requested without scopes.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`

	// parameters are additional parameters of the token request, which some
	// servers require: organization_id at Logto, organization at Auth0, audience
	// beside resource. The server decides what they do. The token is verified
	// like any other. Do not put secrets here. At most 8. If unset, the operator
	// sends only the parameters that it sets itself.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Parameters []RequestParameter `json:"parameters,omitempty"`

	// key is the key of the token in the Secret, and so the name of its file.
	// Defaults to the name of the APIResource; required with resource. At most
	// 63 characters.
	//
	// +optional
	Key AccessKey `json:"key,omitempty"`

	// verification says what the tokens of a resource look like, for the check
	// before they are published. If unset, they have the resource in aud and the
	// scopes in scope or scp.
	//
	// +optional
	Verification ResourceVerification `json:"verification,omitzero"`
}

// ResourceVerification says what the tokens of an API look like that no
// APIResource describes.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.claim) == (has(self.carriedIn) && self.carriedIn == 'OtherClaim')",message="claim is required with carriedIn: OtherClaim, as in an APIResource, and not allowed otherwise"
type ResourceVerification struct {
	// carriedIn says where tokens carry the scopes: ScopeClaim, OtherClaim or
	// Nowhere, as in an APIResource. If unset, ScopeClaim, or Nowhere for a
	// scope that ends in /.default.
	//
	// +optional
	CarriedIn ScopeCarrier `json:"carriedIn,omitempty"`

	// claim is the claim that carries the scopes, with carriedIn: OtherClaim.
	//
	// +optional
	Claim ClaimName `json:"claim,omitempty"`

	// audience says how tokens name the API if the server puts no aud into them.
	// If unset, aud must be, or contain, the resource.
	//
	// +optional
	Audience TokenAudience `json:"audience,omitzero"`
}

// ParameterName is the name of a parameter of a token request. RFC 6749 also
// allows dots, but some servers read them as underscores.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="self.matches('^[-_a-zA-Z0-9]+$')",message="must be the name of a parameter: letters, digits, '-' and '_'"
// +kubebuilder:validation:XValidation:rule="!self.matches('^(?i:grant_type|scope|resource|client_(id|secret|assertion|assertion_type))$')",message="is a parameter that the operator sets itself"
type ParameterName string

// RequestParameter is a parameter of a token request.
type RequestParameter struct {
	// name is the name of the parameter: at most 64 letters, digits, '-' and
	// '_'. It cannot be a parameter that the operator sets itself: grant_type,
	// scope, resource, the client_ parameters of OAuth 2.0, and audience if the
	// server's spec.audienceParameter is Audience.
	//
	// +required
	Name ParameterName `json:"name,omitempty"`

	// value is the value of the parameter, of at most 1024 characters.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
}

// AccessKey is a FileName of at most 63 characters.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$') && !self.startsWith('..') && self != '.'",message="must be a plain file name: letters, digits, '-', '_' and '.', not '.' and not starting with '..'"
type AccessKey string

// TokenSecret describes the Secret with the tokens.
//
// +kubebuilder:validation:MinProperties=1
type TokenSecret struct {
	// name is the name of the Secret. A Secret of that name must not exist yet,
	// or must belong to this client. Defaults to the client's name followed by
	// "-token".
	//
	// +optional
	Name ObjectName `json:"name,omitempty"`

	// labels are added to the Secret. At most 32, of 8192 characters together.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('m2m-operator.io/') && k != 'app.kubernetes.io/managed-by')",message="labels of m2m-operator.io/ and app.kubernetes.io/managed-by are reserved for the operator"
	// +kubebuilder:validation:XValidation:rule="self.map(k, size(k) + size(self[k])).sum() <= 8192",message="labels must have at most 8192 characters together"
	Labels map[string]string `json:"labels,omitempty"`

	// annotations are added to the Secret. At most 32, of 8192 characters
	// together.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('m2m-operator.io/'))",message="annotations of m2m-operator.io/ are reserved for the operator"
	// +kubebuilder:validation:XValidation:rule="self.map(k, size(k) + size(self[k])).sum() <= 8192",message="annotations must have at most 8192 characters together"
	Annotations map[string]string `json:"annotations,omitempty"`

	// template adds keys to the Secret, each rendered from a Go template. The
	// function token returns the token of a key: 'Bearer {{ token "payment-api"
	// }}'. Other functions are base64, json and quote. A key is left out while
	// its token does not exist. At most 16 keys of 4096 characters.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[-._a-zA-Z0-9]{1,253}$') && !k.startsWith('..') && k != '.')",message="keys must be plain file names: letters, digits, '-', '_' and '.', not '.' and not starting with '..'"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(self[k]) <= 4096)",message="templates must have at most 4096 characters"
	Template map[string]string `json:"template,omitempty"`
}

// RefreshPolicy says when a token is replaced.
//
// +kubebuilder:validation:ExactlyOneOf=atPercent;before
type RefreshPolicy struct {
	// atPercent is the share of a token's lifetime after which it is replaced,
	// from 10 to 90. A jitter makes this earlier by up to 10 % of the lifetime.
	// At least 2 minutes remain, or half of the lifetime if that is less.
	// Defaults to 67.
	//
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=90
	AtPercent int32 `json:"atPercent,omitempty"`

	// before is how long before its expiry a token is replaced, from 5s to 24h,
	// instead of atPercent. At most half of the lifetime counts.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('5s') && duration(self) <= duration('24h')",message="must be a duration from 5s to 24h, such as 5m or 1h30m"
	Before Duration `json:"before,omitempty"`
}

// M2MClientStatus is the observed state of a client and its tokens. It never
// contains a token or a secret.
//
// +kubebuilder:validation:MinProperties=1
type M2MClientStatus struct {
	// conditions are Ready, Granted, Fresh, Verified and, for a client that the
	// operator registers, Provisioned.
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
	// m2m-operator.io/refresh-requested-at for which the operator has tried to
	// replace every token. The condition Fresh says whether it could.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	LastHandledRefreshAt string `json:"lastHandledRefreshAt,omitempty"`

	// clientID is the client identifier in use.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// secretName is the name of the Secret with the tokens.
	//
	// +optional
	SecretName ObjectName `json:"secretName,omitempty"`

	// expiresAt is when the first of the tokens expires.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// tokens are the tokens in the Secret, one for each access.
	//
	// +optional
	// +listType=map
	// +listMapKey=key
	// +kubebuilder:validation:MaxItems=16
	Tokens []TokenStatus `json:"tokens,omitempty"`

	// provisioning records the state of the client at a provisioned
	// server.
	//
	// +optional
	Provisioning M2MClientProvisioning `json:"provisioning,omitzero"`
}

// TokenStatus is the observed state of one token.
type TokenStatus struct {
	// key is the token's key in the Secret.
	//
	// +required
	Key AccessKey `json:"key,omitempty"`

	// scopes are the scopes that the token carries.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`

	// issuedAt is when the token was requested.
	//
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// expiresAt is when the token expires.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// refreshAt is when the token is replaced.
	//
	// +optional
	RefreshAt *metav1.Time `json:"refreshAt,omitempty"`

	// keyID is the ID of the key that signed the token.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	KeyID string `json:"keyID,omitempty"`

	// keyThumbprint is the SHA-256 thumbprint (RFC 7638) of the key that signed
	// the token, in base64url, because servers may give several keys the same
	// ID.
	//
	// +optional
	// +kubebuilder:validation:MinLength=43
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	KeyThumbprint string `json:"keyThumbprint,omitempty"`

	// algorithm is the algorithm (alg) that the token is signed with.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Algorithm string `json:"algorithm,omitempty"`

	// terms is a short name of the requirements that the API has for tokens. It
	// is written once the operator knows that the token meets them, or that a
	// new token would not meet them either. Only after that, or after 2½
	// minutes, do the API's pods get other requirements. Unset for a token that
	// cannot be verified, and for a plain resource.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Terms string `json:"terms,omitempty"`

	// pending is a newer token that waits until the API's pods have what they
	// verify it with. Unset if none waits.
	//
	// +optional
	Pending PendingToken `json:"pending,omitzero"`

	// failure describes the failed attempts to replace the token. Unset if the
	// last attempt succeeded.
	//
	// +optional
	Failure TokenFailure `json:"failure,omitzero"`
}

// PendingToken is a token that was issued but is held back.
type PendingToken struct {
	// keyID is the ID of the key that signed the token.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	KeyID string `json:"keyID,omitempty"`

	// since is when the token was issued.
	//
	// +required
	Since *metav1.Time `json:"since,omitempty"`

	// publishAt is when the token is published at the latest, so that its
	// predecessor does not expire meanwhile.
	//
	// +required
	PublishAt *metav1.Time `json:"publishAt,omitempty"`
}

// M2MClient is a service that calls APIs. The operator maintains a fresh access
// token for each API in a Secret that the service's pods mount. It belongs to
// the calling team.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=m2mc,categories=m2m
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must have at most 63 characters"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.status.secretName`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Fresh",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Fresh")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type M2MClient struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata. The name has at most 63
	// characters.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec describes the client.
	//
	// +required
	Spec M2MClientSpec `json:"spec,omitzero"`

	// status reports what the operator has observed. Until the operator has seen
	// the object, Ready is Unknown with reason Pending.
	//
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Pending", "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	// +optional
	Status M2MClientStatus `json:"status,omitzero"`
}

// SecretName returns the name of the Secret with the client's tokens.
func (c *M2MClient) SecretName() string {
	return cmp.Or(string(c.Spec.Secret.Name), c.Name+"-token")
}

// GetConditions returns the conditions of the status, shared with the object.
func (c *M2MClient) GetConditions() []metav1.Condition {
	return c.Status.Conditions
}

// SetConditions replaces the conditions of the status.
func (c *M2MClient) SetConditions(conditions []metav1.Condition) {
	c.Status.Conditions = conditions
}

// M2MClientList is a list of M2MClients.
//
// +kubebuilder:object:root=true
type M2MClientList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []M2MClient `json:"items"`
}
