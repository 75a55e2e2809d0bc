// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProvisioningOrigin says how something at the server came under the operator's
// management.
//
// +kubebuilder:validation:Enum=Created;Adopted;Observed
type ProvisioningOrigin string

// The origins.
const (
	OriginCreated  ProvisioningOrigin = "Created"
	OriginAdopted  ProvisioningOrigin = "Adopted"
	OriginObserved ProvisioningOrigin = "Observed"
)

// ProvisioningDriver says how an authorization server is provisioned.
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

// ProvisioningServer is the authorization server at which something was
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

	// driver is the driver that provisioned it: Logto or DynamicRegistration.
	//
	// +required
	Driver ProvisioningDriver `json:"driver,omitempty"`
}

// ProvisioningRecord records the state of an object at its
// server, whatever the object's kind.
type ProvisioningRecord struct {
	// server is where the object was provisioned.
	//
	// +required
	Server ProvisioningServer `json:"server,omitzero"`

	// origin is Created, Adopted or, for APIs only, Observed. Adopted objects
	// are never deleted.
	//
	// +optional
	Origin ProvisioningOrigin `json:"origin,omitempty"`

	// syncedAt is when the operator last found or made the server as declared.
	//
	// +optional
	SyncedAt *metav1.Time `json:"syncedAt,omitempty"`

	// observedGeneration is the generation of the spec that the server last
	// agreed with.
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

	// lastHandledRefreshAt is the last value of the annotation
	// m2m-operator.io/refresh-requested-at that the operator has acted on with
	// a comparison, whether or not it succeeded.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	LastHandledRefreshAt string `json:"lastHandledRefreshAt,omitempty"`

	// failure describes the failed attempts. Unset if the last one succeeded.
	//
	// +optional
	Failure TokenFailure `json:"failure,omitzero"`
}

// APIResourceProvisioning records the state of an API at its
// server.
type APIResourceProvisioning struct {
	ProvisioningRecord `json:",inline"`

	// resourceID is the server's identifier of the API. Unset before it is
	// known, and if the server keeps none.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ResourceID string `json:"resourceID,omitempty"`

	// scopes are the API's scopes at the server.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Scopes []ScopeName `json:"scopes,omitempty"`

	// accessTokenLifetime is the lifetime that the operator set at the server.
	//
	// +optional
	AccessTokenLifetime Duration `json:"accessTokenLifetime,omitempty"`

	// drift lists what differs at the server while managementPolicy is Observe.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Drift []string `json:"drift,omitempty"`
}

// M2MClientProvisioning is what the operator knows about a client at its
// server. The secret itself is in the operator's namespace.
type M2MClientProvisioning struct {
	ProvisioningRecord `json:",inline"`

	// clientID is the client's identifier at the server.
	//
	// +optional
	ClientID ClientID `json:"clientID,omitempty"`

	// grantID is the server's identifier of the object that carries the client's
	// access, such as a role. Unset if there is no such object.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	GrantID string `json:"grantID,omitempty"`

	// creating is true while something may have been created at the server whose
	// identifier is not known yet.
	//
	// +optional
	Creating *bool `json:"creating,omitempty"`

	// access lists the APIs and scopes that the server grants the client.
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

	// lastHandledRotation is the value of the annotation
	// m2m-operator.io/rotate-credential, cut off after 64 characters, for which
	// the secret in use was issued.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	LastHandledRotation string `json:"lastHandledRotation,omitempty"`

	// leftBehind lists what may exist at the server that the operator can no
	// longer find.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	LeftBehind []string `json:"leftBehind,omitempty"`
}

// ProvisionedAccess is an API for which a client may request tokens at its
// server.
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

// ProvisionedCredential describes a client secret, without the secret itself.
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

	// expiresAt is when the server stops accepting the secret. If unset, never.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// rotateAt is when the operator replaces the secret. If unset, never.
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

	// what describes what is left, with the server's identifiers.
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
