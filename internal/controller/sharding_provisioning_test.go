// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// TestARegisteredClientIsHandedOver: its application and the credentials in the
// operator's namespace stay, whoever looks at them, and go with the client.
func TestARegisteredClientIsHandedOver(t *testing.T) {
	w := newTenant(t)
	startOperator(t, ofShard("")) // the APIs are its own
	a := startStepped(t, ofShard("a"))
	as, api, cart := w.server(), w.api(), w.cart()
	cart.Labels = map[string]string{v1alpha1.ShardLabel: "a"}
	create(t, w.management(), as, api, cart)
	name := client.ObjectKeyFromObject(cart)
	provision := func(p *provisioning.ClientReconciler) {
		t.Helper()
		if _, err := p.Reconcile(t.Context(), requestOf(name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if _, err := a.clientProvisioner.Reconcile(t.Context(), requestOf(name)); err != nil {
			return err
		}
		if err := a.reconcileClient(cart); err != nil {
			return err
		}
		if err := kube.Get(t.Context(), name, cart); err != nil {
			return err
		}
		if !hasToken(cart) {
			return fmt.Errorf("it is not ready: %v", cart.Status.Conditions)
		}
		return nil
	})
	app, _ := w.granted(api, "payments:write")
	credentials := func() (*corev1.Secret, error) {
		s := &corev1.Secret{}
		return s, kube.Get(t.Context(), types.NamespacedName{Namespace: operatorNamespace, Name: record.CredentialSecretName(name)}, s)
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

	label(t, cart, "")
	a.servedBy("a", cart, false)
	provision(a.clientProvisioner)
	kept("the shard has lost the client")
	late := *a.clientProvisioner // knows no more than the shard, and cleans up
	late.Shard, late.Clock = "", clocktesting.NewFakePassiveClock(a.clock.Now().Add(2*provisioning.RestoreGrace))
	provision(&late)
	kept("an instance does not have the client in its cache yet")

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access[0].Scopes = append(c.Spec.Access[0].Scopes, "payments:read")
	})
	if again, _ := w.granted(api, "payments:read", "payments:write"); again.ID != app.ID {
		t.Error("the new instance has registered the client anew")
	}
	isReady(t, cart)
	remove(t, cart)
	eventually(t, func() error {
		if n := w.applicationsOf(w.shop + "/cart"); n != 0 {
			return fmt.Errorf("there are %d applications", n)
		}
		if _, err := credentials(); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("the credentials are still there: %w", err)
		}
		return nil
	})
}

// TestCredentialsOfAShardsClientGoWithIt: somebody took the finalizer away from a
// client that another instance served.
func TestCredentialsOfAShardsClientGoWithIt(t *testing.T) {
	w := newTenant(t)
	op := startStepped(t, ofShard(""))
	name := types.NamespacedName{Namespace: w.shop, Name: "cart"}
	if _, err := record.WriteCredentials(t.Context(), op.client, operatorNamespace, name, nil, record.CredentialStore{ClientState: provision.ClientState{Sequence: 1}}); err != nil {
		t.Fatal(err)
	}
	credentials := func() error {
		result, err := op.clientProvisioner.Reconcile(t.Context(), requestOf(name))
		if err != nil {
			t.Fatal(err)
		}
		err = kube.Get(t.Context(), types.NamespacedName{Namespace: operatorNamespace, Name: record.CredentialSecretName(name)}, &corev1.Secret{})
		if (err == nil) != (result.RequeueAfter > 0) {
			t.Errorf("it is looked at again after %s, and its credentials: %v", result.RequeueAfter, err)
		}
		return err
	}
	// It may be a backup that is being restored.
	if err := credentials(); err != nil {
		t.Errorf("the credentials of a client that may come: %v", err)
	}
	op.advance(provisioning.RestoreGrace + time.Second)
	if err := credentials(); !apierrors.IsNotFound(err) {
		t.Errorf("the credentials of a client that is gone: %v", err)
	}
}

// TestAHandOverInTheMiddleOfARegistration: the old instance has made the
// application and is about to store its first credential when the new one takes
// over. There is one application in the end, and a credential that works.
func TestAHandOverInTheMiddleOfARegistration(t *testing.T) {
	w := newTenant(t)
	main := startOperator(t, ofShard(""))
	release := make(chan struct{})
	cfg, fault := broken(http.MethodPost, "/"+operatorNamespace+"/secrets", 0, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		<-release
		return next.RoundTrip(req)
	})
	a := startSteppedOver(t, cfg, ofShard("a"))
	as, api, cart := w.server(), w.api(), w.cart()
	cart.Labels = map[string]string{v1alpha1.ShardLabel: "a"}
	create(t, w.management(), as, api, cart)
	provisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	a.agrees(a.client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(w.payments))
	a.agrees(a.client, &v1alpha1.APIResourceList{}, client.InNamespace(w.payments))
	a.servedBy("a", cart, true)
	fault.armed.Store(1)
	late := make(chan error, 1)
	go func() {
		_, err := a.clientProvisioner.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(cart)))
		late <- err
	}()
	<-fault.met
	label(t, cart, "")
	main.servedBy("", cart, true)
	isReady(t, cart)
	close(release)
	if err := <-late; err == nil {
		t.Error("that the credentials are there already is no error")
	}
	a.servedBy("a", cart, false)
	if _, err := a.clientProvisioner.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(cart))); err != nil {
		t.Error(err) // as the queue does after an error
	}
	w.granted(api, "payments:write")
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}})
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-token", "payment-api") == "" {
			return errors.New("there is no token")
		}
		return nil
	})
	isReady(t, cart)
}
