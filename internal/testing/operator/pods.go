// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// NewVerifiers creates a namespace whose workloads are deleted when the test ends.
func NewVerifiers(t *testing.T) string {
	t.Helper()
	ns := NewNamespace(t, "verifier", nil)
	t.Cleanup(func() {
		empty(t, ns, &appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{})
	})
	return ns
}

// Workload returns a verifying object of a kind, annotated on itself and on its pod
// template.
func Workload(kind, namespace string, self, template map[string]string) client.Object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "payment", Annotations: self}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "payment"}}
	pods := podTemplate("payment", template)
	ends := pods
	ends.Spec.RestartPolicy = corev1.RestartPolicyNever
	switch kind {
	case "Deployment":
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: pods}}
	case "StatefulSet":
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: pods}}
	case "DaemonSet":
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}}
	case "Job":
		return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: ends}}
	case "CronJob":
		return &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: ends}},
		}}
	}
	return &corev1.Pod{ObjectMeta: meta, Spec: pods.Spec}
}

// VerifyWith returns a Deployment that requests verification bundles.
func VerifyWith(namespace, name, refs string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{v1alpha1.VerifyAnnotation: refs}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: podTemplate(name, nil),
		},
	}
}

func podTemplate(name string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/image"}}},
	}
}

// AnnotatedPod returns a pod with annotations, in pairs of key and value.
func AnnotatedPod(namespace, name string, annotations ...string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{"team": "shop"}, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "main"}}},
	}
	for i := 0; i+1 < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return pod
}

// PaymentPod creates a pod that verifies tokens for the payment API.
func PaymentPod(s *Stage, injected bool) *corev1.Pod {
	s.T.Helper()
	annotations := []string{v1alpha1.VerifyAnnotation, "payment-api"}
	if injected {
		annotations = append(annotations, v1alpha1.InjectedAnnotation, "configmap/"+render.ConfigMapName(s.Payments, "payment-api"))
	}
	pod := AnnotatedPod(s.Payments, "payment", annotations...)
	Create(s.T, pod)
	return pod
}

// PromptObject returns a Secret or ConfigMap of the operator that pods must see at
// once since a given time.
func PromptObject(namespace string, m watch.Mount, since string) client.Object {
	o := m.Object()
	o.SetNamespace(namespace)
	o.SetName(m.Name)
	o.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	if since != "" {
		o.SetAnnotations(map[string]string{v1alpha1.PromptSinceAnnotation: since})
	}
	return o
}

// TouchedAt returns the annotation with the time of the operator's last touch of a
// pod.
func TouchedAt(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	if err := Kube.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	return pod.Annotations[v1alpha1.TouchedAtAnnotation]
}
