// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// ClientCredentials are a client's credentials. Exactly one kind is set.
//
// +kubebuilder:validation:ExactlyOneOf=clientSecret;privateKeyJWT;serviceAccount
type ClientCredentials struct {
	// clientSecret authenticates with a client secret (RFC 6749 section 2.3.1).
	//
	// +optional
	ClientSecret ClientSecretCredentials `json:"clientSecret,omitzero"`

	// privateKeyJWT authenticates with a signed assertion (RFC 7523 section
	// 2.2).
	//
	// +optional
	PrivateKeyJWT PrivateKeyJWTCredentials `json:"privateKeyJWT,omitzero"`

	// serviceAccount authenticates with a token of a Kubernetes ServiceAccount
	// as assertion (RFC 7523 section 2.2). No secret is stored. The
	// authorization server must trust the cluster's issuer.
	//
	// +optional
	ServiceAccount ServiceAccountCredentials `json:"serviceAccount,omitzero"`
}

// ClientSecretMethod says how a client secret is sent.
//
// +kubebuilder:validation:Enum=Basic;Post
type ClientSecretMethod string

// The ways to send a client secret.
const (
	// ClientSecretBasic sends it in the Authorization header
	// (client_secret_basic).
	ClientSecretBasic ClientSecretMethod = "Basic"
	// ClientSecretPost sends it in the request's body (client_secret_post).
	ClientSecretPost ClientSecretMethod = "Post"
)

// ClientSecretCredentials are a client identifier and a client secret.
//
// +kubebuilder:validation:AtMostOneOf=clientID;clientIDKey
type ClientSecretCredentials struct {
	// clientID is the client identifier. If unset, it is read from the Secret.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// clientIDKey is the key of the Secret with the client identifier, such as
	// CLIENT_ID. It cannot be set together with clientID. Defaults to client-id.
	//
	// +optional
	ClientIDKey FileName `json:"clientIDKey,omitempty"`

	// secretRef names the Secret with the client secret, in the client's
	// namespace. Its key defaults to client-secret. Secrets of other tools may
	// use another key, such as CLIENT_SECRET.
	//
	// +required
	SecretRef SecretKeyReference `json:"secretRef,omitzero"`

	// method is how the secret is sent: Basic (client_secret_basic) or Post
	// (client_secret_post). Defaults to Basic.
	//
	// +optional
	// +default="Basic"
	Method ClientSecretMethod `json:"method,omitempty"`
}

// AssertionAlgorithm is an algorithm that signs client assertions.
//
// +kubebuilder:validation:Enum=RS256;PS256;ES256;ES384;EdDSA
type AssertionAlgorithm string

// AssertionAudience says what the aud claim of a client assertion names.
//
// +kubebuilder:validation:Enum=Issuer;TokenEndpoint
type AssertionAudience string

// The audiences of a client assertion.
const (
	// AssertionAudienceIssuer names the issuer identifier, as the revision of
	// RFC 7523 requires.
	AssertionAudienceIssuer AssertionAudience = "Issuer"
	// AssertionAudienceTokenEndpoint names the token endpoint, the older form.
	AssertionAudienceTokenEndpoint AssertionAudience = "TokenEndpoint"
)

// PrivateKeyJWTCredentials are a client identifier and a private key.
//
// +kubebuilder:validation:AtMostOneOf=clientID;clientIDKey
type PrivateKeyJWTCredentials struct {
	// clientID is the client identifier. If unset, it is read from the Secret.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// clientIDKey is the key of the Secret with the client identifier, such as
	// CLIENT_ID. It cannot be set together with clientID. Defaults to client-id.
	//
	// +optional
	ClientIDKey FileName `json:"clientIDKey,omitempty"`

	// secretRef names the Secret with the private key, as PEM (PKCS #1, PKCS
	// #8, SEC 1) or as JSON Web Key, in the client's namespace. The key
	// defaults to private-key.
	//
	// +required
	SecretRef SecretKeyReference `json:"secretRef,omitzero"`

	// algorithm is the algorithm that signs assertions. If unset, it is the
	// JWK's alg, or else the usual one for the key: RS256, ES256, ES384 or
	// EdDSA.
	//
	// +optional
	Algorithm AssertionAlgorithm `json:"algorithm,omitempty"`

	// keyID is the kid header of the assertion. If unset, it is the JWK's kid,
	// or there is none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	KeyID string `json:"keyID,omitempty"`

	// audience is the assertion's aud claim: Issuer, or TokenEndpoint for
	// servers that accept only the older form. Defaults to Issuer.
	//
	// +optional
	// +default="Issuer"
	Audience AssertionAudience `json:"audience,omitempty"`
}

// ServiceAccountCredentials name a Kubernetes ServiceAccount of the client's
// namespace. The operator may request its tokens only if a Role there allows
// the verb create on serviceaccounts/token with the ServiceAccount's name.
type ServiceAccountCredentials struct {
	// name is the name of the ServiceAccount.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// clientID is sent as client_id. If unset, no client_id is sent, and the
	// server identifies the client by the assertion's subject.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// audience is the aud claim of the ServiceAccount's token. Defaults to the
	// issuer. It must not be an audience of the Kubernetes API server, because
	// the token would then give access to the cluster itself.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.matches('^(?i:(https?://)?kubernetes([.]default([.]svc([.].*)?)?)?(:[0-9]+)?/?|api)$')",message="must not be an audience of the Kubernetes API server: the token would give access to the cluster itself"
	Audience string `json:"audience,omitempty"`
}
