// SPDX-License-Identifier: Apache-2.0

package access

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestTheFieldThatDecides: a denial names the field to change, and an access the grants that
// allow it.
func TestTheFieldThatDecides(t *testing.T) {
	server := func(namespace string) *v1alpha1.AuthorizationServer {
		s := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "auth"}}
		s.Spec.Issuer = issuer
		return s
	}
	cluster := func(allowed string) *v1alpha1.ClusterAuthorizationServer {
		c := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "company"}}
		c.Spec.Issuer, c.Spec.AllowedNamespaces = issuer, names(allowed)
		return c
	}
	ofCluster := v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: "company"}
	api := func(change ...func(*v1alpha1.APIResource)) *v1alpha1.APIResource {
		a := claimant("payments", 0, change...)
		a.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}, {Name: "write"}}
		return a
	}
	granting := func(grants ...v1alpha1.Grant) func(*v1alpha1.APIResource) {
		return func(a *v1alpha1.APIResource) { a.Spec.Grants = grants }
	}
	grant := func(namespace string, clients []v1alpha1.ObjectName, scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
		return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{Namespaces: names(namespace), Names: clients}, Scopes: scopes}
	}
	cart := func(namespace string, change ...func(*v1alpha1.M2MClient)) *v1alpha1.M2MClient {
		c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"}}
		c.Spec.AuthorizationServerRef.Name = "auth"
		c.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
		c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}, Scopes: []v1alpha1.ScopeName{"write"}}}
		for _, f := range change {
			f(c)
		}
		return c
	}
	registered := func(c *v1alpha1.M2MClient) {
		c.Spec.Credentials, c.Spec.AuthorizationServerRef.Name = v1alpha1.ClientCredentials{}, ""
	}
	for name, tc := range map[string]struct {
		client *v1alpha1.M2MClient
		others []client.Object
		field  Field
		grants []int
	}{
		"two grants that apply": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api(granting(
				grant("billing", nil, "write"), grant("shop", nil, "read"), grant("shop", []v1alpha1.ObjectName{"stock"}, "write"), grant("shop", []v1alpha1.ObjectName{"cart"}, "write")))},
			grants: []int{1, 3},
		},
		"the API's own namespace needs no grant": {client: cart("payments"), others: []client.Object{server("payments"), api()}},
		"nothing is granted": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api()},
			field: Field{"APIResource", "payments", "payment-api", "spec.grants"},
		},
		"the scope is not granted": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api(granting(grant("shop", nil, "read")))},
			field: Field{"APIResource", "payments", "payment-api", "spec.grants"}, grants: []int{0},
		},
		"the API has no such scope": {
			client: cart("payments", func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes[0] = "refund" }),
			others: []client.Object{server("payments"), api()},
			field:  Field{"APIResource", "payments", "payment-api", "spec.scopes"},
		},
		"the API does not exist": {client: cart("shop"), others: []client.Object{server("shop")}},
		"the API's server does not exist": {
			client: cart("shop"), others: []client.Object{server("shop"), api()},
			field: Field{"APIResource", "payments", "payment-api", "spec.authorizationServerRef.name"},
		},
		"the client's server is not open to it": {
			client: cart("shop", func(c *v1alpha1.M2MClient) { c.Spec.AuthorizationServerRef = ofCluster }),
			others: []client.Object{cluster("payments"), server("payments"), api(granting(grant("shop", nil, "write")))},
			field:  Field{"ClusterAuthorizationServer", "", "company", "spec.allowedNamespaces"},
		},
		"the API's server is not open to it": {
			client: cart("shop"), others: []client.Object{cluster("shop"), server("shop"), api(func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef = ofCluster })},
			field: Field{"ClusterAuthorizationServer", "", "company", "spec.allowedNamespaces"},
		},
		"the platform forbids the issuer": {
			client: cart("shop"), others: []client.Object{cluster("shop"), server("shop"), server("payments"), api()},
			field: Field{"ClusterAuthorizationServer", "", "company", "spec.allowedNamespaces"},
		},
		"the platform gave the identifier to others": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api(), func() client.Object {
				c := cluster("payments")
				c.Spec.IdentifierClaims = []v1alpha1.IdentifierClaim{{Namespaces: names("shop"), Prefixes: []string{"https://payment.example.com/"}}}
				return c
			}()},
			field: Field{"ClusterAuthorizationServer", "", "company", "spec.identifierClaims"},
		},
		"another APIResource has the identifier": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), server("first"), api(), claimant("first", -time.Hour, holdingAt(issuer, 0))},
			field: Field{"APIResource", "payments", "payment-api", "spec.identifier"},
		},
		"the API has another issuer": {
			client: cart("shop"), others: []client.Object{server("shop"), api(), func() client.Object {
				s := server("payments")
				s.Spec.Issuer = "https://other.example.com"
				return s
			}()},
			field: Field{"AuthorizationServer", "payments", "auth", "spec.issuer"},
		},
		"a registered client names another server": {
			client: cart("shop", registered, func(c *v1alpha1.M2MClient) { c.Spec.AuthorizationServerRef.Name = "auth" }),
			others: []client.Object{server("shop"), server("payments"), api(granting(grant("shop", nil, "write")))},
			field:  Field{"M2MClient", "shop", "cart", "spec.authorizationServerRef"},
		},
		"the API exists at the server": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api(func(a *v1alpha1.APIResource) {
				a.Status.Provisioning.Server = ProvisioningServer(ServerOf(server("payments")))
				a.Status.Provisioning.Failure.Reason = v1alpha1.ReasonExistsAtServer
			})},
			field: Field{"AuthorizationServer", "payments", "auth", "spec.provisioning.adoption.apiResources"},
		},
		"the API is the server's administration": {
			client: cart("shop"), others: []client.Object{server("shop"), server("payments"), api(func(a *v1alpha1.APIResource) {
				a.Status.Provisioning.Server = ProvisioningServer(ServerOf(server("payments")))
				a.Status.Provisioning.Failure.Reason = v1alpha1.ReasonProvisioningForbidden
			})},
			field: Field{"APIResource", "payments", "payment-api", "spec.identifier"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolver(tc.others...).Client(t.Context(), tc.client)
			if err != nil {
				t.Fatal(err)
			}
			a := got.Accesses[0]
			problem := a.Denied
			if problem == nil {
				problem = a.Reduced
			}
			var field Field
			if problem != nil {
				field = problem.Field
			}
			allowed := tc.field == Field{} && name != "the API does not exist"
			if (problem == nil) != allowed {
				t.Errorf("the problem is %+v", problem)
			}
			if diff := cmp.Diff(tc.field, field); diff != "" {
				t.Errorf("field (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.grants, a.Grants); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
		})
	}
}

func names(namespace string) v1alpha1.NamespaceSelection {
	return v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(namespace)}}
}
