// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
)

// PodOf returns the times of a pod that tell when the pod sees a change of what it mounts.
// With prompt, the operator may touch pods with injected volumes.
func PodOf(pod client.Object, prompt bool) delivery.Pod {
	_, injected := pod.GetAnnotations()[v1alpha1.InjectedAnnotation]
	return delivery.Pod{
		Created: pod.GetCreationTimestamp().Time, Touched: MomentIn(pod, v1alpha1.TouchedAtAnnotation), Touchable: prompt && injected,
	}
}

// MomentIn reads a time that the operator keeps in an annotation. An unreadable
// annotation counts as the zero time.
func MomentIn(o client.Object, annotation string) time.Time {
	return delivery.ParseMoment(o.GetAnnotations()[annotation])
}

// Mount names an object that an injected volume of a pod mounts.
type Mount struct{ Kind, Name string }

// Kinds of mounts, as InjectedAnnotation writes them.
const (
	MountedSecret    = "secret"
	MountedConfigMap = "configmap"
)

// String returns the mount as InjectedAnnotation writes it.
func (m Mount) String() string { return m.Kind + "/" + m.Name }

// Object returns an empty object of the mount's kind.
func (m Mount) Object() client.Object {
	if m.Kind == MountedSecret {
		return &corev1.Secret{}
	}
	return &corev1.ConfigMap{}
}

// MountsOf returns the objects that the injected volumes of a pod mount.
func MountsOf(pod client.Object) []Mount {
	var mounts []Mount
	for entry := range strings.SplitSeq(pod.GetAnnotations()[v1alpha1.InjectedAnnotation], ",") {
		kind, name, ok := strings.Cut(strings.TrimSpace(entry), "/")
		if ok && (kind == MountedSecret || kind == MountedConfigMap) {
			mounts = append(mounts, Mount{kind, name})
		}
	}
	return mounts
}
