// SPDX-License-Identifier: Apache-2.0

package access

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// provisionedAPI returns an API of namespace payments at a provisioned server, and a client
// in the same namespace, which may request every scope.
func provisionedAPI(change func(*v1alpha1.APIResource, *v1alpha1.AuthorizationServer)) (objects, *v1alpha1.M2MClient) {
	as, api := own("payments", issuer), claimant("payments", 0)
	as.Spec.Provisioning.Logto.Endpoint = "https://auth.example.com"
	api.Status.Provisioning.Server = ProvisioningServer(ServerOf(as))
	change(api, as)
	c := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "cart"},
		Spec:       v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api"}}}},
	}
	return objects{as, api, c}, c
}

// deniedFor returns the reason why the only access of a client is denied, "" if it is not.
func deniedFor(t *testing.T, os objects, c *v1alpha1.M2MClient) string {
	t.Helper()
	found, err := resolver(os...).Client(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if denied := found.Accesses[0].Denied; denied != nil {
		return denied.Reason
	}
	return ""
}

func TestDriver(t *testing.T) {
	var logto, registration, both v1alpha1.AuthorizationServerSpec
	logto.Provisioning.Logto.Endpoint = "https://auth.example.com"
	registration.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretPost
	both.Provisioning.Logto, both.Provisioning.DynamicRegistration = logto.Provisioning.Logto, registration.Provisioning.DynamicRegistration
	for name, tc := range map[string]struct {
		spec v1alpha1.AuthorizationServerSpec
		want v1alpha1.ProvisioningDriver
	}{
		"none":                        {want: ""},
		"Logto":                       {logto, v1alpha1.DriverLogto},
		"dynamic registration":        {registration, v1alpha1.DriverDynamicRegistration},
		"both, which no rule lets in": {both, v1alpha1.DriverLogto},
	} {
		if got := Driver(&tc.spec); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestDecisionsAtTheServerWithdraw goes through the table of reasons. If provisioning of an API
// fails because of a decision, the API's clients get nothing. Any other failure takes
// nothing away.
func TestDecisionsAtTheServerWithdraw(t *testing.T) {
	for reason, k := range reasons {
		os, c := provisionedAPI(func(api *v1alpha1.APIResource, _ *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Failure.Reason = reason
		})
		want := ""
		if k == decision {
			want = reason
		}
		if got := deniedFor(t, os, c); got != want {
			t.Errorf("the API fails for %s, and the client is denied it for %q, want %q", reason, got, want)
		}
	}
}

func TestAdoptionIsTakenBack(t *testing.T) {
	listed := []v1alpha1.AdoptedAPIResource{{Identifier: claimant("payments", 0).Spec.Identifier, Namespace: "payments"}}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.APIResource, *v1alpha1.AuthorizationServer)
		want   string
	}{
		"adopted and listed": {func(api *v1alpha1.APIResource, as *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Origin, as.Spec.Provisioning.Adoption.APIResources = v1alpha1.OriginAdopted, listed
		}, ""},
		"adopted and no longer listed": {func(api *v1alpha1.APIResource, _ *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Origin = v1alpha1.OriginAdopted
		}, v1alpha1.ReasonExistsAtServer},
		"adopted and listed for another namespace": {func(api *v1alpha1.APIResource, as *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Origin = v1alpha1.OriginAdopted
			as.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: "shop"}}
		}, v1alpha1.ReasonExistsAtServer},
		"created": {func(api *v1alpha1.APIResource, _ *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Origin = v1alpha1.OriginCreated
		}, ""},
		"refused at a server that it has left": {func(api *v1alpha1.APIResource, _ *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Failure.Reason, api.Status.Provisioning.Server.Issuer = v1alpha1.ReasonExistsAtServer, "https://former.example.com"
		}, ""},
		"refused at a server that is not provisioned any more": {func(api *v1alpha1.APIResource, as *v1alpha1.AuthorizationServer) {
			api.Status.Provisioning.Failure.Reason, as.Spec.Provisioning = v1alpha1.ReasonExistsAtServer, v1alpha1.Provisioning{}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			os, c := provisionedAPI(tc.change)
			if got := deniedFor(t, os, c); got != tc.want {
				t.Errorf("denied for %q, want %q", got, tc.want)
			}
		})
	}
}

// TestAnotherNamespacesServerDecidesNothing: a client has APIs in two namespaces. If one of the
// namespaces may no longer use the server, the client keeps the other API.
func TestAnotherNamespacesServerDecidesNothing(t *testing.T) {
	at := v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: "company"}
	api := func(namespace string) *v1alpha1.APIResource {
		return claimant(namespace, 0, func(a *v1alpha1.APIResource) {
			a.Spec.AuthorizationServerRef, a.Spec.Identifier = at, v1alpha1.ResourceIdentifier("https://"+namespace+".example.com")
			a.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{"shop"}}}}}
		})
	}
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	for _, namespace := range []v1alpha1.NamespaceName{"denied", "payments"} {
		c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{APIResourceRef: v1alpha1.APIResourceReference{Namespace: namespace, Name: "payment-api"}})
	}
	found, err := resolver(cluster("company", issuer, "payments", "shop"), api("denied"), api("payments"), c).Client(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if found.Problem != nil || !found.Accesses[0].Denied.Decided() || found.Accesses[1].Denied != nil {
		t.Errorf("the server: %+v; the denied API: %+v; the other: %+v", found.Problem, found.Accesses[0].Denied, found.Accesses[1].Denied)
	}
}
