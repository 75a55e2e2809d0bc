// SPDX-License-Identifier: Apache-2.0

package controller_test

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
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// backedUp are the kinds in a backup.
var backedUp = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("Secret"), corev1.SchemeGroupVersion.WithKind("ConfigMap"), corev1.SchemeGroupVersion.WithKind("Pod"),
	v1alpha1.GroupVersion.WithKind("APIResource"), v1alpha1.GroupVersion.WithKind("AuthorizationServer"), v1alpha1.GroupVersion.WithKind("M2MClient"),
}

// backUp returns all objects of the namespaces, and the client secrets that the
// operator keeps for them in its own.
func backUp(t *testing.T, namespaces ...string) (all []*unstructured.Unstructured) {
	t.Helper()
	for _, kind := range backedUp {
		for _, ns := range append(namespaces, operator.Namespace) {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(kind)
			if err := operator.Kube.List(t.Context(), list, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
			for i := range list.Items {
				of, _, _ := strings.Cut(list.Items[i].GetAnnotations()[v1alpha1.OwnerAnnotation], "/")
				if ns != operator.Namespace || slices.Contains(namespaces, of) {
					all = append(all, &list.Items[i])
				}
			}
		}
	}
	return all
}

// vanish deletes objects at once, without running finalizers.
func vanish(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		o := o.DeepCopy()
		err := operator.Kube.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		if err == nil {
			err = operator.Kube.Delete(t.Context(), o, client.GracePeriodSeconds(0))
		}
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objects {
		operator.IsGone(t, o.DeepCopy())
	}
}

// restored returns an object as Velero creates it: without its UID, owners and status.
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

// restore creates objects, ordered by kind.
func restore(t *testing.T, objects []*unstructured.Unstructured, kinds ...string) {
	t.Helper()
	place := func(o *unstructured.Unstructured) int { return slices.Index(kinds, o.GetKind()) }
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return cmp.Compare(place(a), place(b)) })
	for _, o := range objects {
		if err := operator.Kube.Create(t.Context(), restored(o)); err != nil {
			t.Fatalf("restore %s %q: %v", o.GetKind(), client.ObjectKeyFromObject(o), err)
		}
	}
}

// survivor is a client with everything that belongs to it, at one kind of server.
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
		w := operator.NewWorld(t)
		operator.CreateNamespace(t)
		api, cart := w.Story()
		return survivor{
			[]string{w.Shop, w.Payments}, w.Server(w.Payments), api, cart,
			func() int { return w.AS.Count(oidc.Token) }, func() []string { return nil },
		}
	},
	"a client registered at Logto": func(t *testing.T) survivor {
		w := operator.NewTenant(t)
		as, api, cart := w.Story()
		return survivor{
			[]string{w.Shop, w.Payments}, as, api, cart,
			func() int { return 0 }, // it does not tell these from the operator's own
			func() (all []string) {
				for _, a := range w.Logto.Snapshot().Applications {
					all = append(all, fmt.Sprint(a.ID, a.Roles, a.Secrets))
				}
				return all
			},
		}
	},
	"a client registered dynamically": func(t *testing.T) survivor {
		w := operator.NewWorld(t, func(o *oidc.Options) { o.DynamicRegistration = &oidc.DynamicRegistration{} })
		t.Cleanup(func() { operator.LetGo(t, w.Shop, w.Payments) })
		operator.CreateNamespace(t)
		w.AS.RemoveClient(operator.CartID)
		as, api, cart := w.Server(w.Payments), w.API(), w.Cart()
		as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
		cart.Spec.AuthorizationServerRef, cart.Spec.Credentials = v1alpha1.AuthorizationServerReference{}, v1alpha1.ClientCredentials{}
		operator.Create(t, as, api, cart)
		return survivor{
			[]string{w.Shop, w.Payments}, as, api, cart,
			func() int { return w.AS.Count(oidc.Token) },
			func() (all []string) {
				for _, c := range w.AS.RegisteredClients() {
					all = append(all, c.ID)
				}
				return all
			},
		}
	},
}

// TestRestore backs up all objects, empties the API server, and restores the objects
// without owners, UIDs and statuses. The restore causes no new token, secret or
// application.
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
				op := operator.Start(t)
				operator.IsReady(t, s.cart)
				operator.IsReady(t, s.api)
				secret, uid := operator.TokensOf(t, s.cart), s.cart.UID
				bundle := distributedTo(t, s.namespaces[1], s.api)
				requests, registered := s.requests(), s.registered()
				op.Stop()

				objects := backUp(t, s.namespaces...)
				vanish(t, objects)
				if order.running {
					operator.Start(t)
				} else {
					for _, o := range objects {
						o.SetFinalizers(nil)
					}
				}
				if order.running {
					looked := operator.Reconciled(t, "m2mclient-provisioning")
					restore(t, ofKind(objects, order.kinds[:1]...))
					if s.registered() != nil {
						operator.Eventually(t, func() error {
							if operator.Reconciled(t, "m2mclient-provisioning") == looked {
								return errors.New("the operator has not looked at the credentials")
							}
							return nil
						})
					}
					order.kinds = order.kinds[1:]
				}
				restore(t, ofKind(objects, order.kinds...), order.kinds...)
				if !order.running {
					operator.Start(t)
				}
				operator.Eventually(t, func() error {
					now := operator.TokensOf(t, s.cart)
					if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(s.cart), s.cart); err != nil {
						return err
					}
					if now == nil || !metav1.IsControlledBy(now, s.cart) {
						return errors.New("the client has not taken over its Secret")
					}
					return nil
				})
				operator.IsReady(t, s.cart)
				operator.HasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
				operator.IsReady(t, s.api)
				operator.IsReady(t, s.as)
				if s.registered() != nil {
					operator.ProvisionedIs(t, s.cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
				}
				operator.ComesToRest(t, s.cart)
				if s.cart.UID == uid {
					t.Fatal("the object was not replaced")
				}
				if diff := gocmp.Diff(secret.Data, operator.TokensOf(t, s.cart).Data); diff != "" {
					t.Error("the token was replaced")
				}
				if n := s.requests(); n != requests {
					t.Errorf("%d token requests were sent", n-requests)
				}
				if diff := gocmp.Diff(registered, s.registered()); diff != "" {
					t.Errorf("objects at the server (-want +got):\n%s", diff)
				}
				operator.Eventually(t, func() error {
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
				operator.Remove(t, s.cart)
				operator.IsGone(t, s.cart)
				operator.Eventually(t, func() error {
					if n := len(s.registered()); n != len(registered)-1 {
						return fmt.Errorf("the server has %d applications", n)
					}
					return nil
				})
			})
		}
	}
}

// TestARestoreAfterADecision: while a cluster was away, the platform withdrew a server
// from a namespace. The operator removes what its client has there, although no status
// names it.
func TestARestoreAfterADecision(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.Start(t)
	cluster, secret := w.ClusterServer(w.Payments, w.Shop)
	api, cart := w.API(), w.Cart()
	api.Spec.AuthorizationServerRef = refTo(cluster)
	operator.Create(t, secret, cluster, api, cart)
	operator.IsReady(t, cart)
	op.Stop()
	objects := backUp(t, w.Shop, w.Payments)
	vanish(t, objects)
	operator.Change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) { c.Spec.AllowedNamespaces = operator.NamesOf(w.Payments) })
	restore(t, objects)
	operator.Start(t)
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotAllowed)
	w.HasNoToken("cart-token")
	operator.Eventually(t, func() error {
		if n := w.ApplicationsOf(w.Shop); n != 0 {
			return fmt.Errorf("it has %d applications", n)
		}
		return nil
	})
}

// TestIdentifiersAfterARestore: a namespace that sorts before the owner's had its
// claim refused, and now comes first. Without the status neither has the identifier,
// and no token is lost; with the status, the owner has it.
func TestIdentifiersAfterARestore(t *testing.T) {
	for name, withStatus := range map[string]bool{"with the status": true, "without the status": false} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			operator.CreateNamespace(t)
			api, cart := w.Story()
			op := operator.StartStepped(t)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			evil := newAttacker(w)
			claim := evil.api(w)
			operator.Create(t, w.Server(evil.namespace), claim, evil.cart)
			all := []string{w.Payments, w.Shop, evil.namespace}
			op.Settle(all...)
			operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
			token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			op.Stop()

			theirs, owners := backUp(t, evil.namespace), backUp(t, w.Payments, w.Shop)
			vanish(t, append(theirs, owners...))
			restore(t, theirs)
			laterThan(t, theirs[0])
			restore(t, owners)
			if withStatus {
				for _, o := range append(theirs, owners...) {
					putStatus(t, o)
				}
			}
			w.AS.ResetRequests()
			op = operator.StartStepped(t)
			op.Settle(all...)

			if got := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); got != token {
				t.Error("the token of the owner's client was replaced or removed")
			}
			w.SawRequests(t, 0)
			getsNothingNow(t, evil.cart)
			if withStatus {
				operator.IsReady(t, api)
				operator.IsReady(t, cart)
				operator.HasCondition(t, claim, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierClaimed)
				return
			}
			for _, a := range []*v1alpha1.APIResource{api, claim} {
				operator.HasCondition(t, a, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierContested)
			}
			operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonIdentifierContested)
			operator.Remove(t, claim)
			op.Settle(all...)
			operator.IsReady(t, api)
			operator.IsReady(t, cart)
			w.SawRequests(t, 0)
		})
	}
}

// putStatus restores the status of an object, as Velero does if configured so.
func putStatus(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
		return
	}
	now := restored(o)
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), now); err != nil {
		t.Fatal(err)
	}
	now.Object["status"] = o.Object["status"]
	if err := operator.Kube.Status().Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

// TestASecretIsTakenOver deletes a client but keeps its Secret, and creates the client
// again.
func TestASecretIsTakenOver(t *testing.T) {
	for name, tc := range map[string]struct {
		opaque    bool
		edit      func(*testing.T, *operator.World, *corev1.Secret)
		goes      bool // at once, whether or not there is another one
		wantMints int
	}{
		"as --cascade=orphan leaves it": {edit: func(_ *testing.T, _ *operator.World, s *corev1.Secret) { s.OwnerReferences = nil }},
		"with its former owner":         {edit: func(*testing.T, *operator.World, *corev1.Secret) {}},
		"immutable": {edit: func(_ *testing.T, _ *operator.World, s *corev1.Secret) {
			s.OwnerReferences, s.Immutable = nil, new(true)
		}},
		"with a token that is not checked": {opaque: true, edit: func(_ *testing.T, _ *operator.World, s *corev1.Secret) { s.OwnerReferences = nil }, wantMints: 1},
		"with a forged token": {edit: func(t *testing.T, w *operator.World, s *corev1.Secret) {
			s.OwnerReferences = nil
			token := forgedToken(w, t, operator.KeyOfToken(t, string(s.Data["payment-api"])))
			s.Data["payment-api"] = []byte(token)
			forgedRecord(t, s, map[string]any{"value": refresh.HashValue(token), "expiresAt": eternal})
		}, goes: true, wantMints: 1},
		"with a forged token that is said to be opaque": {edit: func(t *testing.T, _ *operator.World, s *corev1.Secret) {
			s.OwnerReferences = nil
			s.Data["payment-api"] = []byte("forged")
			forgedRecord(t, s, map[string]any{"value": refresh.HashValue("forged"), "expiresAt": eternal, "opaque": true})
		}, wantMints: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			_, cart := w.Story()
			if tc.opaque {
				credentials := &corev1.Secret{}
				if err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: w.Shop, Name: "cart-credentials"}, credentials); err != nil {
					t.Fatal(err)
				}
				if err := w.AS.SetClient(oidc.Client{
					ID: operator.CartID, Secret: string(credentials.Data[v1alpha1.ClientSecretKey]), Opaque: true,
					Scopes: map[string][]string{operator.PaymentAPI: {"payments:read", "payments:write"}},
				}); err != nil {
					t.Fatal(err)
				}
			}
			op := operator.StartStepped(t)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			s := operator.TokensOf(t, cart)
			token := string(s.Data["payment-api"])
			operator.Remove(t, cart)
			operator.IsGone(t, cart)
			op.Settle(w.Payments, w.Shop)
			operator.Change(t, s, func(s *corev1.Secret) { tc.edit(t, w, s) })
			edited := string(s.Data["payment-api"])
			w.AS.ResetRequests()

			// The operator keeps a token that it cannot check while the server is down, but
			// does not call it ready.
			w.AS.SetFault(oidc.Token, operator.Answer(503, ""))
			cart = w.Cart()
			operator.Create(t, cart)
			op.Settle(w.Payments, w.Shop)
			if got := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); got != edited && !tc.goes || got != "" && tc.goes {
				t.Errorf("the token was removed or replaced while the server was down: %t", got == "")
			}
			if ready := operator.HasToken(current(t, cart)); ready != (tc.wantMints == 0) {
				t.Errorf("it is ready: %t", ready)
			}
			w.AS.ClearFaults()
			w.AS.ResetRequests()
			op.Advance(time.Minute)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			w.SawRequests(t, tc.wantMints)
			if got := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); (got == token) != (tc.wantMints == 0) || got == "forged" {
				t.Error("the token is not the one that is expected")
			}
			if err := operator.Intact(t, cart, "payment-api"); err != nil {
				t.Error(err)
			}
		})
	}
}

func current(t *testing.T, c *v1alpha1.M2MClient) *v1alpha1.M2MClient {
	t.Helper()
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestARestoreWhileATokenWaits: the operator publishes the waiting token and deletes
// the Secret in which it waited.
func TestARestoreWhileATokenWaits(t *testing.T) {
	op := operator.StartStepped(t)
	s, _ := operator.RotatedStage(t, op, true)
	s.IsHeld()
	token, jitter := string(s.Waiting().Data["payment-api"]), s.Status().ExpiresAt.Sub(s.Status().IssuedAt.Time)/10
	op.Stop()
	objects := backUp(t, s.Shop)
	vanish(t, objects)
	restore(t, objects)

	// Its predecessor becomes due again also by the new client's UID.
	s.Op = operator.StartStepped(t)
	s.Op.Clock.SetTime(op.Clock.Now().Add(jitter))
	s.Settle()
	s.IsPublished()
	if s.Token() != token {
		t.Error("the published token is not the one that waited")
	}
}

// TestASecretThatComesLateIsTakenOver restores the client before its Secret. The
// client has no credentials for a token request.
func TestASecretThatComesLateIsTakenOver(t *testing.T) {
	w := operator.NewWorld(t)
	operator.CreateNamespace(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	objects := backUp(t, w.Shop)
	vanish(t, objects)
	isSecret := func(o *unstructured.Unstructured) bool { return o.GetKind() == "Secret" }
	restore(t, slices.DeleteFunc(slices.Clone(objects), isSecret))
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	operator.ComesToRest(t, cart)
	restore(t, slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() != "cart-token" }))
	operator.IsReady(t, cart)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != token {
		t.Error("the token was replaced")
	}
}
