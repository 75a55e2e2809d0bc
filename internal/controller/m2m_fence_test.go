// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestFinalizerFence attacks with the operator's own ServiceAccount, which may do
// everything here. On the operator's kinds it can change one finalizer and the status,
// nothing else.
func TestFinalizerFence(t *testing.T) {
	asOperator, err := client.New(fencedOperator(t, "finalizers.yaml"), client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ns := operator.NewNamespace(t, "fence", nil)
	// A new policy takes effect after a short delay.
	operator.Eventually(t, func() error {
		probe := manifestOf(t, ns, "api", "")
		if err := asOperator.Create(t.Context(), probe, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "'finalizer-fence'") {
			return fmt.Errorf("the fence is not up: %w", err)
		}
		return nil
	})
	for kind := range specs {
		t.Run(kind, func(t *testing.T) { attackKind(t, asOperator, ns, kind) })
	}
}

// attackKind attacks an object of one kind as the operator.
func attackKind(t *testing.T, asOperator client.Client, ns, kind string) {
	const held = "example.com/held"
	obj := manifestOf(t, ns, kind, map[string]string{"client": anAccess}[kind])
	obj.SetLabels(map[string]string{"team": "payments"})
	obj.SetAnnotations(map[string]string{"example.com/owner": "payments"})
	obj.SetFinalizers([]string{held})
	operator.Create(t, obj)
	defer func() {
		operator.Remove(t, obj)
		operator.Change(t, obj, func(o *unstructured.Unstructured) { o.SetFinalizers(nil) })
	}()
	patch := func(patchType types.PatchType, text string) func() error {
		return func() error {
			return asOperator.Patch(t.Context(), obj.DeepCopy(), client.RawPatch(patchType, []byte(text)))
		}
	}
	// also adds the finalizer and makes another change in the same request.
	also := func(text string) func() error {
		return patch(types.MergePatchType, `{"metadata":{"finalizers":["`+held+`","`+v1alpha1.ProvisioningFinalizer+`"]},`+text+`}`)
	}
	spec := map[string]string{
		"api":    `"spec":{"grants":[{"clients":{"namespaces":{"names":["evil"]}}}]}`,
		"client": `"spec":{"access":[{"apiResourceRef":{"name":"other"}}]}`,
		"server": `"spec":{"endpoints":{"token":"https://evil.example.com/"}}`, "cluster server": `"spec":{"allowedNamespaces":{"names":["evil"]}}`,
	}[kind]
	for _, tc := range []struct {
		name    string
		do      func() error
		allowed bool
	}{
		{"it adds the finalizer", also(`"kind":"` + obj.GetKind() + `"`), true},
		{"it adds the finalizer again", also(`"kind":"` + obj.GetKind() + `"`), true},
		{"it removes the finalizer", patch(types.MergePatchType, `{"metadata":{"finalizers":["`+held+`"]}}`), true},
		{"it adds the finalizer by an update", func() error {
			o := obj.DeepCopy()
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			controllerutil.AddFinalizer(o, v1alpha1.ProvisioningFinalizer)
			return asOperator.Update(t.Context(), o)
		}, true},
		{"it writes the status", func() error {
			return asOperator.Status().Patch(t.Context(), obj.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"status":{"observedGeneration":1}}`)))
		}, true},
		{"it changes the spec", patch(types.MergePatchType, `{`+spec+`}`), false},
		{"it changes the spec and the finalizer", also(spec), false},
		{"it adds a label", patch(types.MergePatchType, `{"metadata":{"labels":{"a":"b"}}}`), false},
		{"it removes all labels", patch(types.MergePatchType, `{"metadata":{"labels":null}}`), false},
		{"it changes an annotation", patch(types.MergePatchType, `{"metadata":{"annotations":{"example.com/owner":"evil"}}}`), false},
		{"it adds an owner", patch(types.MergePatchType, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"1"}]}}`), false},
		{"it adds another finalizer", patch(types.JSONPatchType, `[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/forever"}]`), false},
		{"it removes another's finalizer", patch(types.MergePatchType, `{"metadata":{"finalizers":["`+v1alpha1.ProvisioningFinalizer+`"]}}`), false},
		{"it removes all finalizers", patch(types.MergePatchType, `{"metadata":{"finalizers":null}}`), false},
		{"it creates one", func() error {
			o := manifestOf(t, ns, kind, map[string]string{"client": anAccess}[kind])
			o.SetName("mine")
			return asOperator.Create(t.Context(), o)
		}, false},
		{"it applies one", func() error {
			o := manifestOf(t, ns, kind, map[string]string{"client": anAccess}[kind])
			o.SetName("mine")
			return asOperator.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("m2m-operator"))
		}, false},
		{"it deletes one", func() error { return asOperator.Delete(t.Context(), obj.DeepCopy()) }, false},
		{"it deletes all of them", func() error {
			return asOperator.DeleteAllOf(t.Context(), obj.DeepCopy(), client.InNamespace(obj.GetNamespace()))
		}, false},
		{"somebody else changes the spec", func() error {
			return operator.Kube.Patch(t.Context(), obj.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{`+spec+`}`)), client.DryRunAll)
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.do()
			if tc.allowed && err != nil {
				t.Errorf("was denied: %v", err)
			}
			if !tc.allowed && (err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'finalizer-fence'")) {
				t.Errorf("was not denied by the fence: %v", err)
			}
		})
	}
}

// TestTheOperatorLetsGo: with only the right to patch, the operator removes its
// finalizer from an object that is being deleted, and the object goes.
func TestTheOperatorLetsGo(t *testing.T) {
	asOperator, err := client.New(fencedOperator(t, "finalizers.yaml"), client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ns := operator.NewNamespace(t, "fence", nil)
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cart", Finalizers: []string{v1alpha1.ProvisioningFinalizer}}}
	c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api"}}}
	operator.Create(t, c)
	operator.Remove(t, c)
	// A new policy takes effect after a short delay.
	operator.Eventually(t, func() error {
		if err := asOperator.Delete(t.Context(), c.DeepCopy(), client.DryRunAll); err == nil || !strings.Contains(err.Error(), "'finalizer-fence'") {
			return fmt.Errorf("the fence is not up: %w", err)
		}
		return nil
	})
	if err := asOperator.Patch(t.Context(), c.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the M2MClient is still there: %v", err)
	}
}
