// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/provisioning"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// TestWhatBecomesOfAReplacedSecret: the server may have lost it.
func TestWhatBecomesOfAReplacedSecret(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)
	retiring := func(at time.Time) provision.Credential {
		return provision.Credential{Name: "1", Stage: provision.Retiring, RetireAt: at}
	}
	current := provision.Credential{Name: "2", Stage: provision.Current}
	for name, tc := range map[string]struct {
		credentials []provision.Credential
		want        string
	}{
		"it retires":         {[]provision.Credential{retiring(now.Truncate(time.Second).Add(10 * time.Minute)), current}, "the old one stays valid for 10m0s"},
		"its time is over":   {[]provision.Credential{retiring(now.Truncate(time.Second)), current}, "the old one is not valid any more"},
		"the server lost it": {[]provision.Credential{current}, "the old one is not valid any more"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := provisioning.WhatOfTheOld("1", &provision.ClientState{Credentials: tc.credentials}, now); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestASecretThatTheServerLost is replaced, and the event does not say that it is valid.
func TestASecretThatTheServerLost(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	_, api, cart := w.story()
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")
	if err := w.logto.DeleteSecret(app.ID, app.Secrets[0]); err != nil {
		t.Fatal(err)
	}
	told(t, cart, v1alpha1.ReasonCredentialRotated, "the old one is not valid any more")
}

// TestARecoveredServerIsTold as soon as something is provisioned at it, and not when
// its next check is due.
func TestARecoveredServerIsTold(t *testing.T) {
	w := newTenant(t)
	op := startStepped(t)
	as, _, cart := w.story()
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	w.logto.SetFault(func(*http.Request, int) logtotest.Fault { return logtotest.Fault{Status: 503} })
	op.advance(time.Minute)
	op.settle(w.payments, w.shop)
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonProvisioningFailed)
	w.logto.SetFault(nil)
	hasCondition(t, cart, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonProvisioningFailed)
	// Only the client comes back.
	op.clock.SetTime(cart.Status.Provisioning.Failure.NextAttemptAt.Time)
	if _, err := op.clientProvisioner.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(cart))); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-op.servers.wakes[v1alpha1.KindAuthorizationServer]:
		if _, err := op.server[0].Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(e.Object))); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the server is not looked at")
	}
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
}
