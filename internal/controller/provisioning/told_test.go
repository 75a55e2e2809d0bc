// SPDX-License-Identifier: Apache-2.0

package provisioning_test

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
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestWhatBecomesOfAReplacedSecret: the event says whether the replaced secret is
// still valid. The server may have lost it.
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
		"its time is over":   {[]provision.Credential{retiring(now.Truncate(time.Second)), current}, "the old one is no longer valid"},
		"the server lost it": {[]provision.Credential{current}, "the old one is no longer valid"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := provisioning.WhatOfTheOld("1", &provision.ClientState{Credentials: tc.credentials}, now); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestASecretThatTheServerLost: the secret is replaced, and the event does not say
// that the old one is valid.
func TestASecretThatTheServerLost(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	_, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	if err := w.Logto.DeleteSecret(app.ID, app.Secrets[0]); err != nil {
		t.Fatal(err)
	}
	operator.Told(t, cart, v1alpha1.ReasonCredentialRotated, "the old one is no longer valid")
}

// TestARecoveredServerIsTold: the server's condition changes as soon as something is
// provisioned there, before its next check is due.
func TestARecoveredServerIsTold(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.StartStepped(t)
	as, _, cart := w.Story()
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	w.Logto.SetFault(func(*http.Request, int) logtotest.Fault { return logtotest.Fault{Status: 503} })
	op.Advance(time.Minute)
	op.Settle(w.Payments, w.Shop)
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonProvisioningFailed)
	w.Logto.SetFault(nil)
	operator.HasCondition(t, cart, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonProvisioningFailed)
	// Only the client is reconciled again.
	op.Clock.SetTime(cart.Status.Provisioning.Failure.NextAttemptAt.Time)
	if _, err := op.ClientProvisioning.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(cart))); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-op.Shared.Wakes[v1alpha1.KindAuthorizationServer]:
		if _, err := op.AuthorizationServers[0].Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(e.Object))); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the server is not reconciled")
	}
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
}
