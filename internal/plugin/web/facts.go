// SPDX-License-Identifier: Apache-2.0

package web

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// ready says what objects do that do their job.
var ready = map[string]string{
	"M2MClient": "Its tokens work", "APIResource": "Its callers' tokens can be verified", KindResource: "Clients name it without an APIResource",
	string(v1alpha1.KindAuthorizationServer): "It issues tokens", string(v1alpha1.KindClusterAuthorizationServer): "It issues tokens",
}

// sentence says how an object is.
func sentence(kind string, s tree.State) string {
	switch s {
	case tree.Ready:
		return ready[kind]
	case tree.Waiting:
		return "The operator, or something else, is not there yet"
	case tree.Hidden:
		return "You may not read it"
	case tree.Warning:
		return ready[kind] + ", and something fails"
	}
	return "It does not do its job"
}

// facts returns what there is to know about an object.
func facts(o client.Object) []Fact {
	switch o := o.(type) {
	case *v1alpha1.M2MClient:
		return clientFacts(o)
	case *v1alpha1.APIResource:
		return apiFacts(o)
	case *v1alpha1.AuthorizationServer, *v1alpha1.ClusterAuthorizationServer:
		return serverFacts(access.ServerOf(o))
	}
	return nil
}

// present leaves out facts that say nothing.
func present(all ...Fact) []Fact {
	return slices.DeleteFunc(all, func(f Fact) bool { return f.Value == "" && len(f.List) == 0 && f.At == nil })
}

func clientFacts(c *v1alpha1.M2MClient) []Fact {
	credentials := "its own, which spec.credentials names"
	if access.Registered(c) {
		credentials = "the operator registers the client"
	}
	return present(
		Fact{Label: "Client ID", Value: string(c.Status.ClientID)},
		Fact{Label: "Credentials", Value: credentials},
		Fact{Label: "Secret with the tokens", Value: c.SecretName()},
	)
}

func apiFacts(a *v1alpha1.APIResource) []Fact {
	var scopes []string
	for _, s := range a.Spec.Scopes {
		scopes = append(scopes, string(s.Name))
	}
	return present(
		Fact{Label: "Identifier", Value: string(a.Spec.Identifier)},
		Fact{Label: "Scopes", List: scopes},
		Fact{Label: "ConfigMap with the bundle", Value: string(a.Status.Bundle.ConfigMapName)},
	)
}

func serverFacts(s *access.Server) []Fact {
	all := []Fact{
		{Label: "Issuer", Value: s.Spec.Issuer},
		{Label: "Token endpoint", Value: string(s.Status.Endpoints.Token)},
		{Label: "Keys at", Value: string(s.Status.Endpoints.JWKS)},
		{Label: "Provisioned by", Value: string(access.Driver(s.Spec))},
	}
	for _, k := range s.Status.Keys {
		label := "Key since"
		at := k.FirstSeenAt
		if k.RetiredAt != nil {
			label, at = "Key retired", k.RetiredAt
		}
		all = append(all, Fact{Label: label, Value: fmt.Sprintf("%q %s", k.KeyID, k.Algorithm), At: at})
	}
	return present(all...)
}

// conditions returns the conditions of an object.
func conditions(o client.Object) []Condition {
	var all []metav1.Condition
	switch o := o.(type) {
	case *v1alpha1.M2MClient:
		all = o.Status.Conditions
	case *v1alpha1.APIResource:
		all = o.Status.Conditions
	case *v1alpha1.AuthorizationServer:
		all = o.Status.Conditions
	case *v1alpha1.ClusterAuthorizationServer:
		all = o.Status.Conditions
	}
	var shown []Condition
	for _, c := range all {
		shown = append(shown, Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime})
	}
	return shown
}
