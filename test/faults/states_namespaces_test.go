// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// raze deletes a namespace, and makes it again from what is in Git. The test does what Kubernetes' namespace
// controller does: nothing can be created there any more, then all objects are deleted, and then the namespace goes.
func (w *world) raze(a act) error {
	w.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.values.Replace(a.on)}}
	if err := operator.Kube.Delete(w.t.Context(), ns); err != nil {
		return err
	}
	// Content goes first: the operator would write it again, and must not.
	for _, kinds := range [][]string{{"Secret", "ConfigMap"}, nil, nil, nil} {
		w.settle(patience)
		for _, wrong := range w.wrongs() {
			w.log.breach("while namespace %s is being deleted: %s", a.on, wrong)
		}
		for _, u := range w.within(ns.Name) {
			if kinds != nil && !slices.Contains(kinds, u.GetKind()) {
				continue
			}
			w.retain(u)
			if err := operator.Kube.Delete(w.t.Context(), u, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	w.settle(patience)
	for _, u := range w.within(ns.Name) {
		if u.GetKind() == "M2MClient" && w.unmanageable() { // somebody lets it go
			w.stays(u)
			u.SetFinalizers(nil)
			if err := operator.Kube.Update(w.t.Context(), u); client.IgnoreNotFound(err) != nil {
				return err
			}
			continue
		}
		w.log.breach("namespace %s is never empty: %s %s is left, with the finalizers %v", a.on, u.GetKind(), u.GetName(), u.GetFinalizers())
	}
	return w.rebuild(ns)
}

// within returns the objects in a namespace.
func (w *world) within(namespace string) []*unstructured.Unstructured {
	w.t.Helper()
	return slices.DeleteFunc(w.objects(), func(u *unstructured.Unstructured) bool { return u.GetNamespace() != namespace })
}

// rebuild lets a namespace go that is being deleted, and creates it again with its objects.
func (w *world) rebuild(ns *corev1.Namespace) error {
	w.t.Helper()
	if err := operator.Kube.Get(w.t.Context(), client.ObjectKeyFromObject(ns), ns); err != nil {
		return err
	}
	again := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels}}
	ns.Spec.Finalizers = nil
	if err := operator.Kube.SubResource("finalize").Update(w.t.Context(), ns); err != nil {
		return err
	}
	operator.Eventually(w.t, func() error {
		err := operator.Kube.Create(w.t.Context(), again.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			return err
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return nil
	})
	for key, manifest := range w.applied {
		u := unstructured.Unstructured{Object: manifest.(map[string]any)}
		if u.GetNamespace() == ns.Name {
			delete(w.applied, key)
		}
	}
	return w.apply(w.want.copy())
}
