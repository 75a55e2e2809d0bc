// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"encoding/json"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
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
	Name       types.NamespacedName
	UID        types.UID
	Version    string // resourceVersion
	Generation int64
	Created    time.Time

	// API and APIName are of the APIResource that controls the policy, empty if none does.
	API     types.UID
	APIName string

	Contents string        // v1alpha1.ContentsAnnotation
	Spec     cached.Digest // of the spec as the API server has it
	Verdicts []Verdict
}

// IsOf reports whether an APIResource controls the policy. Nothing controls a nil one.
func (o *Object) IsOf(api metav1.Object) bool {
	return o != nil && o.API != "" && o.API == api.GetUID() && o.Name.Namespace == api.GetNamespace()
}

// Verdict is one condition that a gateway reports on a policy.
type Verdict struct {
	Type, Status, Reason, Message string
	Generation                    int64 // of the policy that it is about; 0: the gateway does not say
}

// keptField is the field of a cut policy that holds what is kept.
const keptField = "kept"

// cut reduces a policy in place. Lists are in memory as a whole before they are stored.
func cut(in any) (any, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	if _, already := u.Object[keptField]; already {
		return in, nil
	}
	o := objectOf(u)
	kept, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	u.Object = map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), keptField: string(kept), "metadata": map[string]any{
		"namespace": o.Name.Namespace, "name": o.Name.Name, "uid": string(o.UID), "resourceVersion": o.Version,
	}}
	return u, nil
}

// objectOf returns what is kept of a policy.
func objectOf(u *unstructured.Unstructured) *Object {
	if kept, ok := u.Object[keptField].(string); ok {
		var o Object
		if json.Unmarshal([]byte(kept), &o) == nil {
			return &o
		}
	}
	o := &Object{
		Name: types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}, UID: u.GetUID(), Version: u.GetResourceVersion(),
		Generation: u.GetGeneration(), Created: u.GetCreationTimestamp().Time, Spec: digestOf(u), Verdicts: verdictsOf(u),
	}
	if owner := metav1.GetControllerOf(u); owner != nil && owner.Kind == "APIResource" && len(owner.Name)+len(owner.UID) <= maxMessage {
		if gv, err := schema.ParseGroupVersion(owner.APIVersion); err == nil && gv.Group == v1alpha1.GroupVersion.Group {
			o.API, o.APIName = owner.UID, owner.Name
		}
	}
	if c := u.GetAnnotations()[v1alpha1.ContentsAnnotation]; len(c) <= maxContents {
		o.Contents = c
	}
	cached.Share(&o.Name.Namespace)
	return o
}

// digestOf returns the digest of a policy's spec.
func digestOf(u *unstructured.Unstructured) cached.Digest {
	encoded, err := json.Marshal(u.Object["spec"])
	if err != nil {
		encoded = nil // it came as JSON
	}
	return cached.DigestOf(encoded)
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
