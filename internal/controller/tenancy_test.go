// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// attacker is a tenant with a namespace, an application and an authorization
// server of its own.
type attacker struct {
	namespace string
	as        *oidc.Server
	cart      *v1alpha1.M2MClient
}

// attacker sets the attacker up. Its authorization server claims to be the
// world's, and its client wants what the world's cart wants, from an APIResource
// of its own namespace. The server that the client is to use is created by the
// test.
func (w *world) attacker() *attacker {
	w.t.Helper()
	as, err := oidc.Start(oidc.Options{Issuer: w.as.Issuer()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(as.Close)
	a := &attacker{namespace: newNamespace(w.t, "evil", nil), as: as, cart: w.cart()}
	secret := newSecret()
	w.setClient("evil-app", secret)
	credentials := w.secret("cart-credentials", "evil-app", secret)
	credentials.Namespace, a.cart.Namespace = a.namespace, a.namespace
	a.cart.Spec.Access[0].APIResourceRef.Namespace = ""
	create(w.t, credentials)
	return a
}

// api returns the payment API as the attacker declares it.
func (a *attacker) api(w *world) *v1alpha1.APIResource {
	api := w.api()
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
	create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{v1alpha1.VerifyAnnotation: ref}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "main"}}},
	})
}

// distributedTo returns an APIResource's bundle in a namespace, nil for none.
func distributedTo(t *testing.T, namespace string, api *v1alpha1.APIResource) *corev1.ConfigMap {
	t.Helper()
	var m corev1.ConfigMap
	err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}, &m)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

// laterThan waits until the API server would give a new object a later creation
// time, which has whole seconds.
func laterThan(t *testing.T, o client.Object) {
	t.Helper()
	eventually(t, func() error {
		if !time.Now().After(o.GetCreationTimestamp().Add(time.Second)) {
			return fmt.Errorf("it is still the same second")
		}
		return nil
	})
}

// getsNothing checks that a client is not served for a reason, without a token
// request.
func getsNothing(t *testing.T, c *v1alpha1.M2MClient, conditionType, reason string) metav1.Condition {
	t.Helper()
	condition := hasCondition(t, c, conditionType, metav1.ConditionFalse, reason)
	comesToRest(t, c)
	hasCondition(t, c, v1alpha1.ConditionReady, metav1.ConditionFalse, reason)
	if keys := keysIn(t, c); len(keys) > 0 {
		t.Errorf("it has a Secret with the keys %v", keys)
	}
	return condition
}

// requestsOf returns how many token requests the world's server had from an
// application.
func (w *world) requestsOf(id string) (n int) {
	for _, r := range w.as.TokenRequests() {
		if r.ClientID == id {
			n++
		}
	}
	return n
}

// TestIdentifierHasOneOwner has another namespace declare an API that is
// declared already, to grant itself its scopes and to hand out its bundle.
func TestIdentifierHasOneOwner(t *testing.T) {
	w := newWorld(t)
	api, cart := w.story()
	startOperator(t)
	isReady(t, api)
	evil := w.attacker()
	server := w.server(evil.namespace)
	claim := evil.api(w)
	create(t, server, claim, evil.cart)
	ref := evil.namespace + "/payment-api"
	verifyingPod(t, w.shop, "verifies-evil", ref)
	verifyingPod(t, w.shop, "verifies", w.payments+"/payment-api")

	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	c := hasCondition(t, claim, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	if strings.Contains(c.Message, w.payments) {
		t.Errorf("the message names another team's namespace: %q", c.Message)
	}
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)
	isReady(t, api)
	isReady(t, cart)
	eventually(t, func() error {
		if distributedTo(t, w.shop, api) == nil {
			return fmt.Errorf("the older one has no bundle")
		}
		return nil
	})
	if distributedTo(t, w.shop, claim) != nil {
		t.Error("the younger one has a bundle")
	}
	if n := w.requestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}

	// A young one does not get older by being changed.
	change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "mine" })
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)

	remove(t, api)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	isReady(t, evil.cart)
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotFound)
	eventually(t, func() error {
		if distributedTo(t, w.shop, claim) == nil {
			return fmt.Errorf("the one that is left has no bundle")
		}
		return nil
	})
}

// TestClaimsMoveWithTheServer has an APIResource accepted at another issuer and
// then pointed at the one where its identifier is taken. Its condition still
// says that it is accepted; nothing may be asked for on that word.
func TestClaimsMoveWithTheServer(t *testing.T) {
	w := newWorld(t)
	api, _ := w.story()
	evil := w.attacker()
	elsewhere, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(elsewhere.Close)
	own := w.server(evil.namespace)
	own.Name, own.Spec.Issuer = "own", elsewhere.Issuer()
	laterThan(t, api)
	claim := evil.api(w)
	claim.Spec.AuthorizationServerRef.Name = "own"
	create(t, own, w.server(evil.namespace), claim, evil.cart)

	op := startStepped(t)
	op.settle(w.payments, w.shop, evil.namespace)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	hasCondition(t, evil.cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIssuerMismatch)

	change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "auth" })
	op.catchUp(evil.namespace)
	// The client comes before the APIResource.
	if err := op.reconcileClient(evil.cart); err != nil {
		t.Fatal(err)
	}
	hasCondition(t, evil.cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotAccepted)
	op.settle(w.payments, w.shop, evil.namespace)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	if n := w.requestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}
}

// clusterServer returns a ClusterAuthorizationServer for the world's server,
// which is deleted when the test ends.
func (w *world) clusterServer(t *testing.T, spec v1alpha1.ClusterAuthorizationServerSpec) *v1alpha1.ClusterAuthorizationServer {
	t.Helper()
	spec.Issuer = w.as.Issuer()
	cas := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "auth-" + w.shop}, Spec: spec}
	create(t, cas)
	t.Cleanup(func() {
		// The next test may have an issuer at the same port.
		if err := client.IgnoreNotFound(kube.Delete(context.Background(), cas)); err != nil {
			t.Error(err)
		}
	})
	return cas
}

func refTo(cas *v1alpha1.ClusterAuthorizationServer) v1alpha1.AuthorizationServerReference {
	return v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cas.Name)}
}

// TestClusterServerServesAllowedNamespaces has a namespace use a
// ClusterAuthorizationServer that does not allow it, for its client and for its
// API.
func TestClusterServerServesAllowedNamespaces(t *testing.T) {
	w := newWorld(t)
	evil := w.attacker()
	cas := w.clusterServer(t, v1alpha1.ClusterAuthorizationServerSpec{AllowedNamespaces: v1alpha1.NamespaceSelection{
		Names: namesOf(w.payments).Names, Selector: labelled("m2m", w.shop).Selector,
	}})
	withLabels(t, w.shop, map[string]string{"m2m": w.shop})
	secret := newSecret()
	w.setClient(cartID, secret)
	api, cart, claim := w.api(), w.cart(), evil.api(w)
	claim.Spec.Identifier = ordersAPI
	api.Spec.AuthorizationServerRef, cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	claim.Spec.AuthorizationServerRef, evil.cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	create(t, w.secret("cart-credentials", cartID, secret), api, cart, claim, evil.cart)
	startOperator(t)

	isReady(t, api)
	isReady(t, cart)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if n := w.requestsOf("evil-app"); n != 0 {
		t.Errorf("%d token requests for the attacker's client", n)
	}

	// A client of an allowed namespace gets nothing for the API of one that is
	// not.
	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].APIResourceRef.Namespace = v1alpha1.NamespaceName(evil.namespace)
	})
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotAccepted)
	if tokenIn(t, w.shop, "cart-token", "payment-api") != "" {
		t.Error("the token for the former API is still there")
	}

	// The label decides, at once.
	withLabels(t, evil.namespace, map[string]string{"m2m": w.shop})
	isReady(t, claim)
	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].APIResourceRef.Namespace = v1alpha1.NamespaceName(w.payments)
	})
	isReady(t, cart)
	withLabels(t, w.shop, nil)
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if tokenIn(t, w.shop, "cart-token", "payment-api") != "" {
		t.Error("the token of a server that does not allow the namespace any more is still there")
	}
}

// TestIdentifierClaims has a namespace declare APIs that the platform reserved
// for others: at the ClusterAuthorizationServer, and at an AuthorizationServer
// of its own for the same issuer, before the owner does.
func TestIdentifierClaims(t *testing.T) {
	w := newWorld(t)
	evil := w.attacker()
	cas := w.clusterServer(t, v1alpha1.ClusterAuthorizationServerSpec{
		AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
		IdentifierClaims: []v1alpha1.IdentifierClaim{
			{Namespaces: namesOf(w.payments), Prefixes: []string{"https://payment.example.com/"}},
			{Namespaces: namesOf(evil.namespace), Prefixes: []string{"https://evil.example.com/"}},
		},
	})
	declare := func(name, identifier string, ref v1alpha1.AuthorizationServerReference) *v1alpha1.APIResource {
		api := evil.api(w)
		api.Name, api.Spec.Identifier, api.Spec.AuthorizationServerRef = name, v1alpha1.ResourceIdentifier(identifier), ref
		create(t, api)
		return api
	}
	own := v1alpha1.AuthorizationServerReference{Name: "auth"}
	create(t, w.server(evil.namespace))
	refused := []*v1alpha1.APIResource{
		declare("payment-api", paymentAPI, refTo(cas)),
		declare("own-server", paymentAPI, own),
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
	api := w.api()
	api.Spec.AuthorizationServerRef = refTo(cas)
	create(t, evil.cart, api)
	startOperator(t)

	isReady(t, api)
	for _, a := range accepted {
		hasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	}
	for _, a := range refused {
		c := hasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
		if !strings.Contains(c.Message, cas.Name) {
			t.Errorf("the message of %s is %q", a.Name, c.Message)
		}
	}
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)

	// Without the claims whoever has it keeps it, though others came first.
	claims := cas.Spec.IdentifierClaims
	change(t, cas, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.IdentifierClaims = nil })
	for _, a := range refused[:2] {
		hasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
	}
	isReady(t, api)
	change(t, cas, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.IdentifierClaims = claims })
	hasCondition(t, api, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	getsNothing(t, evil.cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotAccepted)
}

// TestCredentialsGoToTheClientsServerOnly has the API's team point its
// AuthorizationServer, of the same issuer, at a server of theirs, to collect the
// secrets of its clients.
func TestCredentialsGoToTheClientsServerOnly(t *testing.T) {
	w := newWorld(t)
	evil := w.attacker()
	secret := newSecret()
	w.setClient(cartID, secret)
	trap := w.server(w.payments)
	trap.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(evil.as.TokenURL()), JWKS: v1alpha1.EndpointURL(evil.as.JWKSURL()),
	}
	cart := w.cart()
	create(t, trap, w.server(w.shop), w.api(), w.secret("cart-credentials", cartID, secret), cart)
	startOperator(t)

	// What the API would verify with are the attacker's keys: it gets no token.
	c := hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, "UnknownKey")
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
	if strings.Contains(c.Message, evil.as.TokenURL()) {
		t.Errorf("the message is %q", c.Message)
	}
	comesToRest(t, cart)
	evil.received(t, 0)
	if tokensOf(t, cart) != nil {
		t.Error("a token was published that the API refuses")
	}
	if n := w.requestsOf(cartID); n == 0 {
		t.Error("the client's own server was not asked")
	}

	// With the right keys the API is served, and the token endpoint still never
	// asked.
	change(t, trap, func(s *v1alpha1.AuthorizationServer) { s.Spec.Endpoints.JWKS = v1alpha1.EndpointURL(w.as.JWKSURL()) })
	isReady(t, cart)
	evil.received(t, 0)

	// Another issuer is no issuer of this API.
	remove(t, trap)
	trap = w.server(w.payments)
	other, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	trap.Spec.Issuer = other.Issuer()
	create(t, trap)
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIssuerMismatch)
	comesToRest(t, cart)
	if s := tokensOf(t, cart); s != nil && len(s.Data) > 0 {
		t.Errorf("the token was not withdrawn: %v", keysIn(t, cart))
	}
	if n := other.Count(oidc.Token); n != 0 {
		t.Errorf("%d token requests reached the other issuer", n)
	}
	evil.received(t, 0)
}

// TestReferencesStayInTheNamespace has a client name what only another
// namespace has.
func TestReferencesStayInTheNamespace(t *testing.T) {
	w := newWorld(t)
	w.story() // everything is in w.shop, under the very names
	evil := w.attacker()
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: evil.namespace, Name: "cart-credentials"}})
	api := evil.api(w)
	api.Spec.Identifier = ordersAPI
	create(t, api, evil.cart)
	startOperator(t)

	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonAuthorizationServerNotFound)
	hasCondition(t, api, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotFound)
	server := w.server(evil.namespace)
	server.Spec.Endpoints.Token = v1alpha1.EndpointURL(evil.as.TokenURL())
	create(t, server)
	c := getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonCredentialsNotFound)
	if c.Message != `Secret "cart-credentials" does not exist` {
		t.Errorf("the message is %q", c.Message)
	}
	evil.received(t, 0)

	// Nor a ServiceAccount, nor the certificates of a server.
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-account"}})
	change(t, evil.cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Credentials = v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart-account"}}
	})
	getsNothing(t, evil.cart, v1alpha1.ConditionFresh, v1alpha1.ReasonCredentialsNotFound)
	change(t, server, func(s *v1alpha1.AuthorizationServer) {
		s.Spec.CABundle.SecretRef = v1alpha1.SecretKeyReference{Name: "cart-credentials", Key: v1alpha1.ClientSecretKey}
	})
	hasCondition(t, server, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonCABundleInvalid)
	evil.received(t, 0)
}

// TestPlainResourceIsNobodys has another namespace claim the identifier that a
// client names without an APIResource: that takes nothing from the client,
// whose own credentials decide.
func TestPlainResourceIsNobodys(t *testing.T) {
	w := newWorld(t)
	evil := w.attacker()
	secret := newSecret()
	w.setClient(cartID, secret)
	cart := w.cart()
	cart.Spec.Access = []v1alpha1.Access{{Resource: paymentAPI, Key: "payment", Scopes: []v1alpha1.ScopeName{"payments:write"}}}
	create(t, w.server(w.shop), w.secret("cart-credentials", cartID, secret), w.server(evil.namespace), evil.api(w), cart)
	startOperator(t)
	isReady(t, cart)
	if tokenIn(t, w.shop, "cart-token", "payment") == "" {
		t.Error("there is no token")
	}
	evil.received(t, 0)
}

// TestBundleOfAPIThatIsNotAccepted has a pod of another namespace ask for the
// bundle of an API that is not accepted, as its name says in three ways.
func TestBundleOfAPIThatIsNotAccepted(t *testing.T) {
	w := newWorld(t)
	evil := w.attacker()
	claim := evil.api(w)
	create(t, claim) // its server does not exist
	verifyingPod(t, w.shop, "full", evil.namespace+"/payment-api")
	verifyingPod(t, evil.namespace, "short", "payment-api")
	verifyingPod(t, evil.namespace, "path", "../"+w.shop+"/payment-api, "+w.shop+"/../payment-api,/payment-api,"+evil.namespace+"/payment-api/x")
	startOperator(t)
	hasCondition(t, claim, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotFound)
	c := hasCondition(t, claim, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonNotAccepted)
	if c.Message == "" || ptr.Deref(claim.Status.Bundle.Namespaces, -1) != 0 {
		t.Errorf("the status counts %v namespaces", claim.Status.Bundle.Namespaces)
	}
	// Its going and coming back is the last of what is to be done.
	create(t, w.server(evil.namespace))
	isReady(t, claim)
	for _, ns := range []string{w.shop, evil.namespace} {
		eventually(t, func() error {
			if distributedTo(t, ns, claim) == nil {
				return fmt.Errorf("there is no bundle in %s", ns)
			}
			return nil
		})
	}
	var all corev1.ConfigMapList
	err := kube.List(t.Context(), &all, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}, client.InNamespace(evil.namespace))
	if err != nil || len(all.Items) != 1 {
		t.Errorf("%d bundles in the attacker's namespace, %v", len(all.Items), err)
	}
}
