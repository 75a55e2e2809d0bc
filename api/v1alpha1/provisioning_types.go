// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Provisioning says how the operator creates and maintains APIs and clients at
// an authorization server. Exactly one driver is set.
//
// +kubebuilder:validation:ExactlyOneOf=logto;dynamicRegistration
type Provisioning struct {
	// logto provisions through the Management API of Logto.
	//
	// +optional
	Logto LogtoProvisioning `json:"logto,omitzero"`

	// dynamicRegistration provisions clients by OAuth 2.0 Dynamic Client
	// Registration (RFC 7591, RFC 7592). The server then keeps no record of
	// APIs: its own configuration says what their scopes mean.
	//
	// +optional
	DynamicRegistration DynamicRegistrationProvisioning `json:"dynamicRegistration,omitzero"`

	// resyncInterval is how often the operator compares the server with the
	// declaration and corrects the server, from 10s to 24h. Defaults to 10m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="must be a duration from 10s to 24h, such as 5m or 1h30m"
	ResyncInterval Duration `json:"resyncInterval,omitempty"`

	// adoption lists existing objects at the server that may be taken over, and
	// by whom. The operator refuses to take over anything else.
	//
	// +optional
	Adoption Adoption `json:"adoption,omitzero"`
}

// LogtoProvisioning is the Management API of a Logto server or tenant.
type LogtoProvisioning struct {
	// endpoint is the server's base URL: https://auth.example.com, or
	// https://<tenant>.logto.app for Logto Cloud, even if the issuer has a
	// custom domain.
	//
	// +required
	Endpoint EndpointURL `json:"endpoint,omitempty"`

	// credentialsSecretRef names the Secret with the credential of a
	// machine-to-machine application that has the Management API role, under
	// client-id and client-secret. The credential may do everything at the
	// server. The Secret is in the namespace of the AuthorizationServer, or in
	// the operator's namespace for a ClusterAuthorizationServer.
	//
	// +required
	CredentialsSecretRef SecretReference `json:"credentialsSecretRef,omitzero"`

	// managementAPI is the identifier of the Management API. Defaults to
	// https://<tenant>.logto.app/api if the endpoint is that of Logto Cloud,
	// else to https://default.logto.app/api.
	//
	// +optional
	ManagementAPI EndpointURL `json:"managementAPI,omitempty"`
}

// DynamicRegistrationProvisioning is a client registration endpoint.
//
// +kubebuilder:validation:MinProperties=1
type DynamicRegistrationProvisioning struct {
	// endpoint is the client registration endpoint (RFC 7591 section 3). If
	// unset, it is the registration_endpoint of the server's metadata.
	//
	// +optional
	Endpoint EndpointURL `json:"endpoint,omitempty"`

	// initialAccessTokenSecretRef names the Secret with the initial access token
	// (RFC 7591 section 3). The key defaults to initial-access-token. If unset,
	// registration is open. The Secret is in the namespace of the
	// AuthorizationServer, or in the operator's namespace for a
	// ClusterAuthorizationServer.
	//
	// +optional
	InitialAccessTokenSecretRef SecretKeyReference `json:"initialAccessTokenSecretRef,omitzero"`

	// authenticationMethod is how the registered clients authenticate at the
	// token endpoint: Basic (client_secret_basic) or Post (client_secret_post).
	// Defaults to Basic.
	//
	// +optional
	// +default="Basic"
	AuthenticationMethod ClientSecretMethod `json:"authenticationMethod,omitempty"`
}

// Adoption lists existing objects at a server that may be taken over.
//
// +kubebuilder:validation:MinProperties=1
type Adoption struct {
	// apiResources are existing APIs at the server, each with the namespace
	// whose APIResource may take it over. At most 256.
	//
	// +optional
	// +listType=map
	// +listMapKey=identifier
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	APIResources []AdoptedAPIResource `json:"apiResources,omitempty"`

	// clients are existing clients at the server, each with the M2MClient that
	// takes it over instead of having one created. At most 128.
	//
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.clientID == b.clientID))",message="only one M2MClient can take over a client"
	Clients []AdoptedClient `json:"clients,omitempty"`
}

// AdoptedAPIResource lets a namespace take over an API.
type AdoptedAPIResource struct {
	// identifier is the API's identifier at the server.
	//
	// +required
	Identifier ResourceIdentifier `json:"identifier,omitempty"`

	// namespace is the namespace whose APIResource of that identifier may take
	// the API over.
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

// ManagementPolicy says what the operator may do with an API at its server.
//
// +kubebuilder:validation:Enum=Full;Observe
type ManagementPolicy string

// The management policies.
const (
	// ManagementFull creates the API and keeps it as declared.
	ManagementFull ManagementPolicy = "Full"
	// ManagementObserve changes nothing and reports differences.
	ManagementObserve ManagementPolicy = "Observe"
)

// DeletionPolicy says what happens to something at the server when its
// Kubernetes object is deleted.
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

// CredentialRotation says when the operator replaces a registered client's
// secret.
//
// +kubebuilder:validation:MinProperties=1
type CredentialRotation struct {
	// every is the age at which the secret is replaced, from 1m to 8760h. If
	// unset, it is replaced only if the server lets it expire, or on request by
	// the annotation m2m-operator.io/rotate-credential.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="must be a duration from 1m to 8760h, such as 720h"
	Every Duration `json:"every,omitempty"`

	// overlap is how long the old secret stays valid after the new one is in
	// use, from 0s to 720h. Defaults to 10m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('720h')",message="must be a duration of at most 720h, such as 10m or 24h"
	Overlap Duration `json:"overlap,omitempty"`
}
