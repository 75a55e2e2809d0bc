// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestARefusedSecretIsTold: a policy of the cluster refuses the token Secret. The
// client's condition says so, the operator does not request the token again and again,
// the existing Secret stays, and the token is published as soon as the policy allows
// it.
func TestARefusedSecretIsTold(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	lift := refuseSecrets(t, w.Shop)
	_, cart := w.Story()
	passes := func() { // it never settles: each pass offers the Secret again
		for range 4 {
			op.Round(w.Payments, w.Shop)
		}
	}
	passes()
	c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	if !strings.Contains(c.Message, "no token Secrets here") {
		t.Errorf("the condition does not contain the policy's message: %s", c.Message)
	}
	if strings.Contains(c.Message, "eyJ") || !strings.Contains(c.Message, "(removed)") {
		t.Error("the condition shows the token that the policy showed")
	}
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	for range 3 {
		op.Advance(time.Minute)
		passes()
	}
	if n := len(w.AS.TokenRequests()); n != 1 {
		t.Errorf("%d tokens were requested for a Secret that is refused, want 1", n)
	}

	lift()
	op.Advance(time.Minute)
	op.Settle(w.Shop)
	operator.IsReady(t, cart)
	first := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	if n := len(w.AS.TokenRequests()); first == "" || n != 1 {
		t.Errorf("the token that was held was not published: %d requests", n)
	}

	refuseSecrets(t, w.Shop)
	op.Advance(45 * time.Minute)
	passes()
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	operator.IsReady(t, cart)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != first {
		t.Error("the working token did not stay")
	}
	op.Advance(20 * time.Minute)
	passes()
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenExpired)
}

// refuseSecrets makes the API server refuse the Secret cart-token of a namespace until
// lift is called or the test ends.
func refuseSecrets(t *testing.T, namespace string) (lift func()) {
	t.Helper()
	// A careless policy shows what it saw.
	return operator.Refuse(t, namespace, "secrets", "cart-token",
		"'no token Secrets here: ' + (has(object.data) && 'payment-api' in object.data ? string(object.data['payment-api']) : '')")
}
