// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// attacker is a tenant with its own namespace, application and authorization server.
type attacker struct {
	namespace string
	as        *oidc.Server
	cart      *v1alpha1.M2MClient
}

// newAttacker sets the attacker up. Its authorization server claims to be the world's,
// and its client requests the access of the world's cart from an APIResource of its
// own namespace. The test creates the server that the client uses.
func newAttacker(w *operator.World) *attacker {
	w.T.Helper()
	as, err := oidc.Start(oidc.Options{Issuer: w.AS.Issuer()})
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(as.Close)
	a := &attacker{namespace: operator.NewNamespace(w.T, "evil", nil), as: as, cart: w.Cart()}
	secret := operator.NewSecret()
	w.SetClient("evil-app", secret)
	credentials := w.Secret("cart-credentials", "evil-app", secret)
	credentials.Namespace, a.cart.Namespace = a.namespace, a.namespace
	a.cart.Spec.Access[0].APIResourceRef.Namespace = ""
	operator.Create(w.T, credentials)
	return a
}

// api returns the payment API as the attacker declares it.
func (a *attacker) api(w *operator.World) *v1alpha1.APIResource {
	api := w.API()
	api.Namespace, api.Spec.Grants = a.namespace, nil
	return api
}

// received fails if anything but discovery reached the attacker's server.
func (a *attacker) received(t *testing.T, want int) {
	t.Helper()
	if n := a.as.Count(oidc.Token); n != want {
		t.Errorf("%d token requests reached the attacker's server, want %d: %+v", n, want, a.as.TokenRequests())
	}
}

// verifyingPod creates a pod that wants an APIResource's verification bundle.
func verifyingPod(t *testing.T, namespace, name, ref string) {
	t.Helper()
	operator.Create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{v1alpha1.VerifyAnnotation: ref}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "main"}}},
	})
}

// distributedTo returns an APIResource's bundle in a namespace, nil if there is none.
func distributedTo(t *testing.T, namespace string, api *v1alpha1.APIResource) *corev1.ConfigMap {
	t.Helper()
	var m corev1.ConfigMap
	err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}, &m)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

// laterThan waits until a new object would get a later creation time, which has second
// precision.
func laterThan(t *testing.T, o client.Object) {
	t.Helper()
	operator.Eventually(t, func() error {
		if !time.Now().After(o.GetCreationTimestamp().Add(time.Second)) {
			return fmt.Errorf("it is still the same second")
		}
		return nil
	})
}

// getsNothing checks that a client is refused for a reason, without a token request.
func getsNothing(t *testing.T, c *v1alpha1.M2MClient, conditionType, reason string) metav1.Condition {
	t.Helper()
	condition := operator.HasCondition(t, c, conditionType, metav1.ConditionFalse, reason)
	operator.ComesToRest(t, c)
	operator.HasCondition(t, c, v1alpha1.ConditionReady, metav1.ConditionFalse, reason)
	if keys := operator.KeysIn(t, c); len(keys) > 0 {
		t.Errorf("it has a Secret with the keys %v", keys)
	}
	return condition
}

// TestIdentifierHasOneOwner declares an API again in another namespace, which wants to
// grant itself the API's scopes and to distribute its own bundle.
func TestIdentifierHasOneOwner(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, api)
	evil := newAttacker(w)
	server := w.Server(evil.namespace)
	claim := evil.api(w)
	operator.Create(t, server, claim, evil.cart)
	ref := evil.namespace + "/payment-api"
	verifyingPod(t, w.Shop, "verifies-evil", ref)
	verifyingPod(t, w.Shop, "verifies", w.Payments+"/payment-api")

	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	c := operator.HasCondition(t, claim, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	if strings.Contains(c.Message, w.Payments) {
		t.Errorf("the message names another team's namespace: %q", c.Message)
	}
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)
	operator.IsReady(t, api)
	operator.IsReady(t, cart)
	operator.Eventually(t, func() error {
		if distributedTo(t, w.Shop, api) == nil {
			return fmt.Errorf("the older one has no bundle")
		}
		return nil
	})
	if distributedTo(t, w.Shop, claim) != nil {
		t.Error("the younger one has a bundle")
	}
	if n := w.RequestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}

	// A change does not make the younger one older.
	operator.Change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "mine" })
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)

	operator.Remove(t, api)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	operator.IsReady(t, evil.cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotFound)
	operator.Eventually(t, func() error {
		if distributedTo(t, w.Shop, claim) == nil {
			return fmt.Errorf("the remaining one has no bundle")
		}
		return nil
	})
}

// TestClaimsMoveWithTheServer moves an APIResource that was accepted at another issuer to
// the issuer where its identifier is taken. Its condition still says that it
// is accepted; the operator must not request a token because of it.
func TestClaimsMoveWithTheServer(t *testing.T) {
	w := operator.NewWorld(t)
	api, _ := w.Story()
	evil := newAttacker(w)
	elsewhere, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(elsewhere.Close)
	own := w.Server(evil.namespace)
	own.Name, own.Spec.Issuer = "own", elsewhere.Issuer()
	laterThan(t, api)
	claim := evil.api(w)
	claim.Spec.AuthorizationServerRef.Name = "own"
	operator.Create(t, own, w.Server(evil.namespace), claim, evil.cart)

	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop, evil.namespace)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	operator.HasCondition(t, evil.cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIssuerMismatch)

	operator.Change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "auth" })
	op.CatchUp(evil.namespace)
	// The client exists before the APIResource.
	if err := op.ReconcileClient(evil.cart); err != nil {
		t.Fatal(err)
	}
	operator.HasCondition(t, evil.cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotAccepted)
	op.Settle(w.Payments, w.Shop, evil.namespace)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	if n := w.RequestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}
}

// clusterServerOf returns a ClusterAuthorizationServer for the world's server. It is
// deleted when the test ends.
func clusterServerOf(w *operator.World, t *testing.T, spec v1alpha1.ClusterAuthorizationServerSpec) *v1alpha1.ClusterAuthorizationServer {
	t.Helper()
	spec.Issuer = w.AS.Issuer()
	cas := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "auth-" + w.Shop}, Spec: spec}
	operator.Create(t, cas)
	t.Cleanup(func() {
		// The next test may have an issuer at the same port.
		if err := client.IgnoreNotFound(operator.Kube.Delete(context.Background(), cas)); err != nil {
			t.Error(err)
		}
	})
	return cas
}

func refTo(cas *v1alpha1.ClusterAuthorizationServer) v1alpha1.AuthorizationServerReference {
	return v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cas.Name)}
}

// TestClusterServerServesAllowedNamespaces uses a ClusterAuthorizationServer in a
// namespace that it does not allow, for a client and for an API.
func TestClusterServerServesAllowedNamespaces(t *testing.T) {
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	cas := clusterServerOf(w, t, v1alpha1.ClusterAuthorizationServerSpec{AllowedNamespaces: v1alpha1.NamespaceSelection{
		Names: operator.NamesOf(w.Payments).Names, Selector: operator.Labelled("m2m", w.Shop).Selector,
	}})
	operator.WithLabels(t, w.Shop, map[string]string{"m2m": w.Shop})
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	api, cart, claim := w.API(), w.Cart(), evil.api(w)
	claim.Spec.Identifier = operator.OrdersAPI
	api.Spec.AuthorizationServerRef, cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	claim.Spec.AuthorizationServerRef, evil.cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	operator.Create(t, w.Secret("cart-credentials", operator.CartID, secret), api, cart, claim, evil.cart)
	operator.Start(t)

	operator.IsReady(t, api)
	operator.IsReady(t, cart)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if n := w.RequestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}

	// A client of an allowed namespace gets nothing for the API of a namespace that is
	// not allowed.
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].APIResourceRef.Namespace = v1alpha1.NamespaceName(evil.namespace)
	})
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotAccepted)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != "" {
		t.Error("the token for the former API is still there")
	}

	// A change of the label takes effect at once.
	operator.WithLabels(t, evil.namespace, map[string]string{"m2m": w.Shop})
	operator.IsReady(t, claim)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].APIResourceRef.Namespace = v1alpha1.NamespaceName(w.Payments)
	})
	operator.IsReady(t, cart)
	operator.WithLabels(t, w.Shop, nil)
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != "" {
		t.Error("the token is still there, but the server no longer allows the namespace")
	}
}

// TestIdentifierClaims declares APIs in a namespace for which the platform did not reserve
// them: at the ClusterAuthorizationServer, and at an AuthorizationServer of its own
// for the same issuer, before the owner does.
func TestIdentifierClaims(t *testing.T) {
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	cas := clusterServerOf(w, t, v1alpha1.ClusterAuthorizationServerSpec{
		AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
		IdentifierClaims: []v1alpha1.IdentifierClaim{
			{Namespaces: operator.NamesOf(w.Payments), Prefixes: []string{"https://payment.example.com/"}},
			{Namespaces: operator.NamesOf(evil.namespace), Prefixes: []string{"https://evil.example.com/"}},
		},
	})
	declare := func(name, identifier string, ref v1alpha1.AuthorizationServerReference) *v1alpha1.APIResource {
		api := evil.api(w)
		api.Name, api.Spec.Identifier, api.Spec.AuthorizationServerRef = name, v1alpha1.ResourceIdentifier(identifier), ref
		operator.Create(t, api)
		return api
	}
	own := v1alpha1.AuthorizationServerReference{Name: "auth"}
	operator.Create(t, w.Server(evil.namespace))
	refused := []*v1alpha1.APIResource{
		declare("payment-api", operator.PaymentAPI, refTo(cas)),
		declare("own-server", operator.PaymentAPI, own),
		declare("no-prefix", "https://payment.example.com", own),
		declare("nobodys", "https://nobody.example.com/", refTo(cas)),
		declare("longer-host", "https://evil.example.com.example.org/", refTo(cas)),
	}
	accepted := []*v1alpha1.APIResource{
		declare("mine", "https://evil.example.com/api", refTo(cas)),
		declare("mine-too", "https://evil.example.com/other", own),
	}
	evil.cart.Spec.AuthorizationServerRef = own
	evil.cart.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "own-server"}, Scopes: []v1alpha1.ScopeName{"payments:write"}}}
	laterThan(t, refused[len(refused)-1])
	api := w.API()
	api.Spec.AuthorizationServerRef = refTo(cas)
	operator.Create(t, evil.cart, api)
	operator.Start(t)

	operator.IsReady(t, api)
	for _, a := range accepted {
		operator.HasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	}
	for _, a := range refused {
		c := operator.HasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
		if !strings.Contains(c.Message, cas.Name) {
			t.Errorf("the message of %s is %q", a.Name, c.Message)
		}
	}
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)

	// Without the claims, the current owner keeps it, although others came first.
	claims := cas.Spec.IdentifierClaims
	operator.Change(t, cas, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.IdentifierClaims = nil })
	for _, a := range refused[:2] {
		operator.HasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	}
	operator.IsReady(t, api)
	operator.Change(t, cas, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.IdentifierClaims = claims })
	operator.HasCondition(t, api, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)
}

// TestCredentialsGoToTheClientsServerOnly attacks as the API's team: it names the same issuer
// in its own AuthorizationServer, but its own token endpoint, to collect the secrets of its
// clients.
func TestCredentialsGoToTheClientsServerOnly(t *testing.T) {
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	trap := w.Server(w.Payments)
	trap.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(evil.as.TokenURL()), JWKS: v1alpha1.EndpointURL(evil.as.JWKSURL()),
	}
	cart := w.Cart()
	operator.Create(t, trap, w.Server(w.Shop), w.API(), w.Secret("cart-credentials", operator.CartID, secret), cart)
	operator.Start(t)

	// The API would verify with the attacker's keys, so it gets no token.
	c := operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, "UnknownKey")
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
	if strings.Contains(c.Message, evil.as.TokenURL()) {
		t.Errorf("the message is %q", c.Message)
	}
	operator.ComesToRest(t, cart)
	evil.received(t, 0)
	if operator.TokensOf(t, cart) != nil {
		t.Error("a token was published that the API refuses")
	}
	if n := w.RequestsOf(operator.CartID); n == 0 {
		t.Error("the client's own server was not asked")
	}

	// With the right keys the API is served, and its token endpoint still gets no
	// request.
	operator.Change(t, trap, func(s *v1alpha1.AuthorizationServer) { s.Spec.Endpoints.JWKS = v1alpha1.EndpointURL(w.AS.JWKSURL()) })
	operator.IsReady(t, cart)
	evil.received(t, 0)

	// A different issuer is never an issuer of this API.
	operator.Remove(t, trap)
	trap = w.Server(w.Payments)
	other, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	trap.Spec.Issuer = other.Issuer()
	operator.Create(t, trap)
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIssuerMismatch)
	operator.ComesToRest(t, cart)
	if s := operator.TokensOf(t, cart); s != nil && len(s.Data) > 0 {
		t.Errorf("the token was not withdrawn: %v", operator.KeysIn(t, cart))
	}
	if n := other.Count(oidc.Token); n != 0 {
		t.Errorf("%d token requests reached the other issuer", n)
	}
	evil.received(t, 0)
}

// TestReferencesStayInTheNamespace creates a client that names objects which exist only in
// another namespace.
func TestReferencesStayInTheNamespace(t *testing.T) {
	w := operator.NewWorld(t)
	w.Story() // everything is in w.shop, under the very names
	evil := newAttacker(w)
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: evil.namespace, Name: "cart-credentials"}})
	api := evil.api(w)
	api.Spec.Identifier = operator.OrdersAPI
	operator.Create(t, api, evil.cart)
	operator.Start(t)

	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonAuthorizationServerNotFound)
	operator.HasCondition(t, api, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotFound)
	server := w.Server(evil.namespace)
	server.Spec.Endpoints.Token = v1alpha1.EndpointURL(evil.as.TokenURL())
	operator.Create(t, server)
	c := getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonCredentialsNotFound)
	if c.Message != `Secret "cart-credentials" does not exist` {
		t.Errorf("the message is %q", c.Message)
	}
	evil.received(t, 0)

	// The same holds for a ServiceAccount and for the certificates of a server.
	operator.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-account"}})
	operator.Change(t, evil.cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Credentials = v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart-account"}}
	})
	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonCredentialsNotFound)
	operator.Change(t, server, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.CABundle.SecretRef = v1alpha1.SecretKeyReference{Name: "cart-credentials", Key: v1alpha1.ClientSecretKey}
	})
	operator.HasCondition(t, server, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonCABundleInvalid)
	evil.received(t, 0)
}

// TestPlainResourceIsNobodys claims, in another namespace, the identifier that a client
// names without an APIResource. The client loses nothing: its own credentials decide.
func TestPlainResourceIsNobodys(t *testing.T) {
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	cart := w.Cart()
	cart.Spec.Access = []v1alpha1.Access{{Resource: operator.PaymentAPI, Key: "payment", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
	operator.Create(t, w.Server(w.Shop), w.Secret("cart-credentials", operator.CartID, secret), w.Server(evil.namespace), evil.api(w), cart)
	operator.Start(t)
	operator.IsReady(t, cart)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment") == "" {
		t.Error("there is no token")
	}
	evil.received(t, 0)
}

// TestBundleOfAPIThatIsNotAccepted creates a pod in another namespace that requests the
// bundle of an API that is not accepted, by three spellings of its name.
func TestBundleOfAPIThatIsNotAccepted(t *testing.T) {
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	claim := evil.api(w)
	operator.Create(t, claim) // its server does not exist
	verifyingPod(t, w.Shop, "full", evil.namespace+"/payment-api")
	verifyingPod(t, evil.namespace, "short", "payment-api")
	verifyingPod(t, evil.namespace, "path", "../"+w.Shop+"/payment-api, "+w.Shop+"/../payment-api,/payment-api,"+evil.namespace+"/payment-api/x")
	operator.Start(t)
	operator.HasCondition(t, claim, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotFound)
	c := operator.HasCondition(t, claim, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonNotAccepted)
	if c.Message == "" || ptr.Deref(claim.Status.Bundle.Namespaces, -1) != 0 {
		t.Errorf("the status counts %v namespaces", claim.Status.Bundle.Namespaces)
	}
	// Its deletion and return come last in the operator's queue.
	operator.Create(t, w.Server(evil.namespace))
	operator.IsReady(t, claim)
	for _, ns := range []string{w.Shop, evil.namespace} {
		operator.Eventually(t, func() error {
			if distributedTo(t, ns, claim) == nil {
				return fmt.Errorf("there is no bundle in %s", ns)
			}
			return nil
		})
	}
	var all corev1.ConfigMapList
	err := operator.Kube.List(t.Context(), &all, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}, client.InNamespace(evil.namespace))
	if err != nil || len(all.Items) != 1 {
		t.Errorf("%d bundles in the attacker's namespace, %v", len(all.Items), err)
	}
}
