// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/recipients"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// What is somebody else's decides nothing about an owner: these are attacks on
// the conditions of an API's owner and on the tokens of his clients.

// TestANamespaceThatIsNotAllowedClaimsNothing: the platform's server of an issuer
// says which namespaces may use it. Another one makes a server of its own with
// that issuer, takes the identifier first, and lies in wait for the owner's
// APIResource to be made again.
func TestANamespaceThatIsNotAllowedClaimsNothing(t *testing.T) {
	op := startStepped(t)
	w := newWorld(t)
	evil := w.attacker()
	cas := w.clusterServer(t, v1alpha1.ClusterAuthorizationServerSpec{AllowedNamespaces: namesOf(w.payments, w.shop)})
	claim := evil.api(w)
	create(t, w.server(evil.namespace), claim, evil.cart)
	laterThan(t, claim)
	secret := newSecret()
	w.setClient(cartID, secret)
	api, cart := w.api(), w.cart()
	api.Spec.AuthorizationServerRef, cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	create(t, w.secret("cart-credentials", cartID, secret), api, cart)
	all := []string{w.payments, w.shop, evil.namespace}

	op.settle(all...)
	isReady(t, api)
	isReady(t, cart)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
	getsNothingNow(t, evil.cart)

	remove(t, api)
	op.settle(all...)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
	api = w.api()
	api.Spec.AuthorizationServerRef = refTo(cas)
	create(t, api)
	op.settle(all...)
	isReady(t, api)
	isReady(t, cart)
	getsNothingNow(t, evil.cart)

	// Spelled otherwise it is the same server.
	shouted := w.server(evil.namespace)
	shouted.Name, shouted.Spec.Issuer = "shouted", shout(w.as.Issuer())
	shouted.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(w.as.TokenURL()), JWKS: v1alpha1.EndpointURL(w.as.JWKSURL()),
	}
	create(t, shouted)
	change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "shouted" })
	op.settle(all...)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
}

// shout spells an issuer with another scheme and host that mean the same.
func shout(issuer string) string {
	const scheme = "http://127.0.0.1"
	if len(issuer) < len(scheme) || issuer[:len(scheme)] != scheme {
		return issuer + "/."
	}
	return scheme + "." + issuer[len(scheme):]
}

// TestAClaimThatIsHeldStays has an older APIResource turn to an issuer where its
// identifier is another's already, by pointing it at another server. It gets
// nothing, and takes nothing away, whatever the owner does meanwhile.
func TestAClaimThatIsHeldStays(t *testing.T) {
	op := startStepped(t)
	w := newWorld(t)
	evil := w.attacker()
	own := w.server(evil.namespace)
	own.Name, own.Spec.Issuer = "own", w.as.Issuer()+"/own"
	claim := evil.api(w)
	claim.Spec.AuthorizationServerRef.Name = "own"
	create(t, own, w.server(evil.namespace), claim, evil.cart)
	laterThan(t, claim)
	api, cart := w.story()
	all := []string{w.payments, w.shop, evil.namespace}
	op.settle(all...)
	hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	isReady(t, cart)
	token := tokenIn(t, w.shop, "cart-token", "payment-api")

	stays := func(what string) {
		t.Helper()
		op.settle(all...)
		hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
		isReady(t, cart)
		if tokenIn(t, w.shop, "cart-token", "payment-api") != token {
			t.Errorf("%s: the token of the owner's client is another one or gone", what)
		}
		getsNothingNow(t, evil.cart)
	}
	change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "auth" })
	op.catchUp(all...)
	for _, c := range []*v1alpha1.M2MClient{cart, evil.cart} { // before either APIResource is looked at
		if err := op.reconcileClient(c); err != nil {
			t.Fatal(err)
		}
	}
	stays("the older one is pointed at the issuer")
	change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "changed" })
	op.catchUp(all...)
	if err := op.reconcileClient(evil.cart); err != nil { // the owner's new generation is not judged yet
		t.Fatal(err)
	}
	stays("the owner changes his APIResource")

	// That the owner's server is gone may be a slip.
	remove(t, w.server(w.payments))
	stays("the owner's server is gone")
	create(t, w.server(w.payments))
	stays("the owner's server is back")
	isReady(t, api)
}

// getsNothingNow fails if a client has a token at this moment.
func getsNothingNow(t *testing.T, c *v1alpha1.M2MClient) {
	t.Helper()
	if keys := keysIn(t, c); len(keys) > 0 {
		t.Errorf("client %s/%s has a Secret with the keys %v", c.Namespace, c.Name, keys)
	}
}

// TestAGrantThatGoesDuringARequest withdraws a client's grants while the server
// takes its time with the first of its requests. No other request is sent, and
// what the server answers is not published for a moment.
func TestAGrantThatGoesDuringARequest(t *testing.T) {
	for name, tc := range map[string]struct {
		withdraw func(*testing.T, *v1alpha1.APIResource)
		want     string
	}{
		"the grant": {func(t *testing.T, api *v1alpha1.APIResource) {
			change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
		}, v1alpha1.ReasonNotGranted},
		"the scope": {func(t *testing.T, api *v1alpha1.APIResource) {
			change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}, v1alpha1.ReasonScopeNotGranted},
		"the API": {func(t *testing.T, api *v1alpha1.APIResource) { remove(t, api) }, v1alpha1.ReasonAPIResourceNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t)
			w := newWorld(t)
			api, cart := w.story()
			w.alsoKnows(ordersAPI)
			orders := w.api()
			orders.Name, orders.Spec.Identifier = "orders-api", ordersAPI
			create(t, orders)
			change(t, cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
					APIResourceRef: v1alpha1.APIResourceReference{Name: "orders-api", Namespace: v1alpha1.NamespaceName(w.payments)},
					Scopes:         []v1alpha1.ScopeName{"payments:write"},
				})
			})
			op.catchUp(w.payments, w.shop)
			for _, s := range []string{w.payments, w.shop} {
				if _, err := op.server[0].Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: s, Name: "auth"}}); err != nil {
					t.Fatal(err)
				}
			}
			op.catchUp(w.payments, w.shop)
			w.as.AddFault(oidc.Token, &oidc.Fault{Times: 1, Match: duringTheFirst(func() {
				tc.withdraw(t, api)
				tc.withdraw(t, orders)
				op.catchUp(w.payments, w.shop)
			})})

			if err := op.reconcileClient(cart); err != nil {
				t.Fatal(err)
			}
			if n := len(w.as.TokenRequests()); n != 1 {
				t.Errorf("%d token requests were sent, want the one that was under way", n)
			}
			for _, wrote := range op.requests.writes() {
				if strings.Contains(wrote, " secrets") {
					t.Errorf("a Secret was written: %s", wrote)
				}
			}
			op.settle(w.payments, w.shop)
			hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			getsNothingNow(t, cart)
			if n := len(w.as.TokenRequests()); n != 1 {
				t.Errorf("%d token requests were sent in the end, want 1", n)
			}
		})
	}
}

// duringTheFirst makes a fault's Match of what happens during the first request.
func duringTheFirst(during func()) func(*http.Request) bool {
	once := sync.OnceFunc(during)
	return func(*http.Request) bool { once(); return false }
}

// bundleOfAnother creates a ConfigMap that looks like a bundle of the stage's API
// whose contents are not what the API's pods need.
func (s *stage) bundleOfAnother(namespace, name string) {
	s.t.Helper()
	create(s.t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
		Annotations: map[string]string{
			v1alpha1.APIResourceAnnotation: s.payments + "/payment-api",
			v1alpha1.ContentsAnnotation:    `{"terms":"forged","keys":{}}`,
		},
	}})
}

// TestOtherNamespacesDelayNoToken has another namespace do what it can to hold
// back the tokens of an API's clients when the server signs with a new key. Only
// the API's own namespace, and those that its owner names, are waited for.
func TestOtherNamespacesDelayNoToken(t *testing.T) {
	op := startStepped(t)
	for name, tc := range map[string]struct {
		hinder func(s *stage, evil string)
		named  bool // the API's owner names the namespace
		brief  bool // it delays the token for a moment
		held   bool
	}{
		"a labelled ConfigMap of any name, with forged contents": {hinder: func(s *stage, evil string) { s.bundleOfAnother(evil, "forged") }},
		"a labelled ConfigMap of the bundle's name, and no pod": {hinder: func(s *stage, evil string) {
			s.bundleOfAnother(evil, render.ConfigMapName(s.payments, "payment-api"))
		}},
		"a labelled ConfigMap of any name in the API's own namespace": {hinder: func(s *stage, _ string) {
			paymentPod(s, false)
			s.settle()
			op.advance(2 * delivery.KubeletDelay)
			s.bundleOfAnother(s.payments, "forged")
		}, held: true}, // for its pod alone, and no longer than that takes
		"a pod that verifies and that nobody touches": {hinder: func(s *stage, evil string) {
			create(s.t, annotatedPod(evil, "x", v1alpha1.VerifyAnnotation, s.payments+"/payment-api"))
		}, brief: true},
		"a pod that verifies, in a namespace that the owner names": {hinder: func(s *stage, evil string) {
			create(s.t, annotatedPod(evil, "x", v1alpha1.VerifyAnnotation, s.payments+"/payment-api"))
		}, named: true, held: true},
		"a ConfigMap of any name, in a namespace that the owner names": {hinder: func(s *stage, evil string) { s.bundleOfAnother(evil, "forged") }, named: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			evil := newNamespace(t, "evil", nil)
			if tc.named {
				change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Verification.Namespaces = namesOf(evil) })
			}
			tc.hinder(s, evil)
			op.settle(s.payments, s.shop, evil)
			s.due()
			if _, err := s.as.RotateKey(); err != nil {
				t.Fatal(err)
			}
			s.as.ResetRequests()
			op.settle(s.payments, s.shop, evil)
			if tc.brief {
				s.isHeld()
				op.advance(recipients.Patience)
				op.settle(s.payments, s.shop, evil)
			}
			if !tc.held {
				s.isPublished()
				return
			}
			s.isHeld()
			op.advance(delivery.KubeletDelay)
			op.settle(s.payments, s.shop, evil)
			s.isPublished()
		})
	}
}

// TestAMomentThatLiesAheadDelaysNoToken: nobody but the operator says since when
// a key is in a bundle, and it never says tomorrow.
func TestAMomentThatLiesAheadDelaysNoToken(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	paymentPod(s, false)
	s.settle()
	op.advance(2 * delivery.KubeletDelay)
	s.settle()
	bundle := bundleIn(t, s.payments, s.api)
	change(t, bundle, func(m *corev1.ConfigMap) {
		var c render.Contents
		if err := json.Unmarshal([]byte(m.Annotations[v1alpha1.ContentsAnnotation]), &c); err != nil {
			t.Fatal(err)
		}
		c.TermsSince = op.clock.Now().Add(24 * time.Hour)
		encoded, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		m.Annotations[v1alpha1.ContentsAnnotation] = string(encoded)
	})
	s.due()
	s.as.ResetRequests()
	old := s.token()
	s.settle()
	if s.token() == old || s.as.Count(oidc.Token) != 1 {
		t.Error("the token waits for a moment that the operator did not write")
	}
}

// TestOtherNamespacesLeaveAnAPIReady has another namespace keep the bundle out:
// by a ConfigMap of its name, and by a policy. The owner's conditions do not
// change, and it is told where it happens.
func TestOtherNamespacesLeaveAnAPIReady(t *testing.T) {
	op := startStepped(t)
	events := noteEvents(op)
	w := newWorld(t)
	api, cart := w.story()
	paymentPod(&stage{world: w, op: op}, false)
	op.settle(w.payments, w.shop)
	isReady(t, api)
	transition := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime
	name := render.ConfigMapName(w.payments, "payment-api")

	evil, strict := newNamespace(t, "evil", nil), newNamespace(t, "strict", nil)
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: evil, Name: name}, Data: map[string]string{"jwks.json": "{}"}})
	lift := refuse(t, strict, "configmaps", "m2m-verify", "'not here'")
	for _, ns := range []string{evil, strict} {
		create(t, annotatedPod(ns, "gateway", v1alpha1.VerifyAnnotation, w.payments+"/payment-api"))
	}
	all := []string{w.payments, w.shop, evil, strict}
	rounds := func() { // it does not come to rest: what is refused is tried again in each round
		t.Helper()
		for range 3 {
			op.catchUp(all...)
			op.round(all...)
		}
	}
	undelivered := func(want int32) {
		t.Helper()
		rounds()
		isReady(t, api)
		hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
		if got := api.Status.Bundle.Undelivered; got != want {
			t.Errorf("the status says that %d namespaces lack the bundle, want %d", got, want)
		}
		if now := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime; !now.Equal(&transition) {
			t.Error("the condition Ready has changed")
		}
		isReady(t, cart)
	}
	op.catchUp(all...)
	op.advance(time.Minute) // the pods are old enough to be told
	undelivered(2)

	notes := events.take()
	for _, want := range []string{
		fmt.Sprintf("gateway: VerificationNotReady: ConfigMap %q exists and is not the operator's", name),
		fmt.Sprintf("gateway: VerificationNotReady: Waiting for ConfigMap %q: the API server refuses it in namespace %q: ", name, strict),
	} {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, want) }) {
			t.Errorf("the pods there were told %q, want %q", notes, want)
		}
	}
	eventually(t, func() error {
		var list eventsv1.EventList
		if err := kube.List(t.Context(), &list, client.InNamespace(strict)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == v1alpha1.ReasonBundleRefused && e.Regarding.Name == name && strings.Contains(e.Note, "not here") {
				return nil
			}
		}
		return fmt.Errorf("no event in the namespace of the policy says so: %d events", len(list.Items))
	})
	lift()
	op.advance(write.RefusalWait)
	undelivered(1)
	remove(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: evil, Name: name}})
	undelivered(0)

	// In the API's own namespace it counts.
	remove(t, bundleIn(t, w.payments, api))
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.payments, Name: name}})
	rounds()
	hasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
	if got := api.Status.Bundle.Undelivered; got != 0 {
		t.Errorf("the API's own namespace is counted among the others: %d", got)
	}
}
