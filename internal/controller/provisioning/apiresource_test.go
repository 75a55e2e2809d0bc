// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestADeletedAPIIsForgotten deletes an API without a finalizer: the reconciler only
// sees that it no longer exists.
func TestADeletedAPIIsForgotten(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	r := NewAPIReconciler(Config{Client: fake.NewClientBuilder().WithScheme(scheme).Build(), Clock: clocktesting.NewFakePassiveClock(time.Unix(0, 0))})
	api := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "payment-api"}}
	r.Compare(api)
	if len(r.Wishes.made) != 1 {
		t.Fatalf("%d comparisons are requested", len(r.Wishes.made))
	}
	if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(api)}); err != nil {
		t.Fatal(err)
	}
	if len(r.Wishes.made) != 0 {
		t.Error("the request for a comparison outlives the API")
	}
}
