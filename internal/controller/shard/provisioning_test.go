// SPDX-License-Identifier: Apache-2.0

package shard_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/provisioning"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestARegisteredClientIsHandedOver: its application and the credentials in the
// operator's namespace stay, whichever instance reconciles them, and are removed with
// the client.
func TestARegisteredClientIsHandedOver(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, operator.OfShard("")) // it serves the APIs
	a := operator.StartStepped(t, operator.OfShard("a"))
	as, api, cart := w.Server(), w.API(), w.Cart()
	cart.Labels = map[string]string{v1alpha1.ShardLabel: "a"}
	operator.Create(t, w.Management(), as, api, cart)
	name := client.ObjectKeyFromObject(cart)
	provision := func(p *provisioning.ClientReconciler) {
		t.Helper()
		if _, err := p.Reconcile(t.Context(), operator.RequestOf(name)); err != nil {
			t.Fatal(err)
		}
	}
	operator.Eventually(t, func() error {
		if _, err := a.ClientProvisioning.Reconcile(t.Context(), operator.RequestOf(name)); err != nil {
			return err
		}
		if err := a.ReconcileClient(cart); err != nil {
			return err
		}
		if err := operator.Kube.Get(t.Context(), name, cart); err != nil {
			return err
		}
		if !operator.HasToken(cart) {
			return fmt.Errorf("it is not ready: %v", cart.Status.Conditions)
		}
		return nil
	})
	app, _ := w.Granted(api, "payments:write")
	credentials := func() (*corev1.Secret, error) {
		s := &corev1.Secret{}
		return s, operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: operator.Namespace, Name: record.CredentialSecretName(name)}, s)
	}
	before, err := credentials()
	if err != nil {
		t.Fatal(err)
	}
	kept := func(when string) {
		t.Helper()
		s, err := credentials()
		if err != nil || s.UID != before.UID {
			t.Fatalf("%s: the credentials are gone: %v", when, err)
		}
	}

	operator.Label(t, cart, "")
	a.ServedBy("a", cart, false)
	provision(a.ClientProvisioning)
	kept("the shard has lost the client")
	late := *a.ClientProvisioning // the main instance with the shard's cache: it cleans up
	late.Shard, late.Clock = "", clocktesting.NewFakePassiveClock(a.Clock.Now().Add(2*provisioning.RestoreGrace))
	provision(&late)
	kept("an instance does not have the client in its cache yet")

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].Scopes = append(c.Spec.Access[0].Scopes, "payments:read")
	})
	if again, _ := w.Granted(api, "payments:read", "payments:write"); again.ID != app.ID {
		t.Error("the new instance has registered the client again")
	}
	operator.IsReady(t, cart)
	operator.Remove(t, cart)
	operator.Eventually(t, func() error {
		if n := w.ApplicationsOf(w.Shop + "/cart"); n != 0 {
			return fmt.Errorf("there are %d applications", n)
		}
		if _, err := credentials(); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("the credentials are still there: %w", err)
		}
		return nil
	})
}

// TestCredentialsOfAShardsClientGoWithIt removes the finalizer of a client that
// another instance serves.
func TestCredentialsOfAShardsClientGoWithIt(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.StartStepped(t, operator.OfShard(""))
	name := types.NamespacedName{Namespace: w.Shop, Name: "cart"}
	if _, err := record.WriteCredentials(t.Context(), op.Client, operator.Namespace, name, nil, record.CredentialStore{ClientState: provision.ClientState{Sequence: 1}}); err != nil {
		t.Fatal(err)
	}
	credentials := func() error {
		result, err := op.ClientProvisioning.Reconcile(t.Context(), operator.RequestOf(name))
		if err != nil {
			t.Fatal(err)
		}
		err = operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: operator.Namespace, Name: record.CredentialSecretName(name)}, &corev1.Secret{})
		if (err == nil) != (result.RequeueAfter > 0) {
			t.Errorf("it is reconciled again after %s, and its credentials: %v", result.RequeueAfter, err)
		}
		return err
	}
	// A backup may be restoring the client at this moment.
	if err := credentials(); err != nil {
		t.Errorf("the credentials of a client that may still come: %v", err)
	}
	op.Advance(provisioning.RestoreGrace + time.Second)
	if err := credentials(); !apierrors.IsNotFound(err) {
		t.Errorf("the credentials of a client that is gone: %v", err)
	}
}

// TestAHandOverInTheMiddleOfARegistration: the old instance has created the
// application and is about to store its first credential when the new one takes over.
// In the end there is one application, with a credential that works.
func TestAHandOverInTheMiddleOfARegistration(t *testing.T) {
	w := operator.NewTenant(t)
	main := operator.Start(t, operator.OfShard(""))
	release := make(chan struct{})
	cfg, fault := operator.Broken(http.MethodPost, "/"+operator.Namespace+"/secrets", 0, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		<-release
		return next.RoundTrip(req)
	})
	a := operator.StartSteppedOver(t, cfg, operator.OfShard("a"))
	as, api, cart := w.Server(), w.API(), w.Cart()
	cart.Labels = map[string]string{v1alpha1.ShardLabel: "a"}
	operator.Create(t, w.Management(), as, api, cart)
	operator.ProvisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	a.Agrees(a.Client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(w.Payments))
	a.Agrees(a.Client, &v1alpha1.APIResourceList{}, client.InNamespace(w.Payments))
	a.ServedBy("a", cart, true)
	fault.Armed.Store(1)
	late := make(chan error, 1)
	go func() {
		_, err := a.ClientProvisioning.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(cart)))
		late <- err
	}()
	<-fault.Met
	operator.Label(t, cart, "")
	main.ServedBy("", cart, true)
	operator.IsReady(t, cart)
	close(release)
	if err := <-late; err == nil {
		t.Error("existing credentials caused no error")
	}
	a.ServedBy("a", cart, false)
	if _, err := a.ClientProvisioning.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(cart))); err != nil {
		t.Error(err) // as the queue does after an error
	}
	w.Granted(api, "payments:write")
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}})
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
			return errors.New("there is no token")
		}
		return nil
	})
	operator.IsReady(t, cart)
}
