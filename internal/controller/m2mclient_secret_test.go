// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

const ordersAPI = "https://orders.example.com/api"

// tokensOf returns a client's Secret, nil if there is none.
func tokensOf(t *testing.T, c *v1alpha1.M2MClient) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	err := kube.Get(t.Context(), types.NamespacedName{Namespace: c.Namespace, Name: c.SecretName()}, &s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// keysIn returns the keys of a client's Secret.
func keysIn(t *testing.T, c *v1alpha1.M2MClient) []string {
	t.Helper()
	if s := tokensOf(t, c); s != nil {
		return slices.Sorted(maps.Keys(s.Data))
	}
	return nil
}

// comesToRest has the client reconciled once more, after all that happened
// before: what is counted now is final.
func comesToRest(t *testing.T, c *v1alpha1.M2MClient) {
	t.Helper()
	change(t, c, func(c *v1alpha1.M2MClient) {
		c.Spec.Refresh.AtPercent = 60 + (c.Spec.Refresh.AtPercent+1)%10
	})
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if c.Status.ObservedGeneration != c.Generation {
			return fmt.Errorf("the status speaks of generation %d, not %d", c.Status.ObservedGeneration, c.Generation)
		}
		return nil
	})
}

// sawRequests checks how many token requests reached the authorization server
// since the last look.
func (w *world) sawRequests(t *testing.T, want int) {
	t.Helper()
	if got := w.as.TokenRequests(); len(got) != want {
		t.Errorf("%d token requests, want %d: %+v", len(got), want, got)
	}
	w.as.ResetRequests()
}

// alsoKnows has the authorization server know another API, and the cart
// application hold its scopes there.
func (w *world) alsoKnows(resources ...string) {
	w.t.Helper()
	scopes := map[string][]string{}
	for _, r := range append(resources, paymentAPI) {
		w.as.SetResource(r, "payments:read", "payments:write")
		scopes[r] = []string{"payments:read", "payments:write"}
	}
	var s corev1.Secret
	if err := kube.Get(w.t.Context(), types.NamespacedName{Namespace: w.shop, Name: "cart-credentials"}, &s); err != nil {
		w.t.Fatal(err)
	}
	err := w.as.SetClient(oidc.Client{
		ID: cartID, Secret: string(s.Data[v1alpha1.ClientSecretKey]), Method: oidc.SecretBasic, Scopes: scopes,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// intact says what of a client's Secret is not as the operator wrote it.
func intact(t *testing.T, c *v1alpha1.M2MClient, keys ...string) error {
	t.Helper()
	s := tokensOf(t, c)
	if s == nil {
		return fmt.Errorf("there is no Secret")
	}
	if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(s.Data))); diff != "" {
		return fmt.Errorf("keys (-want +got):\n%s", diff)
	}
	var records tokensecret.Records
	if err := json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records); err != nil {
		return fmt.Errorf("the annotation: %w", err)
	}
	for _, k := range keys {
		if records.Tokens[k].Value != refresh.HashValue(string(s.Data[k])) {
			return fmt.Errorf("the record of %q is about another token", k)
		}
	}
	switch {
	case s.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue:
		return fmt.Errorf("the label is missing")
	case !metav1.IsControlledBy(s, c):
		return fmt.Errorf("the owner is missing")
	case ptr.Deref(s.Immutable, false):
		return fmt.Errorf("the Secret is immutable")
	}
	return nil
}

func TestEditedSecretIsRestored(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 1)

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
		"an annotation of no form":             {func(s *corev1.Secret) { s.Annotations[v1alpha1.TokensAnnotation] = `{"tokens":{"payment-api":7}}` }, 1},
		"the owner removed":                    {func(s *corev1.Secret) { s.OwnerReferences = nil }, 0},
		"the label and the annotation removed": {func(s *corev1.Secret) { s.Annotations, s.Labels = nil, nil }, 1},
		"made immutable":                       {func(s *corev1.Secret) { s.Immutable = ptr.To(true) }, 0},
		"made immutable with another token": {func(s *corev1.Secret) {
			s.Immutable, s.Data["payment-api"] = ptr.To(true), []byte("mine")
		}, 1},
	} {
		if !t.Run(name, func(t *testing.T) {
			before := tokensOf(t, cart)
			if tc.edit == nil {
				remove(t, before.DeepCopy())
			} else {
				change(t, before.DeepCopy(), tc.edit)
			}
			eventually(t, func() error { return intact(t, cart, "payment-api") })
			comesToRest(t, cart)
			isReady(t, cart)
			requests := w.as.TokenRequests()
			w.sawRequests(t, tc.wantMints)
			token := tokenIn(t, w.shop, "cart-token", "payment-api")
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

// TestSecretFollowsItsSpec changes what spec.secret says, beside what somebody
// else has put there. The token is not touched by any of it.
func TestSecretFollowsItsSpec(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 1)
	token := tokenIn(t, w.shop, "cart-token", "payment-api")
	change(t, tokensOf(t, cart), func(s *corev1.Secret) {
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
		change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret = tc.spec })
		want := corev1.Secret{Data: map[string][]byte{"payment-api": []byte(token)}}
		want.Labels = map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "backup": "daily"}
		want.Annotations = map[string]string{"reloader": "on"}
		maps.Copy(want.Labels, tc.wantLabels)
		maps.Copy(want.Annotations, tc.wantAnnotations)
		for k, v := range tc.wantTemplated {
			want.Data[k] = []byte(v)
		}
		eventually(t, func() error {
			got := tokensOf(t, cart)
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
	comesToRest(t, cart)
	w.sawRequests(t, 0)
}

// TestOthersSecretIsRefused has a Secret of the client's Secret name there
// before. Nothing is asked for that could not be stored, the Secret stays as it
// is to the byte, and when it goes the client gets its own.
func TestOthersSecretIsRefused(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	living := w.cart()
	living.Name = "living"
	create(t, living)
	op := startOperator(t)
	isReady(t, cart)
	isReady(t, living)
	ours := tokensOf(t, cart)
	op.stop()

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
		"one that we own beside others": func(s *corev1.Secret) {
			s.Labels, s.OwnerReferences = ours.Labels, owner("M2MClient", cart.Name, cart.UID)
			s.OwnerReferences[0].Controller = nil
		},
		"a copy of ours under another's control": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.OwnerReferences = ours.Labels, ours.Annotations, owner("ExternalSecret", "cart", "1234")
		},
		"a forgery with label and annotation": func(s *corev1.Secret) {
			s.Labels = ours.Labels
			s.Annotations = map[string]string{v1alpha1.TokensAnnotation: forgeRecord(t, ours, func(r map[string]any) { delete(r, "client") })}
		},
		"a copy of another client's": func(s *corev1.Secret) {
			s.Labels, s.Annotations = ours.Labels, maps.Clone(ours.Annotations)
			s.Annotations[v1alpha1.OwnerAnnotation] = w.shop + "/other"
		},
		"a copy of another namespace's": func(s *corev1.Secret) {
			s.Labels, s.Annotations = ours.Labels, maps.Clone(ours.Annotations)
			s.Annotations[v1alpha1.OwnerAnnotation] = w.payments + "/cart"
		},
		"a copy of ours that a living client controls": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.OwnerReferences = ours.Labels, ours.Annotations, owner("M2MClient", living.Name, living.UID)
		},
		"a copy of ours of another type": func(s *corev1.Secret) {
			s.Labels, s.Annotations, s.Type = ours.Labels, ours.Annotations, "example.com/theirs"
		},
		// The fence would keep the operator from writing it.
		"one of ours that lost label and owner": func(s *corev1.Secret) { s.Annotations = ours.Annotations },
		"an immutable one":                      func(s *corev1.Secret) { s.Immutable = ptr.To(true) },
	}
	theirs := map[string]*corev1.Secret{}
	for name, forge := range forgeries {
		theirs[name] = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: fmt.Sprintf("theirs-%d", len(theirs))},
			Data:       map[string][]byte{"payment-api": []byte("theirs"), "password": []byte("theirs")},
		}
		forge(theirs[name])
		create(t, theirs[name])
	}

	startOperator(t)
	for name, theirs := range theirs {
		t.Run(name, func(t *testing.T) {
			w.as.ResetRequests()
			change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = v1alpha1.ObjectName(theirs.Name) })
			for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionFresh} {
				hasCondition(t, cart, condition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotOwned)
			}
			comesToRest(t, cart)
			w.sawRequests(t, 0)
			if got := tokensOf(t, cart); got.ResourceVersion != theirs.ResourceVersion {
				t.Error("the Secret was changed")
			}
			remove(t, theirs)
			isReady(t, cart)
			if err := intact(t, cart, "payment-api"); err != nil {
				t.Error(err)
			}
			comesToRest(t, cart)
			w.sawRequests(t, 1)
		})
	}
}

// forgeRecord returns the annotation of a token Secret, changed.
func forgeRecord(t *testing.T, s *corev1.Secret, edit func(map[string]any)) string {
	t.Helper()
	var records map[string]any
	if err := json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records); err != nil {
		t.Fatal(err)
	}
	edit(records)
	b, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRenamedSecret(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 1)
	change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "tokens" })
	eventually(t, func() error { return intact(t, cart, "payment-api") })
	eventually(t, func() error {
		err := kube.Get(t.Context(), types.NamespacedName{Namespace: w.shop, Name: "cart-token"}, &corev1.Secret{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the old Secret is still there: %w", err)
		}
		return nil
	})
	comesToRest(t, cart)
	isReady(t, cart)
	if cart.Status.SecretName != "tokens" {
		t.Errorf("status.secretName is %q", cart.Status.SecretName)
	}
	w.sawRequests(t, 1)
}

// TestAccessesShareASecret adds and removes accesses: each has its key, and the
// others' tokens stay as they are.
func TestAccessesShareASecret(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	w.alsoKnows(ordersAPI)
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 1)
	payment := tokenIn(t, w.shop, "cart-token", "payment-api")

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = append(c.Spec.Access,
			v1alpha1.Access{Resource: ordersAPI, Key: "orders", Scopes: []v1alpha1.ScopeName{"payments:read"}},
			v1alpha1.Access{Resource: ordersAPI, Key: "orders.write", Scopes: []v1alpha1.ScopeName{"payments:write"}})
		c.Spec.Secret.Template = map[string]string{"both": `{{ token "payment-api" }} {{ token "orders" }}`}
	})
	isReady(t, cart)
	w.sawRequests(t, 2)
	if diff := cmp.Diff([]string{"both", "orders", "orders.write", "payment-api"}, keysIn(t, cart)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	orders := tokenIn(t, w.shop, "cart-token", "orders")
	if tokenIn(t, w.shop, "cart-token", "both") != payment+" "+orders {
		t.Error("the template does not show both tokens")
	}
	if len(cart.Status.Tokens) != 3 {
		t.Errorf("the status has %d tokens", len(cart.Status.Tokens))
	}

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = c.Spec.Access[1:2]
		c.Spec.Secret.Template = nil
	})
	isReady(t, cart)
	if diff := cmp.Diff([]string{"orders"}, keysIn(t, cart)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if tokenIn(t, w.shop, "cart-token", "orders") != orders {
		t.Error("the token of the access that stays was replaced")
	}
	if meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionReady) == nil || len(cart.Status.Tokens) != 1 {
		t.Errorf("the status still has %d tokens", len(cart.Status.Tokens))
	}
	comesToRest(t, cart)
	w.sawRequests(t, 0)
}
