// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Provisioning says how the operator creates and keeps APIs and clients at an
// authorization server: by exactly one driver.
//
// +kubebuilder:validation:ExactlyOneOf=logto;dynamicRegistration
type Provisioning struct {
	// logto provisions through the Management API of Logto.
	//
	// +optional
	Logto LogtoProvisioning `json:"logto,omitzero"`

	// dynamicRegistration provisions clients by OAuth 2.0 Dynamic Client
	// Registration (RFC 7591, RFC 7592). The server keeps no record of APIs
	// then: what their scopes mean is its own configuration.
	//
	// +optional
	DynamicRegistration DynamicRegistrationProvisioning `json:"dynamicRegistration,omitzero"`

	// resyncInterval is how often what is at the server is compared with what
	// Git declares, and put right, from 10s to 24h. Defaults to 10m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="must be a duration from 10s to 24h, such as 5m or 1h30m"
	ResyncInterval Duration `json:"resyncInterval,omitempty"`

	// adoption lists what already exists at the server and may be taken over,
	// and by whom. What is not listed is refused.
	//
	// +optional
	Adoption Adoption `json:"adoption,omitzero"`
}

// LogtoProvisioning is the Management API of a Logto server or tenant.
type LogtoProvisioning struct {
	// endpoint is the server's base URL: https://auth.example.com, or
	// https://<tenant>.logto.app for Logto Cloud, whatever custom domain the
	// issuer has.
	//
	// +required
	Endpoint EndpointURL `json:"endpoint,omitempty"`

	// credentialsSecretRef names the Secret with the credential of a
	// machine-to-machine application that has the Management API role, under
	// client-id and client-secret. It may do everything at the server. The
	// Secret lies in the namespace of the AuthorizationServer, or in the
	// operator's for a ClusterAuthorizationServer.
	//
	// +required
	CredentialsSecretRef SecretReference `json:"credentialsSecretRef,omitzero"`

	// managementAPI is the identifier of the Management API. Defaults to
	// https://<tenant>.logto.app/api where the endpoint is of Logto Cloud, else
	// to https://default.logto.app/api.
	//
	// +optional
	ManagementAPI EndpointURL `json:"managementAPI,omitempty"`
}

// DynamicRegistrationProvisioning is a client registration endpoint.
//
// +kubebuilder:validation:MinProperties=1
type DynamicRegistrationProvisioning struct {
	// endpoint is the client registration endpoint (RFC 7591 section 3). Unset,
	// it is the registration_endpoint of the server's metadata.
	//
	// +optional
	Endpoint EndpointURL `json:"endpoint,omitempty"`

	// initialAccessTokenSecretRef names the Secret with the initial access
	// token (RFC 7591 section 3). The key defaults to initial-access-token.
	// Unset, registration is open. The Secret lies in the namespace of the
	// AuthorizationServer, or in the operator's for a
	// ClusterAuthorizationServer.
	//
	// +optional
	InitialAccessTokenSecretRef SecretKeyReference `json:"initialAccessTokenSecretRef,omitzero"`

	// authenticationMethod is how the registered clients prove themselves at
	// the token endpoint: Basic (client_secret_basic) or Post
	// (client_secret_post). Defaults to Basic.
	//
	// +optional
	// +default="Basic"
	AuthenticationMethod ClientSecretMethod `json:"authenticationMethod,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// name is the name of the Secret.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`
}

// Adoption lists what may be taken over at a server.
//
// +kubebuilder:validation:MinProperties=1
type Adoption struct {
	// apiResources are APIs that exist at the server, each with the namespace
	// whose APIResource may take it over. At most 256.
	//
	// +optional
	// +listType=map
	// +listMapKey=identifier
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	APIResources []AdoptedAPIResource `json:"apiResources,omitempty"`

	// clients are clients that exist at the server, each with the M2MClient
	// that takes it over instead of having one created. At most 128.
	//
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.clientID == b.clientID))",message="a client can be taken over by one M2MClient only"
	Clients []AdoptedClient `json:"clients,omitempty"`
}

// AdoptedAPIResource lets a namespace take over an API.
type AdoptedAPIResource struct {
	// identifier is the API's identifier at the server.
	//
	// +required
	Identifier ResourceIdentifier `json:"identifier,omitempty"`

	// namespace is the namespace whose APIResource of that identifier may take
	// it over.
	//
	// +required
	Namespace NamespaceName `json:"namespace,omitempty"`
}

// AdoptedClient lets an M2MClient take over a client.
type AdoptedClient struct {
	// clientID is the client's identifier at the server.
	//
	// +required
	ClientID ClientID `json:"clientID,omitempty"`

	// namespace is the namespace of the M2MClient.
	//
	// +required
	Namespace NamespaceName `json:"namespace,omitempty"`

	// name is the name of the M2MClient.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`
}

// ManagementPolicy is what the operator may do with an API at its server.
//
// +kubebuilder:validation:Enum=Full;Observe
type ManagementPolicy string

// The management policies.
const (
	// ManagementFull creates the API and keeps it as declared.
	ManagementFull ManagementPolicy = "Full"
	// ManagementObserve changes nothing and reports what differs.
	ManagementObserve ManagementPolicy = "Observe"
)

// DeletionPolicy is what becomes of something at the server when its object is
// deleted.
//
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

// The deletion policies.
const (
	// DeletionRetain leaves it there.
	DeletionRetain DeletionPolicy = "Retain"
	// DeletionDelete deletes it, unless it was adopted.
	DeletionDelete DeletionPolicy = "Delete"
)

// CredentialRotation says when a provisioned client's secret is replaced.
//
// +kubebuilder:validation:MinProperties=1
type CredentialRotation struct {
	// every is the age at which the secret is replaced, from 1m to 8760h.
	// Unset, it is replaced only where the server lets it expire, or on
	// request by the annotation m2m-operator.io/rotate-credential.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="must be a duration from 1m to 8760h, such as 720h"
	Every Duration `json:"every,omitempty"`

	// overlap is how long the old secret stays valid after the new one was
	// taken into use, from 0s to 720h. Defaults to 10m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('720h')",message="must be a duration of at most 720h, such as 10m or 24h"
	Overlap Duration `json:"overlap,omitempty"`
}

// ProvisioningOrigin is how something at the server came under the operator's
// care.
//
// +kubebuilder:validation:Enum=Created;Adopted;Observed
type ProvisioningOrigin string

// The origins.
const (
	OriginCreated  ProvisioningOrigin = "Created"
	OriginAdopted  ProvisioningOrigin = "Adopted"
	OriginObserved ProvisioningOrigin = "Observed"
)

// ProvisioningDriver is how an authorization server is provisioned.
//
// +kubebuilder:validation:Enum=Logto;DynamicRegistration
type ProvisioningDriver string

// The drivers.
const (
	// DriverLogto is spec.provisioning.logto.
	DriverLogto ProvisioningDriver = "Logto"
	// DriverDynamicRegistration is spec.provisioning.dynamicRegistration.
	DriverDynamicRegistration ProvisioningDriver = "DynamicRegistration"
)

// ProvisioningServer is the authorization server where something was
// provisioned.
type ProvisioningServer struct {
	// kind is the kind of the authorization server.
	//
	// +required
	Kind AuthorizationServerKind `json:"kind,omitempty"`

	// namespace is its namespace, unset for a ClusterAuthorizationServer.
	//
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// name is its name.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// issuer is its issuer identifier.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Issuer string `json:"issuer,omitempty"`

	// driver is what it was provisioned by: Logto or DynamicRegistration.
	//
	// +required
	Driver ProvisioningDriver `json:"driver,omitempty"`
}

// APIResourceProvisioning is what the operator knows of an API at its server.
type APIResourceProvisioning struct {
	// server is where the API was provisioned.
	//
	// +required
	Server ProvisioningServer `json:"server,omitzero"`

	// resourceID is the server's identifier of the API. Unset before it is
	// known, and where the server keeps none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ResourceID string `json:"resourceID,omitempty"`

	// origin is Created, Adopted or Observed. What was adopted is never
	// deleted.
	//
	// +optional
	Origin ProvisioningOrigin `json:"origin,omitempty"`

	// scopes are the scopes that the server has.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`

	// accessTokenLifetime is the lifetime that was set at the server.
	//
	// +optional
	AccessTokenLifetime Duration `json:"accessTokenLifetime,omitempty"`

	// syncedAt is when the server was last found or made as declared.
	//
	// +optional
	SyncedAt *metav1.Time `json:"syncedAt,omitempty"`

	// observedGeneration is the generation of the spec that the server was last
	// found or made to agree with.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// inputs identifies what was declared then.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Inputs string `json:"inputs,omitempty"`

	// drift says what differs at the server while managementPolicy is Observe.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Drift []string `json:"drift,omitempty"`

	// failure is how the attempts go wrong. Unset when the last one succeeded.
	//
	// +optional
	Failure TokenFailure `json:"failure,omitzero"`
}

// M2MClientProvisioning is what the operator knows of a client at its server.
// The secret itself lies in the operator's namespace.
type M2MClientProvisioning struct {
	// server is where the client was provisioned.
	//
	// +required
	Server ProvisioningServer `json:"server,omitzero"`

	// clientID is the client's identifier at the server.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// grantID is the server's identifier of what carries the client's access,
	// such as a role. Unset where there is no such thing.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	GrantID string `json:"grantID,omitempty"`

	// origin is Created or Adopted. What was adopted is never deleted.
	//
	// +optional
	Origin ProvisioningOrigin `json:"origin,omitempty"`

	// creating says that something may have been created at the server whose
	// identifier is not known yet.
	//
	// +optional
	Creating *bool `json:"creating,omitempty"`

	// access is what the server grants the client.
	//
	// +optional
	// +listType=map
	// +listMapKey=resource
	// +kubebuilder:validation:MaxItems=16
	Access []ProvisionedAccess `json:"access,omitempty"`

	// credential is the secret in use.
	//
	// +optional
	Credential ProvisionedCredential `json:"credential,omitzero"`

	// syncedAt is when the server was last found or made as declared.
	//
	// +optional
	SyncedAt *metav1.Time `json:"syncedAt,omitempty"`

	// observedGeneration is the generation of the spec that the server was last
	// found or made to agree with.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// inputs identifies what was declared then.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Inputs string `json:"inputs,omitempty"`

	// leftBehind says what may exist at the server that the operator cannot
	// find any more.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	LeftBehind []string `json:"leftBehind,omitempty"`

	// failure is how the attempts go wrong. Unset when the last one succeeded.
	//
	// +optional
	Failure TokenFailure `json:"failure,omitzero"`
}

// ProvisionedAccess is an API that a client may ask tokens for at its server.
type ProvisionedAccess struct {
	// resource is the API's identifier.
	//
	// +required
	Resource ResourceIdentifier `json:"resource,omitempty"`

	// resourceID is the server's identifier of the API.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ResourceID string `json:"resourceID,omitempty"`

	// scopes are the scopes that the server grants.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`
}

// ProvisionedCredential is a client secret, without the secret.
type ProvisionedCredential struct {
	// name is its name at the server.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`

	// issuedAt is when it was issued.
	//
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// expiresAt is when the server stops taking it. Unset for never.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// rotateAt is when it is replaced. Unset for never.
	//
	// +optional
	RotateAt *metav1.Time `json:"rotateAt,omitempty"`
}

// LeftBehind is something that the operator could not delete at the server.
type LeftBehind struct {
	// kind is the kind of the object that it belonged to.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`

	// namespace is the namespace of that object.
	//
	// +required
	Namespace NamespaceName `json:"namespace,omitempty"`

	// name is the name of that object.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// what says what is there, with the server's identifiers.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	What string `json:"what,omitempty"`

	// since is when the operator gave up.
	//
	// +required
	Since *metav1.Time `json:"since,omitempty"`
}
