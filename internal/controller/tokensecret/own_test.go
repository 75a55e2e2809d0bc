// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestOwnWritesWakeNobody checks which events of a client's Secret cause work: only
// the event of this process's own write does not.
func TestOwnWritesWakeNobody(t *testing.T) {
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "1"}}
	secret := func(change func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "cart-token", ResourceVersion: "7",
				Labels:          map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
				Annotations:     map[string]string{v1alpha1.TokensAnnotation: "{}"},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cart, v1alpha1.GroupVersion.WithKind("M2MClient"))},
			},
			Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"payment-api": []byte("token")},
		}
		change(s)
		return s
	}
	store := New(Config{})
	written := secret(func(s *corev1.Secret) { s.ResourceVersion = "" })
	store.wrote.Put(client.ObjectKeyFromObject(cart), wholeSecret, contentOf(written))
	another := secret(func(s *corev1.Secret) { s.Namespace, s.Data["payment-api"] = "other", []byte("another") })
	store.wrote.Put(types.NamespacedName{Namespace: "other", Name: "cart"}, wholeSecret, contentOf(another))
	for name, tc := range map[string]struct {
		change func(*corev1.Secret)
		passes bool
	}{
		"what was written":                         {func(*corev1.Secret) {}, false},
		"an edited token":                          {func(s *corev1.Secret) { s.Data["payment-api"] = []byte("edited") }, true},
		"an additional key":                        {func(s *corev1.Secret) { s.Data["more"] = nil }, true},
		"an edited record":                         {func(s *corev1.Secret) { s.Annotations[v1alpha1.TokensAnnotation] = "" }, true},
		"an additional label":                      {func(s *corev1.Secret) { s.Labels["more"] = "" }, true},
		"an immutable one":                         {func(s *corev1.Secret) { s.Immutable = new(true) }, true},
		"the Secret of another namespace's client": {func(s *corev1.Secret) { s.Data = another.Data }, true},
		"one that has lost its owner":              {func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		"another's":                                {func(s *corev1.Secret) { s.OwnerReferences[0].UID = "2" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, now := store.ChangedByOthers(), secret(tc.change)
			if got := p.Create(event.CreateEvent{Object: now}); got != tc.passes {
				t.Errorf("its creation passes: %t", got)
			}
			if got := p.Update(event.UpdateEvent{ObjectOld: secret(func(*corev1.Secret) {}), ObjectNew: now}); got != tc.passes {
				t.Errorf("its update passes: %t", got)
			}
			if !p.Delete(event.DeleteEvent{Object: now}) {
				t.Error("its deletion does not pass")
			}
		})
	}
}
