// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestARefusedSecretIsTold: a policy of the cluster refuses the token Secret.
// The client says so, the token is not asked for again and again, what is there
// stays, and it is published as soon as it may be.
func TestARefusedSecretIsTold(t *testing.T) {
	op := startStepped(t)
	w := newWorld(t)
	lift := refuseSecrets(t, w.shop)
	_, cart := w.story()
	passes := func() { // it does not come to rest: each pass offers the Secret again
		for range 4 {
			op.round(w.payments, w.shop)
		}
	}
	passes()
	c := hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	if !strings.Contains(c.Message, "no token Secrets here") {
		t.Errorf("the condition does not say what the policy says: %s", c.Message)
	}
	if strings.Contains(c.Message, "eyJ") || !strings.Contains(c.Message, "(removed)") {
		t.Error("the condition shows the token that the policy showed")
	}
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	for range 3 {
		op.advance(time.Minute)
		passes()
	}
	if n := len(w.as.TokenRequests()); n != 1 {
		t.Errorf("%d tokens were requested for a Secret that is refused, want 1", n)
	}

	lift()
	op.advance(time.Minute)
	op.settle(w.shop)
	isReady(t, cart)
	first := tokenIn(t, w.shop, "cart-token", "payment-api")
	if n := len(w.as.TokenRequests()); first == "" || n != 1 {
		t.Errorf("the token that was held was not published: %d requests", n)
	}

	refuseSecrets(t, w.shop)
	op.advance(45 * time.Minute)
	passes()
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonSecretRefused)
	isReady(t, cart)
	if tokenIn(t, w.shop, "cart-token", "payment-api") != first {
		t.Error("the token that works did not stay")
	}
	op.advance(20 * time.Minute)
	passes()
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenExpired)
}

// refuseSecrets has the API server refuse the Secret cart-token of a namespace
// until lift is called or the test ends.
func refuseSecrets(t *testing.T, namespace string) (lift func()) {
	t.Helper()
	// A careless policy shows what it saw.
	return refuse(t, namespace, "secrets", "cart-token",
		"'no token Secrets here: ' + (has(object.data) && 'payment-api' in object.data ? string(object.data['payment-api']) : '')")
}

// refuse has the API server refuse the Secrets or ConfigMaps of a namespace
// whose names begin so, until lift is called or the test ends.
func refuse(t *testing.T, namespace, resource, prefix, message string) (lift func()) {
	t.Helper()
	name := "refuse-" + namespace + "-" + strings.ToLower(time.Now().Format("150405.000000"))
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
				}}},
			},
			Validations: []admissionv1.Validation{{
				Expression:        "!object.metadata.name.startsWith('" + prefix + "')",
				MessageExpression: message,
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
	create(t, policy, binding)
	probe := func() error {
		var o client.Object = &corev1.Secret{}
		if resource == "configmaps" {
			o = &corev1.ConfigMap{}
		}
		o.SetNamespace(namespace)
		o.SetName(prefix + "-probe")
		return kube.Create(t.Context(), o, client.DryRunAll)
	}
	eventually(t, func() error {
		if probe() == nil {
			return errors.New("the policy is not in force yet")
		}
		return nil
	})
	remove := sync.OnceFunc(func() {
		for _, o := range []client.Object{binding, policy} {
			if err := kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(remove)
	return func() {
		remove()
		eventually(t, probe)
	}
}
