// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterAuthorizationServerSpec is an AuthorizationServerSpec with the
// namespaces that may use the server.
type ClusterAuthorizationServerSpec struct {
	AuthorizationServerSpec `json:",inline"`

	// allowedNamespaces are the namespaces whose APIResources and M2MClients
	// may name this server. An empty selector ({}) allows every namespace.
	//
	// +required
	AllowedNamespaces NamespaceSelection `json:"allowedNamespaces,omitzero"`

	// identifierClaims says which namespaces may declare which APIs at this
	// server. If unset, every allowed namespace may declare any identifier that
	// is not taken. If set, an APIResource needs a claim that allows it, even if
	// it names an AuthorizationServer of the same issuer.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	IdentifierClaims []IdentifierClaim `json:"identifierClaims,omitempty"`
}

// IdentifierClaim lets namespaces declare APIs whose identifier has one of the
// prefixes.
type IdentifierClaim struct {
	// namespaces are the namespaces that may declare the APIs.
	//
	// +required
	Namespaces NamespaceSelection `json:"namespaces,omitzero"`

	// prefixes are the allowed beginnings of an identifier, at most 32. End a
	// prefix with a slash so that it does not match longer host names.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Prefixes []string `json:"prefixes,omitempty"`
}

// ClusterAuthorizationServer is an OAuth 2.0 authorization server that
// APIResources and M2MClients of chosen namespaces can use. Its Secrets and
// ConfigMaps are read from the operator's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cas,categories=m2m
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.spec.issuer`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="KeysFresh",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="KeysFresh")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ClusterAuthorizationServer struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec describes the authorization server and who may use it.
	//
	// +required
	Spec ClusterAuthorizationServerSpec `json:"spec,omitzero"`

	// status reports what the operator has observed. Until the operator has seen
	// the object, Ready is Unknown with reason Pending.
	//
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Pending", "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	// +optional
	Status AuthorizationServerStatus `json:"status,omitzero"`
}

// GetConditions returns the conditions of the status, shared with the object.
func (s *ClusterAuthorizationServer) GetConditions() []metav1.Condition {
	return s.Status.Conditions
}

// SetConditions replaces the conditions of the status.
func (s *ClusterAuthorizationServer) SetConditions(conditions []metav1.Condition) {
	s.Status.Conditions = conditions
}

// ClusterAuthorizationServerList is a list of ClusterAuthorizationServers.
//
// +kubebuilder:object:root=true
type ClusterAuthorizationServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []ClusterAuthorizationServer `json:"items"`
}
