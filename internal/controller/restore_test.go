// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// backedUp are the kinds of a backup.
var backedUp = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("Secret"), corev1.SchemeGroupVersion.WithKind("ConfigMap"), corev1.SchemeGroupVersion.WithKind("Pod"),
	v1alpha1.GroupVersion.WithKind("APIResource"), v1alpha1.GroupVersion.WithKind("AuthorizationServer"), v1alpha1.GroupVersion.WithKind("M2MClient"),
}

// backUp returns everything in namespaces, and what the operator keeps for them in
// its own.
func backUp(t *testing.T, namespaces ...string) (all []*unstructured.Unstructured) {
	t.Helper()
	for _, kind := range backedUp {
		for _, ns := range append(namespaces, operatorNamespace) {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(kind)
			if err := kube.List(t.Context(), list, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
			for i := range list.Items {
				of, _, _ := strings.Cut(list.Items[i].GetAnnotations()[v1alpha1.OwnerAnnotation], "/")
				if ns != operatorNamespace || slices.Contains(namespaces, of) {
					all = append(all, &list.Items[i])
				}
			}
		}
	}
	return all
}

// vanish deletes objects without anybody being asked.
func vanish(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		o := o.DeepCopy()
		err := kube.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		if err == nil {
			err = kube.Delete(t.Context(), o, client.GracePeriodSeconds(0))
		}
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objects {
		isGone(t, o.DeepCopy())
	}
}

// restored returns an object as Velero creates it: without its identity, its owners
// and its status.
func restored(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	metadata := o.Object["metadata"].(map[string]any)
	maps.DeleteFunc(metadata, func(field string, _ any) bool {
		return !slices.Contains([]string{"name", "namespace", "labels", "annotations", "finalizers"}, field)
	})
	delete(o.Object, "status")
	return o
}

func ofKind(objects []*unstructured.Unstructured, kinds ...string) []*unstructured.Unstructured {
	return slices.DeleteFunc(slices.Clone(objects), func(o *unstructured.Unstructured) bool { return !slices.Contains(kinds, o.GetKind()) })
}

// restore creates objects in an order of their kinds.
func restore(t *testing.T, objects []*unstructured.Unstructured, kinds ...string) {
	t.Helper()
	place := func(o *unstructured.Unstructured) int { return slices.Index(kinds, o.GetKind()) }
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return cmp.Compare(place(a), place(b)) })
	for _, o := range objects {
		if err := kube.Create(t.Context(), restored(o)); err != nil {
			t.Fatalf("restore %s %q: %v", o.GetKind(), client.ObjectKeyFromObject(o), err)
		}
	}
}

// survivor is a client with all that belongs to it, at one kind of server.
type survivor struct {
	namespaces []string
	as         client.Object
	api        *v1alpha1.APIResource
	cart       *v1alpha1.M2MClient
	requests   func() int      // token requests since the server was started
	registered func() []string // what the server knows of
}

var survivors = map[string]func(*testing.T) survivor{
	"a client with credentials of its own": func(t *testing.T) survivor {
		w := newWorld(t)
		haveOperatorNamespace(t)
		api, cart := w.story()
		return survivor{
			[]string{w.shop, w.payments}, w.server(w.payments), api, cart,
			func() int { return w.as.Count(oidc.Token) }, func() []string { return nil },
		}
	},
	"a client registered at Logto": func(t *testing.T) survivor {
		w := newTenant(t)
		as, api, cart := w.story()
		return survivor{
			[]string{w.shop, w.payments}, as, api, cart,
			func() int { return 0 }, // it does not tell these from the operator's own
			func() (all []string) {
				for _, a := range w.logto.Snapshot().Applications {
					all = append(all, fmt.Sprint(a.ID, a.Roles, a.Secrets))
				}
				return all
			},
		}
	},
	"a client registered dynamically": func(t *testing.T) survivor {
		w := newWorld(t, func(o *oidc.Options) { o.DynamicRegistration = &oidc.DynamicRegistration{} })
		t.Cleanup(func() { letGo(t, w.shop, w.payments) })
		haveOperatorNamespace(t)
		w.as.RemoveClient(cartID)
		as, api, cart := w.server(w.payments), w.api(), w.cart()
		as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
		cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
		create(t, as, api, cart)
		return survivor{
			[]string{w.shop, w.payments}, as, api, cart,
			func() int { return w.as.Count(oidc.Token) },
			func() (all []string) {
				for _, c := range w.as.RegisteredClients() {
					all = append(all, c.ID)
				}
				return all
			},
		}
	},
}

// TestRestore backs up all objects, empties the API server, and restores them
// without owners, identities and statuses. Nobody gets another token, another
// secret or another application for that.
func TestRestore(t *testing.T) {
	orders := map[string]struct {
		kinds   []string
		running bool // the operator runs meanwhile
	}{
		"as Velero does, beside the operator": {[]string{"Secret", "ConfigMap", "Pod", "APIResource", "AuthorizationServer", "M2MClient"}, true},
		"clients first and without finalizers, and then the operator": {
			[]string{"M2MClient", "APIResource", "AuthorizationServer", "Pod", "ConfigMap", "Secret"}, false},
	}
	for what, make := range survivors {
		for how, order := range orders {
			t.Run(what+", "+how, func(t *testing.T) {
				s := make(t)
				verifyingPod(t, s.namespaces[1], "verifies", client.ObjectKeyFromObject(s.api).String())
				op := startOperator(t)
				isReady(t, s.cart)
				isReady(t, s.api)
				secret, uid := tokensOf(t, s.cart), s.cart.UID
				bundle := distributedTo(t, s.namespaces[1], s.api)
				requests, registered := s.requests(), s.registered()
				op.stop()

				objects := backUp(t, s.namespaces...)
				vanish(t, objects)
				if order.running {
					startOperator(t)
				} else {
					for _, o := range objects {
						o.SetFinalizers(nil)
					}
				}
				if order.running {
					looked := reconciled(t, "m2mclient-provisioning")
					restore(t, ofKind(objects, order.kinds[:1]...))
					if s.registered() != nil {
						eventually(t, func() error {
							if reconciled(t, "m2mclient-provisioning") == looked {
								return errors.New("the operator has not looked at the credentials")
							}
							return nil
						})
					}
					order.kinds = order.kinds[1:]
				}
				restore(t, ofKind(objects, order.kinds...), order.kinds...)
				if !order.running {
					startOperator(t)
				}
				eventually(t, func() error {
					now := tokensOf(t, s.cart)
					if err := kube.Get(t.Context(), client.ObjectKeyFromObject(s.cart), s.cart); err != nil {
						return err
					}
					if now == nil || !metav1.IsControlledBy(now, s.cart) {
						return errors.New("the client has not taken over its Secret")
					}
					return nil
				})
				isReady(t, s.cart)
				hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
				isReady(t, s.api)
				isReady(t, s.as)
				if s.registered() != nil {
					provisionedIs(t, s.cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
				}
				comesToRest(t, s.cart)
				if s.cart.UID == uid {
					t.Fatal("it is not another object")
				}
				if diff := gocmp.Diff(secret.Data, tokensOf(t, s.cart).Data); diff != "" {
					t.Error("the token is another one")
				}
				if n := s.requests(); n != requests {
					t.Errorf("%d token requests were sent", n-requests)
				}
				if diff := gocmp.Diff(registered, s.registered()); diff != "" {
					t.Errorf("what the server has (-want +got):\n%s", diff)
				}
				eventually(t, func() error {
					now := distributedTo(t, s.namespaces[1], s.api)
					if now == nil {
						return errors.New("there is no bundle")
					}
					if diff := gocmp.Diff(bundle.Data, now.Data); diff != "" {
						return fmt.Errorf("the bundle (-want +got):\n%s", diff)
					}
					return nil
				})
				if s.registered() == nil {
					return
				}
				// It belongs to the operator as before.
				remove(t, s.cart)
				isGone(t, s.cart)
				eventually(t, func() error {
					if n := len(s.registered()); n != len(registered)-1 {
						return fmt.Errorf("the server has %d applications", n)
					}
					return nil
				})
			})
		}
	}
}

// TestARestoreAfterADecision: while a cluster was away, the platform took a namespace
// from a server. What its client has there goes, though no status says what that is.
func TestARestoreAfterADecision(t *testing.T) {
	w := newTenant(t)
	op := startOperator(t)
	cluster, secret := w.clusterServer(w.payments, w.shop)
	api, cart := w.api(), w.cart()
	api.Spec.AuthorizationServerRef = refTo(cluster)
	create(t, secret, cluster, api, cart)
	isReady(t, cart)
	op.stop()
	objects := backUp(t, w.shop, w.payments)
	vanish(t, objects)
	change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.AllowedNamespaces = namesOf(w.payments) })
	restore(t, objects)
	startOperator(t)
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	w.hasNoToken("cart-token")
	eventually(t, func() error {
		if n := w.applicationsOf(w.shop); n != 0 {
			return fmt.Errorf("it has %d applications", n)
		}
		return nil
	})
}

// TestIdentifiersAfterARestore: a namespace that sorts before the owner's had its
// claim refused, and comes first now. Without the status nobody has the
// identifier, and no token is lost for that; with it, the owner.
func TestIdentifiersAfterARestore(t *testing.T) {
	for name, withStatus := range map[string]bool{"with the status": true, "without the status": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			haveOperatorNamespace(t)
			api, cart := w.story()
			op := startStepped(t)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			evil := w.attacker()
			claim := evil.api(w)
			create(t, w.server(evil.namespace), claim, evil.cart)
			all := []string{w.payments, w.shop, evil.namespace}
			op.settle(all...)
			hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
			token := tokenIn(t, w.shop, "cart-token", "payment-api")
			op.stop()

			theirs, owners := backUp(t, evil.namespace), backUp(t, w.payments, w.shop)
			vanish(t, append(theirs, owners...))
			restore(t, theirs)
			laterThan(t, theirs[0])
			restore(t, owners)
			if withStatus {
				for _, o := range append(theirs, owners...) {
					putStatus(t, o)
				}
			}
			w.as.ResetRequests()
			op = startStepped(t)
			op.settle(all...)

			if got := tokenIn(t, w.shop, "cart-token", "payment-api"); got != token {
				t.Error("the token of the owner's client is another one or gone")
			}
			w.sawRequests(t, 0)
			getsNothingNow(t, evil.cart)
			if withStatus {
				isReady(t, api)
				isReady(t, cart)
				hasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
				return
			}
			for _, a := range []*v1alpha1.APIResource{api, claim} {
				hasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierContested)
			}
			hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierContested)
			remove(t, claim)
			op.settle(all...)
			isReady(t, api)
			isReady(t, cart)
			w.sawRequests(t, 0)
		})
	}
}

// putStatus restores the status of an object, as Velero does where it is told to.
func putStatus(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
		return
	}
	now := restored(o)
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), now); err != nil {
		t.Fatal(err)
	}
	now.Object["status"] = o.Object["status"]
	if err := kube.Status().Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

// TestASecretIsTakenOver deletes a client and not its Secret, and creates it again.
func TestASecretIsTakenOver(t *testing.T) {
	for name, tc := range map[string]struct {
		opaque    bool
		edit      func(*testing.T, *world, *corev1.Secret)
		goes      bool // at once, whether or not there is another one
		wantMints int
	}{
		"as --cascade=orphan leaves it":    {edit: func(_ *testing.T, _ *world, s *corev1.Secret) { s.OwnerReferences = nil }},
		"with its former owner":            {edit: func(*testing.T, *world, *corev1.Secret) {}},
		"immutable":                        {edit: func(_ *testing.T, _ *world, s *corev1.Secret) { s.OwnerReferences, s.Immutable = nil, new(true) }},
		"with a token that is not checked": {opaque: true, edit: func(_ *testing.T, _ *world, s *corev1.Secret) { s.OwnerReferences = nil }, wantMints: 1},
		"with a forged token": {edit: func(t *testing.T, w *world, s *corev1.Secret) {
			s.OwnerReferences = nil
			token := w.forgedToken(t, keyOfToken(t, string(s.Data["payment-api"])))
			s.Data["payment-api"] = []byte(token)
			forgedRecord(t, s, map[string]any{"value": refresh.HashValue(token), "expiresAt": eternal})
		}, goes: true, wantMints: 1},
		"with a forged token that is said to be opaque": {edit: func(t *testing.T, _ *world, s *corev1.Secret) {
			s.OwnerReferences = nil
			s.Data["payment-api"] = []byte("forged")
			forgedRecord(t, s, map[string]any{"value": refresh.HashValue("forged"), "expiresAt": eternal, "opaque": true})
		}, wantMints: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, cart := w.story()
			if tc.opaque {
				credentials := &corev1.Secret{}
				if err := kube.Get(t.Context(), types.NamespacedName{Namespace: w.shop, Name: "cart-credentials"}, credentials); err != nil {
					t.Fatal(err)
				}
				if err := w.as.SetClient(oidc.Client{
					ID: cartID, Secret: string(credentials.Data[v1alpha1.ClientSecretKey]), Opaque: true,
					Scopes: map[string][]string{paymentAPI: {"payments:read", "payments:write"}},
				}); err != nil {
					t.Fatal(err)
				}
			}
			op := startStepped(t)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			s := tokensOf(t, cart)
			token := string(s.Data["payment-api"])
			remove(t, cart)
			isGone(t, cart)
			op.settle(w.payments, w.shop)
			change(t, s, func(s *corev1.Secret) { tc.edit(t, w, s) })
			edited := string(s.Data["payment-api"])
			w.as.ResetRequests()

			// What cannot be told stays while the server is down, and is not called ready.
			w.as.SetFault(oidc.Token, answer(503, ""))
			cart = w.cart()
			create(t, cart)
			op.settle(w.payments, w.shop)
			if got := tokenIn(t, w.shop, "cart-token", "payment-api"); got != edited && !tc.goes || got != "" && tc.goes {
				t.Errorf("while the server is down, the token has gone or is another one: %t", got == "")
			}
			if ready := hasToken(current(t, cart)); ready != (tc.wantMints == 0) {
				t.Errorf("it is ready: %t", ready)
			}
			w.as.ClearFaults()
			w.as.ResetRequests()
			op.advance(time.Minute)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			w.sawRequests(t, tc.wantMints)
			if got := tokenIn(t, w.shop, "cart-token", "payment-api"); (got == token) != (tc.wantMints == 0) || got == "forged" {
				t.Error("the token is not the one that is expected")
			}
			if err := intact(t, cart, "payment-api"); err != nil {
				t.Error(err)
			}
		})
	}
}

func current(t *testing.T, c *v1alpha1.M2MClient) *v1alpha1.M2MClient {
	t.Helper()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestARestoreWhileATokenWaits: the token is published that waited, and its Secret
// goes.
func TestARestoreWhileATokenWaits(t *testing.T) {
	op := startStepped(t)
	s, _ := rotatedStage(t, op, true)
	s.isHeld()
	token, jitter := string(s.waiting().Data["payment-api"]), s.status().ExpiresAt.Sub(s.status().IssuedAt.Time)/10
	op.stop()
	objects := backUp(t, s.shop)
	vanish(t, objects)
	restore(t, objects)

	// Its predecessor is due again when it is by the new client's UID, too.
	s.op = startStepped(t)
	s.op.clock.SetTime(op.clock.Now().Add(jitter))
	s.settle()
	s.isPublished()
	if s.token() != token {
		t.Error("another token was published than the one that waited")
	}
}

// TestASecretThatComesLateIsTakenOver: its client is there before, and has no
// credentials to ask for a token with.
func TestASecretThatComesLateIsTakenOver(t *testing.T) {
	w := newWorld(t)
	haveOperatorNamespace(t)
	_, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	token := tokenIn(t, w.shop, "cart-token", "payment-api")
	objects := backUp(t, w.shop)
	vanish(t, objects)
	isSecret := func(o *unstructured.Unstructured) bool { return o.GetKind() == "Secret" }
	restore(t, slices.DeleteFunc(slices.Clone(objects), isSecret))
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	comesToRest(t, cart)
	restore(t, slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() != "cart-token" }))
	isReady(t, cart)
	if tokenIn(t, w.shop, "cart-token", "payment-api") != token {
		t.Error("the token is another one")
	}
}
