// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// knows declares APIs at the authorization server, and the cart with all their scopes.
func (r *run) knows(secret string, apis ...string) {
	r.t.Helper()
	scopes := map[string][]string{}
	for _, api := range apis {
		r.AS.SetResource(api, "payments:read", "payments:write")
		scopes[api] = []string{"payments:read", "payments:write"}
	}
	if err := r.AS.SetClient(oidc.Client{ID: operator.CartID, Secret: secret, Method: oidc.SecretBasic, Scopes: scopes}); err != nil {
		r.t.Fatal(err)
	}
	r.log.uses(r.AS.KeyID())
}

// story creates servers, API, credentials and client.
func story(r *run) {
	secret := operator.NewSecret()
	r.knows(secret, operator.PaymentAPI)
	operator.Create(r.t, r.server(r.payments), r.server(r.shop), r.World.API(), r.World.Secret("cart-credentials", operator.CartID, secret), r.World.Cart())
}

// twoAPIs is the story with a client of two APIs.
func twoAPIs(r *run) {
	secret := operator.NewSecret()
	r.knows(secret, operator.PaymentAPI, operator.OrdersAPI)
	orders, cart := r.World.API(), r.World.Cart()
	orders.Name, orders.Spec.Identifier = "orders-api", operator.OrdersAPI
	another := *cart.Spec.Access[0].DeepCopy()
	another.APIResourceRef.Name = "orders-api"
	cart.Spec.Access = append(cart.Spec.Access, another)
	operator.Create(r.t, r.server(r.payments), r.server(r.shop), r.World.API(), orders, r.World.Secret("cart-credentials", operator.CartID, secret), cart)
}

// cart returns the client as it is now.
func (r *run) cart() *v1alpha1.M2MClient {
	r.t.Helper()
	var cart v1alpha1.M2MClient
	if err := operator.Kube.Get(r.t.Context(), client.ObjectKey{Namespace: r.shop, Name: "cart"}, &cart); err != nil {
		r.t.Fatal(err)
	}
	return &cart
}

// api returns the name of the payment API.
func (r *run) api() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: r.payments, Name: "payment-api"}}
}

// due moves the clock to the time when all of the cart's tokens are due.
func due(r *run) {
	r.t.Helper()
	var last time.Time
	for _, t := range r.cart().Status.Tokens {
		if t.RefreshAt == nil {
			r.t.Fatalf("the cart has no token for %q", t.Key)
		}
		if t.RefreshAt.After(last) {
			last = t.RefreshAt.Time
		}
	}
	r.clock.SetTime(last)
}

// verifies creates a pod of the API, in its own namespace.
func verifies(r *run) {
	operator.Create(r.t, operator.AnnotatedPod(r.payments, "payment", v1alpha1.VerifyAnnotation, "payment-api"))
}

// verifiesEverywhere creates pods of the API in its own and in other namespaces.
func verifiesEverywhere(r *run) {
	verifies(r)
	for _, ns := range r.more {
		operator.Create(r.t, operator.AnnotatedPod(ns, "payment", v1alpha1.VerifyAnnotation, r.payments+"/payment-api"))
	}
}

// injected creates pods of the API and of the client that mount what the operator writes.
func injected(r *run) {
	operator.Create(r.t,
		operator.AnnotatedPod(r.payments, "payment", v1alpha1.VerifyAnnotation, "payment-api",
			v1alpha1.InjectedAnnotation, "configmap/"+render.ConfigMapName(r.payments, "payment-api")),
		operator.AnnotatedPod(r.shop, "cart", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"))
}

// withdraw takes the grant away.
func withdraw(r *run) {
	r.log.decide()
	operator.Change(r.t, r.api(), func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
}

// rotateKey makes the server sign with another key, when the token is due.
func rotateKey(r *run) {
	kid, err := r.AS.RotateKey()
	if err != nil {
		r.t.Fatal(err)
	}
	r.log.uses(kid)
	due(r)
	// The client's own server needs no keys and fetches them now and then; a fresh operator does at once.
	operator.Change(r.t, r.server(r.shop), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RefreshInterval = "23h" })
}

// revoke makes the server sign with another key, and revokes the former.
func revoke(r *run) {
	former := r.AS.KeyID()
	kid, err := r.AS.RotateKey()
	if err != nil {
		r.t.Fatal(err)
	}
	r.log.uses(kid)
	r.log.revoke(former)
	for _, ns := range []string{r.payments, r.shop} {
		operator.Change(r.t, r.server(ns), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RevokedKeyIDs = []string{former} })
	}
}

// loseSecret deletes the Secret with the cart's token.
func loseSecret(r *run) {
	operator.Remove(r.t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.shop, Name: "cart-token"}})
}

// handOver hands the cart over to the other instance.
func handOver(r *run) { operator.Label(r.t, r.cart(), "a") }

// enforce has gateways check the API's tokens.
func enforce(r *run) {
	operator.Change(r.t, r.api(), func(a *v1alpha1.APIResource) {
		a.Spec.Enforcement = []v1alpha1.Enforcement{{
			Name: "public", Rules: []v1alpha1.EnforcementRule{{Name: "write", Scopes: []v1alpha1.ScopeName{"payments:write"}}},
			EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}}},
		}}
	})
}

// stopEnforcing takes that back.
func stopEnforcing(r *run) {
	operator.Change(r.t, r.api(), func(a *v1alpha1.APIResource) { a.Spec.Enforcement = nil })
}

// provisioned returns a client that the operator registers.
func provisioned(cart *v1alpha1.M2MClient) *v1alpha1.M2MClient {
	cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
	return cart
}

// resync is how often the operator looks for drift: once in the time for a step.
const resync = "6m"

// register creates a client that registers itself.
func register(r *run) {
	r.AS.SetResource(operator.PaymentAPI, "payments:read", "payments:write")
	r.log.uses(r.AS.KeyID())
	as := r.server(r.payments)
	as.Spec.Provisioning.ResyncInterval = resync
	as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
	operator.Create(r.t, as, r.World.API(), provisioned(r.World.Cart()))
}

// tenant returns the setting at a Logto.
func (r *run) tenant() *operator.Tenant {
	return &operator.Tenant{T: r.t, Logto: r.Logto, Shop: r.shop, Payments: r.payments}
}

func (r *run) logtoServer() *v1alpha1.AuthorizationServer {
	as := r.tenant().Server()
	as.Spec.JWKS.RefreshInterval, as.Spec.Provisioning.ResyncInterval = "24h", resync
	return as
}

// provision creates the same at a Logto, which then has the API, too.
func provision(r *run) {
	w := r.tenant()
	operator.Create(r.t, w.Management(), r.logtoServer(), w.API(), w.Cart())
}

// adopt is provision with an API that exists at the server and may be taken over.
func adopt(r *run) {
	w := r.tenant()
	as, api := r.logtoServer(), w.API()
	if _, err := r.Logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write", "payments:admin"); err != nil {
		r.t.Fatal(err)
	}
	as.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(r.payments)}}
	operator.Create(r.t, w.Management(), as, api, w.Cart())
}

// otherScopes asks for one scope more.
func otherScopes(r *run) {
	operator.Change(r.t, r.cart(), func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
	})
}

// rotateCredential asks for another client secret.
func rotateCredential(r *run) {
	operator.Change(r.t, r.cart(), func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "now"}
	})
}

// drift changes objects in the console of the server.
func drift(r *run) {
	s := r.Logto.Snapshot()
	i := slices.IndexFunc(s.Roles, func(role logto.Role) bool { return len(role.Applications) > 0 })
	if i < 0 {
		r.t.Fatal("no role is assigned")
	}
	role, app := s.Roles[i], s.Roles[i].Applications[0]
	for _, err := range []error{
		r.Logto.UnassignRole(role.ID, app), r.Logto.RenameApplication(app, "something else"),
		r.Logto.RemoveScope(string(r.tenant().API().Spec.Identifier), "payments:read"),
	} {
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// deleteClient deletes the cart.
func deleteClient(r *run) {
	r.log.decide()
	operator.Remove(r.t, r.cart())
}

// deleteAPI deletes the payment API.
func deleteAPI(r *run) { operator.Remove(r.t, r.api()) }

// deleteServer deletes the authorization server.
func deleteServer(r *run) { operator.Remove(r.t, r.logtoServer()) }
