// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestKindsAreFoundByCategory sends the requests of kubectl: kubectl get m2m lists
// every kind, and each kind has its short name.
func TestKindsAreFoundByCategory(t *testing.T) {
	d, err := discovery.NewDiscoveryClientForConfig(operator.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range list.APIResources {
		if slices.Contains(r.Categories, "m2m") {
			got[r.Kind] = fmt.Sprint(r.ShortNames, r.Namespaced)
		}
	}
	want := map[string]string{
		"AuthorizationServer": "[as] true", "ClusterAuthorizationServer": "[cas] false", "APIResource": "[apires] true", "M2MClient": "[m2mc] true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds of the category m2m (-want +got):\n%s", diff)
	}
}

// TestColumns compares the columns that the API server prints for each kind.
func TestColumns(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	cas := clusterServerOf(w, t, v1alpha1.ClusterAuthorizationServerSpec{AllowedNamespaces: operator.NamesOf(w.Payments, w.Shop)})
	waiting := w.Cart()
	waiting.Name = "waiting"
	waiting.Spec.Credentials.ClientSecret.SecretRef.Name = "none"
	operator.Create(t, waiting)
	operator.Start(t)
	server := w.Server(w.Shop)
	for _, o := range []client.Object{server, cas, api, cart} {
		operator.IsReady(t, o)
	}
	operator.HasCondition(t, waiting, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)

	expires := cart.Status.ExpiresAt.UTC().Format(time.RFC3339)
	const credentials = `Secret "none" does not exist`
	for _, tc := range []struct {
		name, resource string
		object         client.Object
		want           map[string]string
	}{
		{"a client", "m2mclients", cart, map[string]string{
			"Name": "cart", "Ready": "True", "Reason": "Ready", "Secret": "cart-token", "Expires": expires, "Fresh": "True", "Message": "Every access has a token that works",
		}},
		{"a client without a token", "m2mclients", waiting, map[string]string{
			"Name": "waiting", "Ready": "False", "Reason": "CredentialsNotFound", "Secret": "waiting-token", "Fresh": "False", "Message": credentials,
		}},
		{"an API", "apiresources", api, map[string]string{
			"Name": "payment-api", "Identifier": operator.PaymentAPI, "Ready": "True", "Reason": "Ready", "Namespaces": "0",
			"Message": "The APIResource is accepted, and its own workloads have the verification bundle that they need",
		}},
		{"a server", "authorizationservers", server, map[string]string{
			"Name": "auth", "Issuer": w.AS.Issuer(), "Ready": "True", "Reason": "Ready", "KeysFresh": "True", "Message": "The token endpoint and the signing keys are known",
		}},
		{"a server of the cluster", "clusterauthorizationservers", cas, map[string]string{
			"Name": cas.Name, "Issuer": w.AS.Issuer(), "Ready": "True", "Reason": "Ready", "KeysFresh": "True", "Message": "The token endpoint and the signing keys are known",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := printed(t, tc.resource, client.ObjectKeyFromObject(tc.object))
			if got["Age"] == "" {
				t.Error("there is no age")
			}
			delete(got, "Age")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
		})
	}
}

// printed returns the columns of an object, as kubectl get -o wide shows them.
func printed(t *testing.T, resource string, name types.NamespacedName) map[string]string {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(operator.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	path := []string{"/apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version}
	if name.Namespace != "" {
		path = append(path, "namespaces", name.Namespace)
	}
	var table metav1.Table
	err = d.RESTClient().Get().AbsPath(append(path, resource, name.Name)...).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(&table)
	if err != nil {
		t.Fatal(err)
	}
	columns := map[string]string{}
	for i, c := range table.ColumnDefinitions {
		if cell := table.Rows[0].Cells[i]; cell != nil {
			columns[c.Name] = fmt.Sprint(cell)
		}
	}
	return columns
}
