// SPDX-License-Identifier: Apache-2.0

package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestSelects: a selection includes namespaces by their names or labels, and in doubt none.
func TestSelects(t *testing.T) {
	namespace := func(name, team string) *metav1.PartialObjectMetadata {
		o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
		o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		return o
	}
	r := resolver(namespace("shop", "sales"), namespace("billing", "finance"), namespace("cut", "sales"))
	sales := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "sales"}}
	for name, tc := range map[string]struct {
		selection v1alpha1.NamespaceSelection
		namespace string
		want      bool
	}{
		"nothing":                              {v1alpha1.NamespaceSelection{}, "shop", false},
		"its name":                             {names("shop"), "shop", true},
		"another name":                         {names("shop"), "billing", false},
		"a label of it":                        {v1alpha1.NamespaceSelection{Selector: sales}, "shop", true},
		"a label of another":                   {v1alpha1.NamespaceSelection{Selector: sales}, "billing", false},
		"its name, and a label of another":     {v1alpha1.NamespaceSelection{Names: names("billing").Names, Selector: sales}, "billing", true},
		"another name, and a label of it":      {v1alpha1.NamespaceSelection{Names: names("billing").Names, Selector: sales}, "shop", true},
		"every label":                          {v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, "billing", true},
		"every label, of no namespace":         {v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, "gone", false},
		"a label of it, if its labels are cut": {v1alpha1.NamespaceSelection{Selector: sales}, "cut", false},
		"an invalid selector": {
			v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Like"}}}}, "shop", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := r.Selects(t.Context(), tc.selection, tc.namespace); got != tc.want || err != nil {
				t.Errorf("it selects %s: %t, %v", tc.namespace, got, err)
			}
		})
	}
}

// TestAGrantOfSomeScopes: a client that the operator registers gets the scopes that are granted,
// and one with credentials of its own gets none unless it gets all.
func TestAGrantOfSomeScopes(t *testing.T) {
	withCredentials := func(c *v1alpha1.M2MClient) {
		c.Spec.AuthorizationServerRef.Name = "auth"
		c.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
	}
	deleted := func(a *v1alpha1.APIResource) {
		now := metav1.NewTime(noon)
		a.DeletionTimestamp, a.Finalizers = &now, []string{"m2m-operator.io/wait"}
	}
	for name, tc := range map[string]struct {
		client          func(*v1alpha1.M2MClient)
		scopes          []v1alpha1.ScopeName
		api             func(*v1alpha1.APIResource)
		got             []string // nil if the access is denied
		denied, reduced string   // reasons
	}{
		"all, to a registered client":      {scopes: []v1alpha1.ScopeName{"write", "read"}, got: []string{"read", "write"}},
		"some, to a registered client":     {scopes: []v1alpha1.ScopeName{"refund", "read"}, got: []string{"read"}, reduced: v1alpha1.ReasonScopeNotGranted},
		"none, to a registered client":     {scopes: []v1alpha1.ScopeName{"refund"}, denied: v1alpha1.ReasonScopeNotGranted},
		"all, with own credentials":        {client: withCredentials, scopes: []v1alpha1.ScopeName{"read"}, got: []string{"read"}},
		"some, with own credentials":       {client: withCredentials, scopes: []v1alpha1.ScopeName{"read", "refund"}, denied: v1alpha1.ReasonScopeNotGranted},
		"the API is being deleted":         {client: withCredentials, scopes: []v1alpha1.ScopeName{"read"}, api: deleted, denied: v1alpha1.ReasonAPIResourceNotFound},
		"no scope is asked for or missing": {client: withCredentials, got: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			api := claimant("payments", 0)
			api.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}, {Name: "write"}, {Name: "refund"}}
			api.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: names("shop")}, Scopes: []v1alpha1.ScopeName{"read", "write"}}}
			if tc.api != nil {
				tc.api(api)
			}
			c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
			c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}, Scopes: tc.scopes}}
			if tc.client != nil {
				tc.client(c)
			}
			found, err := resolver(own("payments", issuer), own("shop", issuer), api).Client(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			a := found.Accesses[0]
			reason := func(p *Problem) string {
				if p == nil {
					return ""
				}
				return p.Reason
			}
			if reason(a.Denied) != tc.denied || reason(a.Reduced) != tc.reduced {
				t.Errorf("denied: %+v, reduced: %+v", a.Denied, a.Reduced)
			}
			allowed := tc.denied == ""
			if allowed && len(a.Scopes)+len(tc.got) > 0 && !cmp.Equal(a.Scopes, tc.got) {
				t.Errorf("it gets %v, want %v", a.Scopes, tc.got)
			}
			if (a.Server != nil) != allowed || (a.Spec != nil) != allowed {
				t.Errorf("it has the server %v and the API %v", a.Server, a.Spec)
			}
			if allowed && (a.Server.Object.GetNamespace() != "payments" || a.Spec.Name != "payment-api") {
				t.Errorf("it has the server of %s and the API %s", a.Server.Object.GetNamespace(), a.Spec.Name)
			}
		})
	}
}
