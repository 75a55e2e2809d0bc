// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// act is a step from one state to another. It prints as Go, for a regression test.
type act struct {
	// do is one of the names of deeds.
	do string
	// on is a manifest of the scene, as "Kind namespace/name", or the kind of the objects that the operator wrote, or a
	// namespace.
	on string
	// path and value are those of a field, or of an annotation.
	path, value string
	// hurry goes on before the operator has done what this needs.
	hurry bool
}

// String returns the act as it is written in a test.
func (a act) String() string {
	parts := []string{fmt.Sprintf("do: %q", a.do)}
	for _, p := range []struct{ name, value string }{{"on", a.on}, {"path", a.path}, {"value", a.value}} {
		if p.value != "" {
			parts = append(parts, p.name+": "+literal(p.value))
		}
	}
	if a.hurry {
		parts = append(parts, "hurry: true")
	}
	return "{" + strings.Join(parts, ", ") + "},"
}

func literal(s string) string {
	if strings.ContainsAny(s, "`\n") || !strings.ContainsAny(s, `"\`) {
		return fmt.Sprintf("%q", s)
	}
	return "`" + s + "`"
}

// deeds are what an act can do. They return what the API server refuses.
var deeds = map[string]func(*world, act) error{
	"set":      (*world).setField,
	"annotate": (*world).annotateManifest,
	"remove":   (*world).removeManifest,
	"recreate": (*world).recreate,
	"restart":  func(w *world, _ act) error { w.restart(); return nil },
	"edit":     ours((*world).edit),
	"forge":    ours((*world).forge),
	"relabel":  ours((*world).relabel),
	"freeze":   ours((*world).freeze),
	"replace":  ours((*world).replace),
	"delete":   ours((*world).deleteOurs),
	"unlock":   (*world).unlock,
	"raze":     (*world).raze,
}

// perform does an act, and lets the operator rest unless it is in a hurry.
func (w *world) perform(a act) error {
	w.t.Helper()
	deed := deeds[a.do]
	if deed == nil {
		w.t.Fatalf("nothing does %q", a.do)
	}
	if err := deed(w, a); err != nil {
		return err
	}
	if a.hurry {
		w.catchUp()
		w.round()
		return nil
	}
	w.rest()
	return nil
}

func (w *world) setField(a act) error {
	g := w.want.copy()
	if g[a.on] == nil {
		return nil // it is removed at present
	}
	kind, _, _ := strings.Cut(a.on, " ")
	change(g[a.on], kind, a.path, a.value)
	if err := w.apply(g); err != nil {
		return err
	}
	return nil
}

func (w *world) annotateManifest(a act) error {
	g := w.want.copy()
	if g[a.on] == nil {
		return nil
	}
	u := unstructured.Unstructured{Object: g[a.on]}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[a.path] = a.value
	u.SetAnnotations(annotations)
	return w.apply(g)
}

func (w *world) removeManifest(a act) error {
	g := w.want.copy()
	delete(g, a.on)
	return w.apply(g)
}

// recreate deletes an object of the scene, and creates it again at once.
func (w *world) recreate(a act) error {
	w.t.Helper()
	g := w.want.copy()
	if g[a.on] == nil {
		return nil
	}
	without := g.copy()
	delete(without, a.on)
	if err := w.apply(without); err != nil {
		return err
	}
	return w.apply(g)
}

// unlock removes the finalizers of an object by hand.
func (w *world) unlock(a act) error {
	w.t.Helper()
	manifest, _ := w.applied[a.on].(map[string]any)
	if manifest == nil {
		return nil
	}
	live := &unstructured.Unstructured{Object: manifest}
	live = live.DeepCopy()
	if err := operator.Kube.Get(w.t.Context(), client.ObjectKeyFromObject(live), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	before := live.DeepCopy()
	live.SetFinalizers(nil)
	return operator.Kube.Patch(w.t.Context(), live, client.MergeFrom(before))
}

// ours does something to each object of a kind that the operator wrote in the tenants' namespaces.
func ours(do func(*world, act, *unstructured.Unstructured) error) func(*world, act) error {
	return func(w *world, a act) error {
		w.t.Helper()
		for _, u := range w.objects() {
			if u.GetKind() != a.on || u.GetLabels()[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue || !slices.Contains(w.all(), u.GetNamespace()) {
				continue
			}
			if err := do(w, a, u); err != nil && !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
				return err
			}
		}
		return nil
	}
}

// edit replaces the content of an object, or removes it with the value "".
func (w *world) edit(a act, u *unstructured.Unstructured) error {
	for _, field := range []string{"data", "spec"} {
		content, ok := u.Object[field].(map[string]any)
		if !ok {
			continue
		}
		for key := range content {
			if _, isText := content[key].(string); a.value == "" || !isText {
				delete(content, key)
			} else {
				content[key] = a.value
			}
		}
	}
	return operator.Kube.Update(w.t.Context(), u)
}

// forge sets one of the operator's annotations, or removes it with the value "".
func (w *world) forge(a act, u *unstructured.Unstructured) error {
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[a.path] = w.values.Replace(a.value)
	if a.value == "" {
		delete(annotations, a.path)
	}
	u.SetAnnotations(annotations)
	return operator.Kube.Update(w.t.Context(), u)
}

// relabel takes an object away from the operator: it is somebody else's then.
func (w *world) relabel(a act, u *unstructured.Unstructured) error {
	labels := u.GetLabels()
	labels[v1alpha1.ManagedByLabel] = a.value
	u.SetLabels(labels)
	return operator.Kube.Update(w.t.Context(), u)
}

// freeze makes an object immutable.
func (w *world) freeze(_ act, u *unstructured.Unstructured) error {
	u.Object["immutable"] = true
	return operator.Kube.Update(w.t.Context(), u)
}

// replace puts somebody else's object in the place of one.
func (w *world) replace(_ act, u *unstructured.Unstructured) error {
	if err := operator.Kube.Delete(w.t.Context(), u.DeepCopy()); err != nil {
		return client.IgnoreNotFound(err)
	}
	other := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
	other.SetName(u.GetName())
	other.SetNamespace(u.GetNamespace())
	other.SetLabels(map[string]string{"of": "somebody"})
	if spec, ok := u.Object["spec"]; ok {
		other.Object["spec"] = spec
	}
	return operator.Kube.Create(w.t.Context(), other)
}

func (w *world) deleteOurs(_ act, u *unstructured.Unstructured) error {
	return client.IgnoreNotFound(operator.Kube.Delete(w.t.Context(), u))
}

// usurped reports whether something is in the place of an object of the operator.
func (w *world) usurped() bool { return len(w.usurpers()) > 0 }

func (w *world) usurpers() (all []*unstructured.Unstructured) {
	w.t.Helper()
	for _, u := range w.objects() {
		if u.GetLabels()["of"] == "somebody" || u.GetLabels()[v1alpha1.ManagedByLabel] == "somebody" {
			all = append(all, u)
		}
	}
	return all
}

// reverse takes everything back: manifests are those of the scene, and what was put in the place of the operator's
// objects is deleted. What somebody did to the operator's own objects, the operator has to repair.
func (w *world) reverse(base git) {
	w.t.Helper()
	for _, u := range w.usurpers() {
		if err := operator.Kube.Delete(w.t.Context(), u); client.IgnoreNotFound(err) != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.apply(base); err != nil {
		w.t.Fatal(err)
	}
	w.rest()
}
