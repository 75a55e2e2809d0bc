// SPDX-License-Identifier: Apache-2.0

package controller_test

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
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// Objects of others decide nothing about an owner. These tests attack the conditions
// of an API's owner and the tokens of his clients.

// TestANamespaceThatIsNotAllowedClaimsNothing: the platform's server says which
// namespaces may use an issuer. Another namespace creates its own server with that
// issuer, takes the identifier first, and waits until the owner's APIResource is
// created again.
func TestANamespaceThatIsNotAllowedClaimsNothing(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	cas := clusterServerOf(w, t, v1alpha1.ClusterAuthorizationServerSpec{AllowedNamespaces: operator.NamesOf(w.Payments, w.Shop)})
	claim := evil.api(w)
	operator.Create(t, w.Server(evil.namespace), claim, evil.cart)
	laterThan(t, claim)
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	api, cart := w.API(), w.Cart()
	api.Spec.AuthorizationServerRef, cart.Spec.AuthorizationServerRef = refTo(cas), refTo(cas)
	operator.Create(t, w.Secret("cart-credentials", operator.CartID, secret), api, cart)
	all := []string{w.Payments, w.Shop, evil.namespace}

	op.Settle(all...)
	operator.IsReady(t, api)
	operator.IsReady(t, cart)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
	getsNothingNow(t, evil.cart)

	operator.Remove(t, api)
	op.Settle(all...)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
	api = w.API()
	api.Spec.AuthorizationServerRef = refTo(cas)
	operator.Create(t, api)
	op.Settle(all...)
	operator.IsReady(t, api)
	operator.IsReady(t, cart)
	getsNothingNow(t, evil.cart)

	// The same server, spelled differently.
	shouted := w.Server(evil.namespace)
	shouted.Name, shouted.Spec.Issuer = "shouted", shout(w.AS.Issuer())
	shouted.Spec.Endpoints = v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(w.AS.TokenURL()), JWKS: v1alpha1.EndpointURL(w.AS.JWKSURL()),
	}
	operator.Create(t, shouted)
	operator.Change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "shouted" })
	op.Settle(all...)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierNotAllowed)
}

// shout spells an issuer with another scheme and host that mean the same.
func shout(issuer string) string {
	const scheme = "http://127.0.0.1"
	if len(issuer) < len(scheme) || issuer[:len(scheme)] != scheme {
		return issuer + "/."
	}
	return scheme + "." + issuer[len(scheme):]
}

// TestAClaimThatIsHeldStays points an older APIResource at another server, at whose
// issuer another APIResource has its identifier already. The older one gets nothing
// and takes nothing away, whatever the owner does meanwhile.
func TestAClaimThatIsHeldStays(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	evil := newAttacker(w)
	own := w.Server(evil.namespace)
	own.Name, own.Spec.Issuer = "own", w.AS.Issuer()+"/own"
	claim := evil.api(w)
	claim.Spec.AuthorizationServerRef.Name = "own"
	operator.Create(t, own, w.Server(evil.namespace), claim, evil.cart)
	laterThan(t, claim)
	api, cart := w.Story()
	all := []string{w.Payments, w.Shop, evil.namespace}
	op.Settle(all...)
	operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	operator.IsReady(t, cart)
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")

	stays := func(what string) {
		t.Helper()
		op.Settle(all...)
		operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
		operator.IsReady(t, cart)
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != token {
			t.Errorf("%s: the token of the owner's client was replaced or removed", what)
		}
		getsNothingNow(t, evil.cart)
	}
	operator.Change(t, claim, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = "auth" })
	op.CatchUp(all...)
	for _, c := range []*v1alpha1.M2MClient{cart, evil.cart} { // before either APIResource is looked at
		if err := op.ReconcileClient(c); err != nil {
			t.Fatal(err)
		}
	}
	stays("the older one is pointed at the issuer")
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "changed" })
	op.CatchUp(all...)
	if err := op.ReconcileClient(evil.cart); err != nil { // the owner's new generation is not judged yet
		t.Fatal(err)
	}
	stays("the owner changes his APIResource")

	// The owner's server may be gone by mistake.
	operator.Remove(t, w.Server(w.Payments))
	stays("the owner's server is gone")
	operator.Create(t, w.Server(w.Payments))
	stays("the owner's server is back")
	operator.IsReady(t, api)
}

// getsNothingNow fails if a client has a token at this moment.
func getsNothingNow(t *testing.T, c *v1alpha1.M2MClient) {
	t.Helper()
	if keys := operator.KeysIn(t, c); len(keys) > 0 {
		t.Errorf("client %s/%s has a Secret with the keys %v", c.Namespace, c.Name, keys)
	}
}

// TestAGrantThatGoesDuringARequest withdraws a client's grants while the server is
// slow to answer the first request. The operator sends no other request, and never
// publishes the server's answer.
func TestAGrantThatGoesDuringARequest(t *testing.T) {
	for name, tc := range map[string]struct {
		withdraw func(*testing.T, *v1alpha1.APIResource)
		want     string
	}{
		"the grant": {func(t *testing.T, api *v1alpha1.APIResource) {
			operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
		}, v1alpha1.ReasonNotGranted},
		"the scope": {func(t *testing.T, api *v1alpha1.APIResource) {
			operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}, v1alpha1.ReasonScopeNotGranted},
		"the API": {func(t *testing.T, api *v1alpha1.APIResource) { operator.Remove(t, api) }, v1alpha1.ReasonAPIResourceNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t)
			w := operator.NewWorld(t)
			api, cart := w.Story()
			w.AlsoKnows(operator.OrdersAPI)
			orders := w.API()
			orders.Name, orders.Spec.Identifier = "orders-api", operator.OrdersAPI
			operator.Create(t, orders)
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
					APIResourceRef: v1alpha1.APIResourceReference{Name: "orders-api", Namespace: v1alpha1.NamespaceName(w.Payments)},
					Scopes:         []v1alpha1.ScopeName{"payments:write"},
				})
			})
			op.CatchUp(w.Payments, w.Shop)
			for _, s := range []string{w.Payments, w.Shop} {
				if _, err := op.AuthorizationServers[0].Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: s, Name: "auth"}}); err != nil {
					t.Fatal(err)
				}
			}
			op.CatchUp(w.Payments, w.Shop)
			w.AS.AddFault(oidc.Token, &oidc.Fault{Times: 1, Match: duringTheFirst(func() {
				tc.withdraw(t, api)
				tc.withdraw(t, orders)
				op.CatchUp(w.Payments, w.Shop)
			})})

			if err := op.ReconcileClient(cart); err != nil {
				t.Fatal(err)
			}
			if n := len(w.AS.TokenRequests()); n != 1 {
				t.Errorf("%d token requests were sent, want the one that was under way", n)
			}
			for _, wrote := range op.Requests.Writes() {
				if strings.Contains(wrote, " secrets") {
					t.Errorf("a Secret was written: %s", wrote)
				}
			}
			op.Settle(w.Payments, w.Shop)
			operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			getsNothingNow(t, cart)
			if n := len(w.AS.TokenRequests()); n != 1 {
				t.Errorf("%d token requests were sent in the end, want 1", n)
			}
		})
	}
}

// duringTheFirst returns a fault's Match that acts during the first request.
func duringTheFirst(during func()) func(*http.Request) bool {
	once := sync.OnceFunc(during)
	return func(*http.Request) bool { once(); return false }
}

// bundleOfAnother creates a ConfigMap that looks like a bundle of the stage's API but
// does not contain what the API's pods need.
func bundleOfAnother(s *operator.Stage, namespace, name string) {
	s.T.Helper()
	operator.Create(s.T, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
		Annotations: map[string]string{
			v1alpha1.APIResourceAnnotation: s.Payments + "/payment-api",
			v1alpha1.ContentsAnnotation:    `{"terms":"forged","keys":{}}`,
		},
	}})
}

// TestOtherNamespacesDelayNoToken rotates the signing key. Another namespace does what it
// can to hold back the tokens of an API's clients. The operator
// waits only for the API's own namespace and those that its owner names.
func TestOtherNamespacesDelayNoToken(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		hinder func(s *operator.Stage, evil string)
		named  bool // the API's owner names the namespace
		brief  bool // it delays the token for a moment
		held   bool
	}{
		"a labelled ConfigMap of any name, with forged contents": {hinder: func(s *operator.Stage, evil string) { bundleOfAnother(s, evil, "forged") }},
		"a labelled ConfigMap of the bundle's name, and no pod": {hinder: func(s *operator.Stage, evil string) {
			bundleOfAnother(s, evil, render.ConfigMapName(s.Payments, "payment-api"))
		}},
		"a labelled ConfigMap of any name in the API's own namespace": {hinder: func(s *operator.Stage, _ string) {
			operator.PaymentPod(s, false)
			s.Settle()
			op.Advance(2 * delivery.KubeletDelay)
			bundleOfAnother(s, s.Payments, "forged")
		}, held: true}, // only for its own pod, and no longer than that pod takes
		"a pod that verifies and is never touched": {hinder: func(s *operator.Stage, evil string) {
			operator.Create(s.T, operator.AnnotatedPod(evil, "x", v1alpha1.VerifyAnnotation, s.Payments+"/payment-api"))
		}, brief: true},
		"a pod that verifies, in a namespace that the owner names": {hinder: func(s *operator.Stage, evil string) {
			operator.Create(s.T, operator.AnnotatedPod(evil, "x", v1alpha1.VerifyAnnotation, s.Payments+"/payment-api"))
		}, named: true, held: true},
		"a ConfigMap of any name, in a namespace that the owner names": {hinder: func(s *operator.Stage, evil string) { bundleOfAnother(s, evil, "forged") }, named: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			evil := operator.NewNamespace(t, "evil", nil)
			if tc.named {
				operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.Namespaces = operator.NamesOf(evil) })
			}
			tc.hinder(s, evil)
			op.Settle(s.Payments, s.Shop, evil)
			s.Due()
			if _, err := s.AS.RotateKey(); err != nil {
				t.Fatal(err)
			}
			s.AS.ResetRequests()
			op.Settle(s.Payments, s.Shop, evil)
			if tc.brief {
				s.IsHeld()
				op.Advance(recipients.Patience)
				op.Settle(s.Payments, s.Shop, evil)
			}
			if !tc.held {
				s.IsPublished()
				return
			}
			s.IsHeld()
			op.Advance(delivery.KubeletDelay)
			op.Settle(s.Payments, s.Shop, evil)
			s.IsPublished()
		})
	}
}

// TestAMomentThatLiesAheadDelaysNoToken: only the operator says since when a bundle
// has had a key, and it never names a time in the future.
func TestAMomentThatLiesAheadDelaysNoToken(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	operator.PaymentPod(s, false)
	s.Settle()
	op.Advance(2 * delivery.KubeletDelay)
	s.Settle()
	bundle := operator.BundleIn(t, s.Payments, s.API)
	operator.Change(t, bundle, func(m *corev1.ConfigMap) {
		var c render.Contents
		if err := json.Unmarshal([]byte(m.Annotations[v1alpha1.ContentsAnnotation]), &c); err != nil {
			t.Fatal(err)
		}
		c.TermsSince = op.Clock.Now().Add(24 * time.Hour)
		encoded, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		m.Annotations[v1alpha1.ContentsAnnotation] = string(encoded)
	})
	s.Due()
	s.AS.ResetRequests()
	old := s.Token()
	s.Settle()
	if s.Token() == old || s.AS.Count(oidc.Token) != 1 {
		t.Error("the token waits for a time that the operator did not write")
	}
}

// TestOtherNamespacesLeaveAnAPIReady blocks the bundle in another namespace, by a
// ConfigMap of the same name and by a policy. The owner's conditions stay, and events
// report the problem where it occurs.
func TestOtherNamespacesLeaveAnAPIReady(t *testing.T) {
	op := operator.StartStepped(t)
	events := operator.NoteEvents(op)
	w := operator.NewWorld(t)
	api, cart := w.Story()
	operator.PaymentPod(&operator.Stage{World: w, Op: op}, false)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, api)
	transition := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime
	name := render.ConfigMapName(w.Payments, "payment-api")

	evil, strict := operator.NewNamespace(t, "evil", nil), operator.NewNamespace(t, "strict", nil)
	operator.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: evil, Name: name}, Data: map[string]string{"jwks.json": "{}"}})
	lift := operator.Refuse(t, strict, "configmaps", "m2m-verify", "'not here'")
	for _, ns := range []string{evil, strict} {
		operator.Create(t, operator.AnnotatedPod(ns, "gateway", v1alpha1.VerifyAnnotation, w.Payments+"/payment-api"))
	}
	all := []string{w.Payments, w.Shop, evil, strict}
	rounds := func() { // it never settles: each round tries again what was refused
		t.Helper()
		for range 3 {
			op.CatchUp(all...)
			op.Round(all...)
		}
	}
	undelivered := func(want int32) {
		t.Helper()
		rounds()
		operator.IsReady(t, api)
		operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
		if got := api.Status.Bundle.Undelivered; got != want {
			t.Errorf("the status says that %d namespaces lack the bundle, want %d", got, want)
		}
		if now := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime; !now.Equal(&transition) {
			t.Error("the condition Ready has changed")
		}
		operator.IsReady(t, cart)
	}
	op.CatchUp(all...)
	op.Advance(time.Minute) // the pods are old enough to be told
	undelivered(2)

	notes := events.Take()
	for _, want := range []string{
		fmt.Sprintf("gateway: VerificationNotReady: ConfigMap %q exists and is not the operator's", name),
		fmt.Sprintf("gateway: VerificationNotReady: Waiting for ConfigMap %q: the API server refuses it in namespace %q: ", name, strict),
	} {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, want) }) {
			t.Errorf("the pods there were told %q, want %q", notes, want)
		}
	}
	operator.Eventually(t, func() error {
		var list eventsv1.EventList
		if err := operator.Kube.List(t.Context(), &list, client.InNamespace(strict)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == v1alpha1.ReasonBundleRefused && e.Regarding.Name == name && strings.Contains(e.Note, "not here") {
				return nil
			}
		}
		return fmt.Errorf("no event in the policy's namespace reports it: %d events", len(list.Items))
	})
	lift()
	op.Advance(write.RefusalWait)
	undelivered(1)
	operator.Remove(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: evil, Name: name}})
	undelivered(0)

	// A problem in the API's own namespace does count.
	operator.Remove(t, operator.BundleIn(t, w.Payments, api))
	operator.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Payments, Name: name}})
	rounds()
	operator.HasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
	if got := api.Status.Bundle.Undelivered; got != 0 {
		t.Errorf("the API's own namespace counts as another one: %d", got)
	}
}
