// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// kind is the kind of the authorization server: AuthorizationServer, in the
	// same namespace, or ClusterAuthorizationServer, whose allowedNamespaces
	// must include this namespace. Defaults to AuthorizationServer.
	//
	// +optional
	// +default="AuthorizationServer"
	Kind AuthorizationServerKind `json:"kind,omitempty"`

	// name is the name of the authorization server.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`
}

// APIResourceName is the name of an APIResource, of at most 63 characters.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of an object: lowercase letters, digits, '-' and '.', with a letter or digit at both ends"
type APIResourceName string

// APIResourceReference names an APIResource.
type APIResourceReference struct {
	// name is the name of the APIResource.
	//
	// +required
	Name APIResourceName `json:"name,omitempty"`

	// namespace is the namespace of the APIResource. Defaults to the client's
	// namespace.
	//
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// name is the name of the Secret.
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

	// key is the key of the Secret's data. Each field that uses this reference
	// states its default.
	//
	// +optional
	Key FileName `json:"key,omitempty"`
}

// ConfigMapKeyReference names a key of a ConfigMap in the same namespace.
type ConfigMapKeyReference struct {
	// name is the name of the ConfigMap.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// key is the key of the ConfigMap's data. Defaults to ca.crt.
	//
	// +optional
	Key FileName `json:"key,omitempty"`
}

// NamespaceSelection chooses namespaces by name, by label, or both. A namespace
// is chosen if it is named or if the selector matches it.
//
// +kubebuilder:validation:MinProperties=1
type NamespaceSelection struct {
	// names are the names of chosen namespaces, at most 64.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Names []NamespaceName `json:"names,omitempty"`

	// selector chooses namespaces by their labels. An empty selector ({})
	// chooses every namespace. If unset, only names count.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}
