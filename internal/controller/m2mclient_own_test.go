// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestOwnWritesWakeNobody looks at the events of a client's Secret: only that of
// the version that this process wrote is left out.
func TestOwnWritesWakeNobody(t *testing.T) {
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "1"}}
	r := &M2MClientReconciler{wrote: newPerAccess[string]()}
	r.wrote.put(client.ObjectKeyFromObject(cart), wholeSecret, "7")
	r.wrote.put(types.NamespacedName{Namespace: "other", Name: "cart"}, wholeSecret, "9")
	secret := func(version string, owners ...metav1.OwnerReference) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-token", ResourceVersion: version, OwnerReferences: owners}}
	}
	owner := *metav1.NewControllerRef(cart, v1alpha1.GroupVersion.WithKind("M2MClient"))
	for name, tc := range map[string]struct {
		secret *corev1.Secret
		passes bool
	}{
		"the version that was written":           {secret("7", owner), false},
		"a later one, which somebody has edited": {secret("8", owner), true},
		"one of another namespace's client":      {secret("9", owner), true},
		"one that has lost its owner":            {secret("7"), true},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.changedByOthers()
			if got := p.Create(event.CreateEvent{Object: tc.secret}); got != tc.passes {
				t.Errorf("its creation passes: %t", got)
			}
			if got := p.Update(event.UpdateEvent{ObjectOld: secret("6", owner), ObjectNew: tc.secret}); got != tc.passes {
				t.Errorf("its update passes: %t", got)
			}
			if !p.Delete(event.DeleteEvent{Object: tc.secret}) {
				t.Error("its deletion does not pass")
			}
		})
	}
}
