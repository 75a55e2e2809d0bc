// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// Create creates objects.
func Create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := Kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
	}
}

// Change updates an object, and retries on a conflict.
func Change[T client.Object](t *testing.T, obj T, mutate func(T)) {
	t.Helper()
	for range 20 {
		if err := Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Fatal(err)
		}
		mutate(obj)
		err := Kube.Update(t.Context(), obj)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	t.Fatal("too many conflicts")
}

// Remove deletes an object.
func Remove(t *testing.T, obj client.Object) {
	t.Helper()
	if err := Kube.Delete(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

// IsGone waits until an object no longer exists.
func IsGone(t *testing.T, obj client.Object) {
	t.Helper()
	Eventually(t, func() error {
		err := Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it still exists, with the finalizers %q: %w", obj.GetFinalizers(), err)
	})
}

// NamesOf selects namespaces by their names.
func NamesOf(namespaces ...string) v1alpha1.NamespaceSelection {
	var s v1alpha1.NamespaceSelection
	for _, n := range namespaces {
		s.Names = append(s.Names, v1alpha1.NamespaceName(n))
	}
	return s
}

// Labelled selects namespaces by a label.
func Labelled(key, value string) v1alpha1.NamespaceSelection {
	return v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
}

// WithLabels replaces a namespace's labels.
func WithLabels(t *testing.T, namespace string, labels map[string]string) {
	t.Helper()
	Change(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, func(ns *corev1.Namespace) { ns.Labels = labels })
}

// Label moves a client to a shard, "" for none.
func Label(t *testing.T, c *v1alpha1.M2MClient, shard string) {
	t.Helper()
	Change(t, c, func(c *v1alpha1.M2MClient) {
		c.Labels = nil
		if shard != "" {
			c.Labels = map[string]string{v1alpha1.ShardLabel: shard}
		}
	})
}

// Eventually waits up to 30 seconds until a check passes.
var Eventually = kubetest.Eventually

// HasCondition waits until an object has a condition of a status and reason.
func HasCondition(t *testing.T, obj client.Object, conditionType string, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	var c *metav1.Condition
	Eventually(t, func() error {
		if err := Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		c = meta.FindStatusCondition(ConditionsOf(obj), conditionType)
		if c == nil {
			return fmt.Errorf("%T %q has no condition %s", obj, obj.GetName(), conditionType)
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("%s is %s, %s: %s; want %s, %s", conditionType, c.Status, c.Reason, c.Message, status, reason)
		}
		if c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("%s is about generation %d, want %d", conditionType, c.ObservedGeneration, obj.GetGeneration())
		}
		return nil
	})
	return *c
}

// Says checks an object's condition, and that its message contains these parts.
func Says(t *testing.T, obj client.Object, conditionType, reason string, parts ...string) {
	t.Helper()
	c := HasCondition(t, obj, conditionType, metav1.ConditionFalse, reason)
	for _, part := range parts {
		if !strings.Contains(c.Message, part) {
			t.Errorf("the message of %s does not say %q: %s", conditionType, part, c.Message)
		}
	}
}

// IsReady waits until an object is ready.
func IsReady(t *testing.T, obj client.Object) {
	t.Helper()
	HasCondition(t, obj, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
}

// ConditionIs reports whether a condition of a fetched object has a status.
func ConditionIs(obj client.Object, conditionType string, status metav1.ConditionStatus) bool {
	for _, c := range ConditionsOf(obj) {
		if c.Type == conditionType {
			return c.Status == status
		}
	}
	return false
}

// ConditionsOf returns the conditions of an object of any of the operator's kinds.
func ConditionsOf(obj client.Object) []metav1.Condition {
	switch o := obj.(type) {
	case *v1alpha1.M2MClient:
		return o.Status.Conditions
	case *v1alpha1.APIResource:
		return o.Status.Conditions
	}
	return record.StatusOf(obj).Conditions
}
