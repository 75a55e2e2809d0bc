// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Bounds of what is kept of a policy. Anybody can write one with the operator's label.
const (
	maxVerdicts = 64
	maxMessage  = 256
	maxContents = 32 << 10
)

// Object is what is kept of a policy.
type Object struct {
	// Whole reports whether more is known than the metadata.
	Whole bool

	Name       types.NamespacedName
	UID        types.UID
	Version    string // resourceVersion
	Generation int64
	Created    time.Time

	// API and Owner are UID and name of the APIResource that controls the policy, empty if
	// none does. Foreign reports that another object controls it.
	API     types.UID
	Owner   string
	Foreign bool

	// Marked reports whether the policy has a v1alpha1.ContentsAnnotation.
	Marked bool

	// These are known of a whole policy.
	Contents string        // v1alpha1.ContentsAnnotation
	Spec     cached.Digest // of what the gateway is told, as the API server has it
	Verdicts []Verdict
}

// IsOf reports whether an APIResource controls the policy. Nothing controls a nil one.
func (o *Object) IsOf(api metav1.Object) bool {
	return o != nil && o.API != "" && o.API == api.GetUID() && o.Name.Namespace == api.GetNamespace()
}

// Belongs does what the function of that name does. Only policies with the label are known.
func (o *Object) Belongs(api metav1.Object) bool {
	return o.IsOf(api) || o != nil && api.GetUID() != "" && o.Name.Namespace == api.GetNamespace() &&
		!o.Foreign && (o.Owner == "" || o.Owner == api.GetName()) && o.Marked
}

// Verdict is one condition that a gateway reports on a policy.
type Verdict struct {
	Type, Status, Reason, Message string
	Generation                    int64 // of the policy that it is about; 0: the gateway does not say
}

// cut reduces the metadata of a policy in place. Lists are in memory as a whole before they
// are stored.
func cut(in any) (any, error) {
	m, ok := in.(*metav1.PartialObjectMetadata)
	if !ok {
		return in, nil
	}
	kept := metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation, CreationTimestamp: m.CreationTimestamp,
	}
	if len(enforcement.APIsOf(m.Name)) > 0 {
		if owner := controllerOf(m); owner != nil {
			kept.OwnerReferences = []metav1.OwnerReference{*owner}
		} else if metav1.GetControllerOfNoCopy(m) != nil {
			kept.OwnerReferences = []metav1.OwnerReference{{Controller: ptr.To(true)}}
		}
		if m.Annotations[v1alpha1.ContentsAnnotation] != "" {
			kept.Annotations = map[string]string{v1alpha1.ContentsAnnotation: "cut"}
		}
	}
	cached.Share(&kept.Namespace)
	m.ObjectMeta = kept
	return m, nil
}

// controllerOf returns the APIResource that controls a policy, nil if none does.
func controllerOf(o metav1.Object) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(o)
	if owner == nil || owner.Kind != "APIResource" || len(owner.APIVersion)+len(owner.Name)+len(owner.UID) > 2*maxMessage {
		return nil
	}
	if gv, err := schema.ParseGroupVersion(owner.APIVersion); err != nil || gv.Group != v1alpha1.GroupVersion.Group {
		return nil
	}
	return owner
}

// contentsOf returns the contents that a policy lists, empty if they are too long.
func contentsOf(o metav1.Object) string {
	if c := o.GetAnnotations()[v1alpha1.ContentsAnnotation]; len(c) <= maxContents {
		return c
	}
	return ""
}

// seen returns what the metadata of a policy says.
func seen(m metav1.Object) *Object {
	o := &Object{
		Name: types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}, UID: m.GetUID(), Version: m.GetResourceVersion(),
		Generation: m.GetGeneration(), Created: m.GetCreationTimestamp().Time, Marked: m.GetAnnotations()[v1alpha1.ContentsAnnotation] != "",
	}
	if owner := controllerOf(m); owner != nil {
		o.API, o.Owner = owner.UID, owner.Name
	} else {
		o.Foreign = metav1.GetControllerOfNoCopy(m) != nil
	}
	cached.Share(&o.Name.Namespace)
	return o
}

// objectOf returns what is kept of a whole policy.
func objectOf(u *unstructured.Unstructured) *Object {
	o := seen(u)
	o.Whole, o.Contents, o.Spec, o.Verdicts = true, contentsOf(u), digestOf(u), verdictsOf(u)
	return o
}

// digestOf returns the digest of what a policy tells its gateway: its spec, and what steers
// it.
func digestOf(u *unstructured.Unstructured) cached.Digest {
	encoded, err := json.Marshal([]any{u.Object["spec"], steering(u.GetLabels()), steering(u.GetAnnotations())})
	if err != nil {
		encoded = nil // it came as JSON
	}
	return cached.DigestOf(encoded)
}

// steers reports whether a label or an annotation tells Istio how to treat a policy. With
// istio.io/dry-run, or istio.io/rev of another control plane, it would not be in force.
func steers(key string) bool { return strings.HasPrefix(key, "istio.io/") }

// steering returns the labels or annotations that steer a policy.
func steering(all map[string]string) map[string]string {
	steering := map[string]string{}
	for k, v := range all {
		if steers(k) {
			steering[k] = v
		}
	}
	return steering
}

// unsteered removes the labels and annotations that steer a policy. The operator writes none.
func unsteered(o metav1.Object) {
	labels, annotations := maps.Clone(o.GetLabels()), maps.Clone(o.GetAnnotations())
	for _, m := range []map[string]string{labels, annotations} {
		maps.DeleteFunc(m, func(k, _ string) bool { return steers(k) })
	}
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}

// verdictsOf reads the conditions of a policy: those of Gateway API's policies are in
// status.ancestors, Istio's in status.
func verdictsOf(u *unstructured.Unstructured) (all []Verdict) {
	add := func(o map[string]any) {
		conditions, _, _ := unstructured.NestedSlice(o, "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && len(all) < maxVerdicts {
				all = append(all, verdictOf(m))
			}
		}
	}
	if status, ok := u.Object["status"].(map[string]any); ok {
		add(status)
		ancestors, _, _ := unstructured.NestedSlice(status, "ancestors")
		for _, a := range ancestors {
			if m, ok := a.(map[string]any); ok {
				add(m)
			}
		}
	}
	return all
}

func verdictOf(c map[string]any) Verdict {
	str := func(key string) string {
		s, _ := c[key].(string)
		return text.CutRunes(text.Line(s), maxMessage)
	}
	v := Verdict{Type: str("type"), Status: str("status"), Reason: str("reason"), Message: str("message")}
	switch g := c["observedGeneration"].(type) {
	case int64:
		v.Generation = g
	case string: // Istio's is a string
		v.Generation, _ = strconv.ParseInt(g, 10, 64)
	}
	return v
}

// overtakes reports whether a version is at least as new as another.
func overtakes(is, was string) bool {
	i, err := strconv.ParseUint(is, 10, 64)
	if err != nil {
		return true
	}
	w, err := strconv.ParseUint(was, 10, 64)
	return err != nil || i >= w
}
