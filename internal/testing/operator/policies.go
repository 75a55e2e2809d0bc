// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
)

// Enforcing lets an operator write the policies of gateways.
func Enforcing(all ...controller.Gateway) func(*controller.Options) {
	return func(o *controller.Options) { o.Enforcement = all }
}

// Policy returns a policy of a gateway, nil if there is none.
func Policy(t *testing.T, k gateways.Kind, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	u := NewPolicy(k, namespace, name)
	err := Kube.Get(t.Context(), client.ObjectKeyFromObject(u), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// NewPolicy returns an empty policy of a gateway.
func NewPolicy(k gateways.Kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.Resource.GroupVersion().WithKind(k.Name))
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// SeesPolicy waits until the operator has seen a policy as it is now.
func (op *Operator) SeesPolicy(k gateways.Kind, namespace, name string) {
	op.T.Helper()
	Eventually(op.T, func() error {
		version, seen := "", ""
		if u := Policy(op.T, k, namespace, name); u != nil {
			version = u.GetResourceVersion()
		}
		if o := op.Shared.Policies.Get(k, types.NamespacedName{Namespace: namespace, Name: name}); o != nil {
			seen = o.Version
		}
		if version != seen {
			return fmt.Errorf("the operator has seen version %q of %s %q, not %q", seen, k.Name, name, version)
		}
		return nil
	})
}
