// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/provisioning"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestRotationOf: each value of the annotation requests one replacement. A missing
// annotation requests none, so removing it does not, either.
func TestRotationOf(t *testing.T) {
	request := func(annotations map[string]string) string {
		c := &v1alpha1.M2MClient{}
		c.Annotations = annotations
		return provisioning.RotationOf(c).Request
	}
	if got := request(nil); got != "" {
		t.Errorf("without the annotation, %q is requested", got)
	}
	one := request(map[string]string{v1alpha1.RotateCredentialAnnotation: "1"})
	two := request(map[string]string{v1alpha1.RotateCredentialAnnotation: "2"})
	if one == "" || one == two {
		t.Errorf("the values 1 and 2 request %q and %q", one, two)
	}
}

// TestDeletionWaitsForItsTurn deletes more clients at once than the server's budget
// allows within the deletion timeout. An object that waits for others is not left
// behind.
func TestDeletionWaitsForItsTurn(t *testing.T) {
	const clients = 10
	w := operator.NewTenant(t)
	operator.Start(t, func(o *controller.Options) { o.DeletionTimeout = 2 * time.Second })
	as, api := w.Server(), w.API()
	as.Spec.Provisioning.ResyncInterval = "1h"
	operator.Create(t, w.Management(), as, api)
	var carts []client.Object
	for i := range clients {
		c := w.Cart()
		c.Name = fmt.Sprintf("cart-%d", i)
		carts = append(carts, c)
	}
	operator.Create(t, carts...)
	for _, c := range carts {
		operator.IsReady(t, c)
	}
	left, _ := operator.MetricOf(t, "m2m_provisioning_left_behind_total", nil)

	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 5, Burst: 1}
	})
	for _, c := range carts {
		operator.Remove(t, c)
	}
	for _, c := range carts {
		operator.IsGone(t, c)
	}
	if now, _ := operator.MetricOf(t, "m2m_provisioning_left_behind_total", nil); now != left {
		t.Errorf("something of %v clients was left behind", now-left)
	}
	if n := w.ApplicationsOf(w.Shop); n != 0 {
		t.Errorf("%d applications are still there", n)
	}
}

// TestAnAPIThatStaysAtTheServerHasNoFinalizer changes the deletion policy after the server
// stopped being provisioned.
func TestAnAPIThatStaysAtTheServerHasNoFinalizer(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api := w.Server(), w.API()
	api.Spec.DeletionPolicy = v1alpha1.DeletionDelete
	operator.Create(t, w.Management(), as, api)
	operator.IsReady(t, api)
	if len(api.Finalizers) == 0 {
		t.Fatal("an API that a deletion removes from its server has no finalizer")
	}
	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning = v1alpha1.Provisioning{} })
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.DeletionPolicy = v1alpha1.DeletionRetain })
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil {
			return err
		}
		if len(api.Finalizers) > 0 {
			return fmt.Errorf("the API has the finalizers %q", api.Finalizers)
		}
		return nil
	})
}
