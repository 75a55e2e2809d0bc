// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestEditedSecretIsRestored(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)

	for name, tc := range map[string]struct {
		edit      func(*corev1.Secret) // nil: it is deleted
		wantMints int
	}{
		"a deleted Secret":                     {nil, 1},
		"another token":                        {func(s *corev1.Secret) { s.Data["payment-api"] = []byte("mine") }, 1},
		"an empty token":                       {func(s *corev1.Secret) { s.Data["payment-api"] = nil }, 1},
		"a key removed":                        {func(s *corev1.Secret) { delete(s.Data, "payment-api") }, 1},
		"all data removed":                     {func(s *corev1.Secret) { s.Data = nil }, 1},
		"a key added":                          {func(s *corev1.Secret) { s.Data["extra"] = []byte("mine") }, 0},
		"the label removed":                    {func(s *corev1.Secret) { delete(s.Labels, v1alpha1.ManagedByLabel) }, 0},
		"the label changed":                    {func(s *corev1.Secret) { s.Labels[v1alpha1.ManagedByLabel] = "Helm" }, 0},
		"the annotation removed":               {func(s *corev1.Secret) { delete(s.Annotations, v1alpha1.TokensAnnotation) }, 1},
		"the annotation garbled":               {func(s *corev1.Secret) { s.Annotations[v1alpha1.TokensAnnotation] = `{"tokens": [` }, 1},
		"the annotation emptied":               {func(s *corev1.Secret) { s.Annotations[v1alpha1.TokensAnnotation] = `{}` }, 1},
		"a malformed annotation":               {func(s *corev1.Secret) { s.Annotations[v1alpha1.TokensAnnotation] = `{"tokens":{"payment-api":7}}` }, 1},
		"the owner removed":                    {func(s *corev1.Secret) { s.OwnerReferences = nil }, 0},
		"the label and the annotation removed": {func(s *corev1.Secret) { s.Annotations, s.Labels = nil, nil }, 1},
		"made immutable":                       {func(s *corev1.Secret) { s.Immutable = ptr.To(true) }, 0},
		"made immutable with another token": {func(s *corev1.Secret) {
			s.Immutable, s.Data["payment-api"] = ptr.To(true), []byte("mine")
		}, 1},
	} {
		if !t.Run(name, func(t *testing.T) {
			before := operator.TokensOf(t, cart)
			if tc.edit == nil {
				operator.Remove(t, before.DeepCopy())
			} else {
				operator.Change(t, before.DeepCopy(), tc.edit)
			}
			operator.Eventually(t, func() error { return operator.Intact(t, cart, "payment-api") })
			operator.ComesToRest(t, cart)
			operator.IsReady(t, cart)
			requests := w.AS.TokenRequests()
			w.SawRequests(t, tc.wantMints)
			token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
			if tc.wantMints == 0 && token != string(before.Data["payment-api"]) {
				t.Error("the token was replaced")
			}
			if tc.wantMints > 0 && (len(requests) == 0 || oidc.Hash(token) != requests[0].TokenHash) {
				t.Error("the token in the Secret is not the one that was issued")
			}
		}) {
			return // the Secret is not as the next case expects it
		}
	}
}

// TestSecretFollowsItsSpec changes spec.secret while others have added to the Secret.
// The token stays the same.
func TestSecretFollowsItsSpec(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	operator.Change(t, operator.TokensOf(t, cart), func(s *corev1.Secret) {
		s.Labels["backup"] = "daily"
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, "reloader", "on")
	})

	for _, tc := range []struct {
		name            string
		spec            v1alpha1.TokenSecret
		wantLabels      map[string]string
		wantAnnotations map[string]string
		wantTemplated   map[string]string
	}{
		{name: "unset"},
		{
			name: "set",
			spec: v1alpha1.TokenSecret{
				Labels: map[string]string{"team": "shop", "tier": "gold"}, Annotations: map[string]string{"note": "one", "sync": "true"},
				Template: map[string]string{"header": `Bearer {{ token "payment-api" }}`, "plain": "text"},
			},
			wantLabels: map[string]string{"team": "shop", "tier": "gold"}, wantAnnotations: map[string]string{"note": "one", "sync": "true"},
			wantTemplated: map[string]string{"header": "Bearer " + token, "plain": "text"},
		},
		{
			name: "changed",
			spec: v1alpha1.TokenSecret{
				Labels: map[string]string{"team": "till"}, Annotations: map[string]string{"note": "two"},
				Template: map[string]string{"header": `{"token":{{ token "payment-api" | json }}}`},
			},
			wantLabels: map[string]string{"team": "till"}, wantAnnotations: map[string]string{"note": "two"},
			wantTemplated: map[string]string{"header": `{"token":"` + token + `"}`},
		},
		{name: "unset again"},
	} {
		operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret = tc.spec })
		want := corev1.Secret{Data: map[string][]byte{"payment-api": []byte(token)}}
		want.Labels = map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "backup": "daily"}
		want.Annotations = map[string]string{"reloader": "on"}
		maps.Copy(want.Labels, tc.wantLabels)
		maps.Copy(want.Annotations, tc.wantAnnotations)
		for k, v := range tc.wantTemplated {
			want.Data[k] = []byte(v)
		}
		operator.Eventually(t, func() error {
			got := operator.TokensOf(t, cart)
			delete(got.Annotations, v1alpha1.TokensAnnotation)
			delete(got.Annotations, v1alpha1.PromptSinceAnnotation)
			delete(got.Annotations, v1alpha1.OwnerAnnotation)
			for _, diff := range []string{
				cmp.Diff(want.Labels, got.Labels), cmp.Diff(want.Annotations, got.Annotations),
				cmp.Diff(slices.Sorted(maps.Keys(want.Data)), slices.Sorted(maps.Keys(got.Data))),
			} {
				if diff != "" {
					return fmt.Errorf("%s (-want +got):\n%s", tc.name, diff)
				}
			}
			for k := range want.Data { // not by cmp, which would print the token
				if string(want.Data[k]) != string(got.Data[k]) {
					return fmt.Errorf("%s: key %q is not as wanted", tc.name, k)
				}
			}
			return nil
		})
	}
	operator.ComesToRest(t, cart)
	w.SawRequests(t, 0)
}

// TestOthersSecretIsRefused creates a foreign Secret of the client's Secret name
// first. The operator requests no token that it could not store, and does not change a
// byte of the Secret. When it is deleted, the client gets its own.
func TestOthersSecretIsRefused(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	living := w.Cart()
	living.Name = "living"
	operator.Create(t, living)
	op := operator.Start(t)
	operator.IsReady(t, cart)
	operator.IsReady(t, living)
	ours := operator.TokensOf(t, cart)
	op.Stop()

	owner := func(kind, name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: kind, Name: name, UID: uid, Controller: ptr.To(true),
		}}
	}
	forgeries := map[string]func(*corev1.Secret){
		"a Secret of the user":           func(*corev1.Secret) {},
		"one with our label":             func(s *corev1.Secret) { s.Labels = ours.Labels },
		"another client's":               func(s *corev1.Secret) { s.Labels, s.OwnerReferences = ours.Labels, owner("M2MClient", "pay", "1234") },
		"a former client's of this name": func(s *corev1.Secret) { s.Labels, s.OwnerReferences = ours.Labels, owner("M2MClient", "cart", "1234") },
		"one that the operator owns beside others": func(s *corev1.Secret) {
			s.Labels, s.OwnerReferences = ours.Labels, owner("M2MClient", cart.Name, cart.UID)
			s.OwnerReferences[0].Controller = nil
		},
		"a copy of ours under another's control": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.OwnerReferences = ours.Labels, ours.Annotations, owner("ExternalSecret", "cart", "1234")
		},
		"a forgery with label and annotation": func(s *corev1.Secret) {
			s.Labels = ours.Labels
			s.Annotations = map[string]string{v1alpha1.TokensAnnotation: operator.ForgeRecord(t, ours, func(r map[string]any) { delete(r, "client") })}
		},
		"a copy of another client's": func(s *corev1.Secret) {
			s.Labels, s.Annotations = ours.Labels, maps.Clone(ours.Annotations)
			s.Annotations[v1alpha1.OwnerAnnotation] = w.Shop + "/other"
		},
		"a copy of another namespace's": func(s *corev1.Secret) {
			s.Labels, s.Annotations = ours.Labels, maps.Clone(ours.Annotations)
			s.Annotations[v1alpha1.OwnerAnnotation] = w.Payments + "/cart"
		},
		"a copy of ours that a living client controls": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.OwnerReferences = ours.Labels, ours.Annotations, owner("M2MClient", living.Name, living.UID)
		},
		"a copy of ours of another type": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.Type = ours.Labels, ours.Annotations, "example.com/theirs"
		},
		// The fence would stop the operator from writing it.
		"one of ours that lost label and owner": func(s *corev1.Secret) { s.Annotations = ours.Annotations },
		"an immutable one":                      func(s *corev1.Secret) { s.Immutable = ptr.To(true) },
	}
	theirs := map[string]*corev1.Secret{}
	for name, forge := range forgeries {
		theirs[name] = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: fmt.Sprintf("theirs-%d", len(theirs))},
			Data:       map[string][]byte{"payment-api": []byte("theirs"), "password": []byte("theirs")},
		}
		forge(theirs[name])
		operator.Create(t, theirs[name])
	}

	operator.Start(t)
	for name, theirs := range theirs {
		t.Run(name, func(t *testing.T) {
			w.AS.ResetRequests()
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = v1alpha1.ObjectName(theirs.Name) })
			for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionFresh} {
				operator.HasCondition(t, cart, condition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotOwned)
			}
			operator.ComesToRest(t, cart)
			w.SawRequests(t, 0)
			if got := operator.TokensOf(t, cart); got.ResourceVersion != theirs.ResourceVersion {
				t.Error("the Secret was changed")
			}
			operator.Remove(t, theirs)
			operator.IsReady(t, cart)
			if err := operator.Intact(t, cart, "payment-api"); err != nil {
				t.Error(err)
			}
			operator.ComesToRest(t, cart)
			w.SawRequests(t, 1)
		})
	}
}

func TestRenamedSecret(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "tokens" })
	operator.Eventually(t, func() error { return operator.Intact(t, cart, "payment-api") })
	operator.Eventually(t, func() error {
		err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: w.Shop, Name: "cart-token"}, &corev1.Secret{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the old Secret is still there: %w", err)
		}
		return nil
	})
	operator.ComesToRest(t, cart)
	operator.IsReady(t, cart)
	if cart.Status.SecretName != "tokens" {
		t.Errorf("status.secretName is %q", cart.Status.SecretName)
	}
	w.SawRequests(t, 1)
}

// TestAccessesShareASecret adds and removes accesses. Each has its key, and the tokens
// of the others stay the same.
func TestAccessesShareASecret(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	w.AlsoKnows(operator.OrdersAPI)
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)
	payment := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = append(c.Spec.Access,
			v1alpha1.Access{Resource: operator.OrdersAPI, Key: "orders", Scopes: []v1alpha1.ScopeName{"payments:read"}},
			v1alpha1.Access{Resource: operator.OrdersAPI, Key: "orders.write", Scopes: []v1alpha1.ScopeName{"payments:write"}})
		c.Spec.Secret.Template = map[string]string{"both": `{{ token "payment-api" }} {{ token "orders" }}`}
	})
	operator.IsReady(t, cart)
	w.SawRequests(t, 2)
	if diff := cmp.Diff([]string{"both", "orders", "orders.write", "payment-api"}, operator.KeysIn(t, cart)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	orders := operator.TokenIn(t, w.Shop, "cart-token", "orders")
	if operator.TokenIn(t, w.Shop, "cart-token", "both") != payment+" "+orders {
		t.Error("the template does not show both tokens")
	}
	if len(cart.Status.Tokens) != 3 {
		t.Errorf("the status has %d tokens", len(cart.Status.Tokens))
	}

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = c.Spec.Access[1:2]
		c.Spec.Secret.Template = nil
	})
	operator.IsReady(t, cart)
	if diff := cmp.Diff([]string{"orders"}, operator.KeysIn(t, cart)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if operator.TokenIn(t, w.Shop, "cart-token", "orders") != orders {
		t.Error("the token of the access that stays was replaced")
	}
	if meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionReady) == nil || len(cart.Status.Tokens) != 1 {
		t.Errorf("the status still has %d tokens", len(cart.Status.Tokens))
	}
	operator.ComesToRest(t, cart)
	w.SawRequests(t, 0)
}
