// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the kinds of m2m-operator: AuthorizationServer and
// ClusterAuthorizationServer (an issuer), APIResource (an API and who may call
// it) and M2MClient (a calling service and the tokens it needs).
//
// +kubebuilder:object:generate=true
// +groupName=m2m-operator.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "m2m-operator.io", Version: "v1alpha1"}

var (
	schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
		s.AddKnownTypes(GroupVersion,
			&AuthorizationServer{}, &AuthorizationServerList{},
			&ClusterAuthorizationServer{}, &ClusterAuthorizationServerList{},
			&APIResource{}, &APIResourceList{},
			&M2MClient{}, &M2MClientList{},
		)
		metav1.AddToGroupVersion(s, GroupVersion)
		return nil
	})

	// AddToScheme registers the kinds of this package.
	AddToScheme = schemeBuilder.AddToScheme
)
