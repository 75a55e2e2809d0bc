// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
)

// podOf returns what tells when a pod sees a change of what it mounts. With prompt, the
// operator touches the pods that it has injected.
func podOf(pod client.Object, prompt bool) delivery.Pod {
	_, injected := pod.GetAnnotations()[v1alpha1.InjectedAnnotation]
	return delivery.Pod{
		Created: pod.GetCreationTimestamp().Time, Touched: momentIn(pod, v1alpha1.TouchedAtAnnotation), Touchable: prompt && injected,
	}
}

// momentIn reads a moment that the operator keeps in an annotation. An unreadable
// annotation counts as the zero time.
func momentIn(o client.Object, annotation string) time.Time {
	return delivery.ParseMoment(o.GetAnnotations()[annotation])
}
