// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// GatewayKinds returns kinds with the names of Envoy Gateway's and Istio's policies. They
// take any spec and set one default, as the real ones do. Nothing acts on their objects.
func GatewayKinds() []*apiextensionsv1.CustomResourceDefinition {
	return []*apiextensionsv1.CustomResourceDefinition{
		policyKind("gateway.envoyproxy.io", "v1alpha1", "SecurityPolicy", "securitypolicies"),
		policyKind("security.istio.io", "v1", "RequestAuthentication", "requestauthentications"),
		policyKind("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies"),
	}
}

func policyKind(group, version, kind, plural string) *apiextensionsv1.CustomResourceDefinition {
	anything := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	spec := *anything.DeepCopy()
	spec.Properties = map[string]apiextensionsv1.JSONSchemaProps{
		"defaulted": {Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"by the API server"`)}},
	}
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, ListKind: kind + "List", Plural: plural, Singular: strings.ToLower(kind)},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: version, Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec, "status": anything},
				}},
			}},
		},
	}
}
