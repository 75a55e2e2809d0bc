// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestComparedOnRequest annotates an APIResource and a client after somebody has changed
// them at the server, where the operator would not look for an hour. A request is handled
// once, and also while the last comparison has failed.
func TestComparedOnRequest(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.StartStepped(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	as.Spec.Provisioning.ResyncInterval = "1h"
	operator.Create(t, w.Management(), as, api, cart)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	request := func(o client.Object, value string) {
		t.Helper()
		operator.Change(t, o, func(o client.Object) {
			o.SetAnnotations(map[string]string{v1alpha1.RefreshRequestedAnnotation: value})
		})
		op.Settle(w.Payments, w.Shop)
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	isNamed := func(want string) error {
		for _, a := range w.Logto.Snapshot().Applications {
			if a.ID == app.ID && a.Name != want {
				return fmt.Errorf("the application is named %q, want %q", a.Name, want)
			}
		}
		return nil
	}

	must(w.Logto.RemoveScope(string(api.Spec.Identifier), "payments:read"))
	must(w.Logto.RenameApplication(app.ID, "renamed"))
	op.Advance(time.Minute)
	op.Settle(w.Payments, w.Shop)
	must(isNamed("renamed"))
	request(api, "1")
	operator.Told(t, api, v1alpha1.ReasonDriftCorrected, "payments:read")
	must(isNamed("renamed")) // only what was asked for
	request(cart, "1")
	must(isNamed(app.Name))
	if a, c := api.Status.Provisioning.LastHandledRefreshAt, cart.Status.Provisioning.LastHandledRefreshAt; a != "1" || c != "1" {
		t.Errorf("the statuses say that %q and %q were handled", a, c)
	}
	op.Advance(time.Minute)
	w.Logto.ResetRequests()
	op.Settle(w.Payments, w.Shop)
	for r, n := range w.Logto.Requests() {
		if strings.Contains(r, "/api/") {
			t.Errorf("%d requests %q after all was handled", n, r)
		}
	}

	// While the server refuses, each request is one comparison.
	w.Logto.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.URL.Path == "/api/applications" {
			return logtotest.Fault{Status: http.StatusForbidden}
		}
		return logtotest.Fault{}
	})
	request(cart, "2")
	operator.ProvisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
	for range 4 { // the wait becomes longer
		op.Clock.SetTime(cart.Status.Provisioning.Failure.NextAttemptAt.Time)
		request(cart, "2")
	}
	w.Logto.SetFault(nil)
	op.Advance(time.Second)
	request(cart, "2")
	operator.ProvisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
	request(cart, "3")
	operator.ProvisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	if got := cart.Status.Provisioning.LastHandledRefreshAt; got != "3" {
		t.Errorf("the status says that %q was handled", got)
	}
}

// TestRotatedOnRequest changes the annotation that requests another client secret again and
// again. One request per interval is handled, the last one is not lost, and the status names
// a request only once its secret is in use.
func TestRotatedOnRequest(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.StartStepped(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	operator.Create(t, w.Management(), as, api, cart)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	var last string
	rotations := 0
	request := func(value string) {
		t.Helper()
		operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
			c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: value}
		})
		op.Settle(w.Payments, w.Shop)
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			t.Fatal(err)
		}
		if name := cart.Status.Provisioning.Credential.Name; name != last {
			last = name
			rotations++
		}
	}
	request("0")
	rotations = 0
	op.Advance(pace.RequestInterval)
	for i := range 10 {
		request(fmt.Sprint("a", i))
	}
	if handled := cart.Status.Provisioning.LastHandledRotation; rotations != 1 || handled != "a0" {
		t.Errorf("after ten requests at once there were %d new secrets, and %q was handled", rotations, handled)
	}
	op.Advance(pace.RequestInterval)
	request("a9")
	if handled := cart.Status.Provisioning.LastHandledRotation; rotations != 2 || handled != "a9" {
		t.Errorf("after the interval there were %d new secrets, and %q was handled", rotations, handled)
	}
}
