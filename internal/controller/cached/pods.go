// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// misplaced lists the keys of pod annotations that an object has in the wrong place, while
// its pods do not have them: as a label, or on a workload as the workload's own annotation.
// The verify annotation may be on a workload: it brings the bundle to the namespace.
func misplaced(o client.Object, onPods map[string]string, isWorkload bool) string {
	if v, ok := o.GetAnnotations()[MisplacedMark]; ok { // already stripped
		return v
	}
	var found []string
	for _, key := range []string{v1alpha1.ClientAnnotation, v1alpha1.ContainersAnnotation, v1alpha1.VerifyAnnotation} {
		_, asAnnotation := o.GetAnnotations()[key]
		_, asLabel := o.GetLabels()[key]
		_, seen := onPods[key]
		switch {
		case seen || asAnnotation && key == v1alpha1.VerifyAnnotation:
		case asAnnotation && isWorkload:
			found = append(found, "annotation "+key)
		case asLabel:
			found = append(found, "label "+key)
		}
	}
	return strings.Join(found, ",")
}

// StripWorkload reduces a workload to its identity, the verify annotations of itself and of
// its pod template, and what is misplaced on it.
func StripWorkload(in any) (any, error) {
	obj, ok := in.(client.Object)
	if !ok {
		return in, nil // a tombstone
	}
	pods := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: onlyVerify(TemplateAnnotations(obj))}}
	kept := metav1.ObjectMeta{
		Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		Annotations: onlyVerify(obj.GetAnnotations()),
	}
	if v := misplaced(obj, TemplateAnnotations(obj), true); v != "" {
		Share(&v)
		kept.Annotations = plus(kept.Annotations, MisplacedMark, v)
	}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		*o = appsv1.Deployment{ObjectMeta: kept, Spec: appsv1.DeploymentSpec{Template: pods}}
	case *appsv1.StatefulSet:
		*o = appsv1.StatefulSet{ObjectMeta: kept, Spec: appsv1.StatefulSetSpec{Template: pods}}
	case *appsv1.DaemonSet:
		*o = appsv1.DaemonSet{ObjectMeta: kept, Spec: appsv1.DaemonSetSpec{Template: pods}}
	case *batchv1.Job:
		*o = batchv1.Job{ObjectMeta: kept, Spec: batchv1.JobSpec{Template: pods}}
	case *batchv1.CronJob:
		*o = batchv1.CronJob{ObjectMeta: kept, Spec: batchv1.CronJobSpec{
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pods}},
		}}
	}
	return in, nil
}

func onlyVerify(annotations map[string]string) map[string]string {
	if v, ok := annotations[v1alpha1.VerifyAnnotation]; ok {
		return map[string]string{v1alpha1.VerifyAnnotation: v1alpha1.BoundVerify(v)}
	}
	return nil
}

// PodAnnotations are the pod annotations that the operator reads. Each function returns what
// to keep of a value. A value that is longer than the operator writes, or than the schema
// of the named objects allows, is forged and dropped.
var PodAnnotations = map[string]func(string) (kept string, ok bool){
	v1alpha1.VerifyAnnotation: func(v string) (string, bool) { return v1alpha1.BoundVerify(v), true },
	v1alpha1.ClientAnnotation: short,
	v1alpha1.InjectedAnnotation: func(v string) (string, bool) {
		return v, len(v) <= maxInjected && strings.Count(v, ",") <= v1alpha1.VerifyMaxNames
	},
	v1alpha1.TouchedAtAnnotation:         short,
	v1alpha1.MissingContainersAnnotation: short,
	MisplacedMark:                        short,
}

func short(v string) (string, bool) { return v, len(v) <= maxAnnotation }

// StripPod reduces a pod with our annotations to what the reconciler reads, and any other
// pod to its name: a cluster has tens of thousands of them.
func StripPod(in any) (any, error) {
	pod, ok := in.(*metav1.PartialObjectMetadata)
	if !ok {
		return in, nil // a tombstone
	}
	kept := metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, ResourceVersion: pod.ResourceVersion}
	Share(&kept.Namespace)
	if v := misplaced(pod, pod.Annotations, false); v != "" {
		Share(&v)
		pod.Annotations = plus(pod.Annotations, MisplacedMark, v)
	}
	for key, bound := range PodAnnotations {
		v, ok := pod.Annotations[key]
		if !ok {
			continue
		}
		if v, ok = bound(v); !ok {
			continue
		}
		if kept.Annotations == nil {
			kept.Annotations = make(map[string]string, len(PodAnnotations))
			kept.UID, kept.CreationTimestamp, kept.DeletionTimestamp = pod.UID, pod.CreationTimestamp, pod.DeletionTimestamp
		}
		kept.Annotations[key] = v
	}
	pod.ObjectMeta = kept
	return pod, nil
}

// TemplateAnnotations returns the annotations of a workload's pod template.
func TemplateAnnotations(obj client.Object) map[string]string {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template.Annotations
	case *appsv1.StatefulSet:
		return o.Spec.Template.Annotations
	case *appsv1.DaemonSet:
		return o.Spec.Template.Annotations
	case *batchv1.Job:
		return o.Spec.Template.Annotations
	case *batchv1.CronJob:
		return o.Spec.JobTemplate.Spec.Template.Annotations
	}
	return nil
}
