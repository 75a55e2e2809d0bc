// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// warnings collects what the API server warns of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

// HandleWarningHeader takes a warning.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, advice, ok := strings.Cut(text, "m2m-operator-advice' with binding 'm2m-operator-advice': ")
	if ok {
		w.all = append(w.all, advice)
	}
}

func (w *warnings) taken() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, w.all = w.all, nil
	return all
}

// warned is a client as a user, and what the API server warns that user of.
func warned(t *testing.T, as string) (client.Client, *warnings) {
	t.Helper()
	w := &warnings{}
	config := rest.CopyConfig(restConfig)
	config.WarningHandler = w
	if as != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: as, Groups: []string{"system:masters"}}
	}
	c, err := client.New(config, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// annotated are annotations or labels with any value.
func annotated(keys ...string) map[string]string {
	all := map[string]string{"example.com/other": "x"}
	for _, k := range keys {
		all[k] = "x"
	}
	return all
}

func template(annotations ...string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}, Annotations: annotated(annotations...)},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "cart", Image: "cart"}}},
	}
}

func deployment(own, ofPods []string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cart", Annotations: annotated(own...)},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}, Template: template(ofPods...)},
	}
}

func jobTemplate(ofPods ...string) batchv1.JobSpec {
	t := template(ofPods...)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	return batchv1.JobSpec{Template: t}
}

const (
	clientKey     = "m2m-operator.io/client"
	verifyKey     = "m2m-operator.io/verify"
	containersKey = "m2m-operator.io/containers"
)

// TestAnnotationsWithoutEffectAreWarnedOf applies pods and workloads with mistakes. The API server
// creates them, and warns.
func TestAnnotationsWithoutEffectAreWarnedOf(t *testing.T) {
	const (
		place      = "spec.template.metadata.annotations"
		misspelled = " has no effect: the annotations of m2m-operator for pods are m2m-operator.io/client, m2m-operator.io/verify and m2m-operator.io/containers"
	)
	meta := func(own ...string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: "cart", Annotations: annotated(own...)}
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}
	pod := func(annotations ...string) *corev1.Pod {
		t := template(annotations...)
		t.Namespace, t.Name = "default", "cart"
		return &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	}
	labelled := func(d *appsv1.Deployment, own, ofPods string) *appsv1.Deployment {
		if own != "" {
			d.Labels = map[string]string{own: "x"}
		}
		if ofPods != "" {
			d.Spec.Template.Labels[ofPods] = "x"
		}
		return d
	}
	tests := map[string]struct {
		object client.Object
		want   []string
	}{
		"a misspelled annotation of a pod template": {deployment(nil, []string{"m2m-operator.io/clients"}), []string{"m2m-operator.io/clients" + misspelled}},
		"a misspelled annotation of a Deployment":   {deployment([]string{"m2m-operator.io/inject"}, nil), []string{"m2m-operator.io/inject" + misspelled}},
		"a misspelled group":                        {deployment(nil, []string{"m2m-operators.io/client"}), []string{"m2m-operators.io/client" + misspelled}},
		"an annotation of a token Secret":           {deployment(nil, []string{"m2m-operator.io/tokens"}), []string{"m2m-operator.io/tokens" + misspelled}},
		"client on a Deployment": {
			deployment([]string{clientKey}, nil), []string{"m2m-operator.io/client has no effect on the Deployment itself: write it on its pod template, in " + place},
		},
		"client and containers on a StatefulSet": {
			&appsv1.StatefulSet{ObjectMeta: meta(clientKey, containersKey), Spec: appsv1.StatefulSetSpec{Selector: selector, ServiceName: "cart", Template: template()}},
			[]string{"m2m-operator.io/client and m2m-operator.io/containers has no effect on the StatefulSet itself: write it on its pod template, in " + place},
		},
		"verify on a DaemonSet": {
			&appsv1.DaemonSet{ObjectMeta: meta(verifyKey), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template()}},
			[]string{"m2m-operator.io/verify on the DaemonSet itself brings the bundle into the namespace and mounts nothing: to mount it, write it on the pod template, in " + place},
		},
		"client on a Job": {
			&batchv1.Job{ObjectMeta: meta(clientKey), Spec: jobTemplate()}, []string{"m2m-operator.io/client has no effect on the Job itself: write it on its pod template, in " + place},
		},
		"client on a CronJob": {
			&batchv1.CronJob{ObjectMeta: meta(clientKey), Spec: batchv1.CronJobSpec{Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: jobTemplate()}}},
			[]string{"m2m-operator.io/client has no effect on the CronJob itself: write it on its pod template, in spec.jobTemplate.spec.template.metadata.annotations"},
		},
		"a label of a Deployment": {
			labelled(deployment(nil, nil), clientKey, ""), []string{"m2m-operator.io/client is a label and has no effect: write it as an annotation, in " + place},
		},
		"a label of a pod template": {
			labelled(deployment(nil, nil), "", verifyKey), []string{"m2m-operator.io/verify is a label and has no effect: write it as an annotation, in " + place},
		},
		"a misspelled annotation of a pod": {pod("m2m-operator.io/Client"), []string{"m2m-operator.io/Client" + misspelled}},
		"a label and an annotation of another pod template": {
			labelled(deployment([]string{verifyKey}, []string{clientKey}), "", containersKey), []string{
				"m2m-operator.io/verify on the Deployment itself brings the bundle into the namespace and mounts nothing: to mount it, write it on the pod template, in " + place,
				"m2m-operator.io/containers is a label and has no effect: write it as an annotation, in " + place,
			},
		},

		"a label of a pod": {
			podLabelled(pod(), clientKey), []string{"m2m-operator.io/client is a label and has no effect: write it as an annotation, in metadata.annotations"},
		},

		// Not client and verify: they would go to the webhook, which nobody answers.
		"a pod with an annotation":                {pod(containersKey), nil},
		"a label beside its annotation, of a pod": {podLabelled(pod(containersKey), containersKey), nil},
		"a label beside its annotation":           {labelled(deployment(nil, []string{clientKey}), clientKey, ""), nil},
		"everything where it belongs":             {deployment(nil, []string{clientKey, verifyKey, containersKey}), nil},
		"both on a Deployment and its pods":       {deployment([]string{clientKey, verifyKey}, []string{clientKey, verifyKey}), nil},
		"a Deployment without metadata of ours":   {deployment(nil, nil), nil},
		"a pod that is copied":                    {pod("m2m-operator.io/injected", "m2m-operator.io/touched-at", "m2m-operator.io/missing-containers"), nil},
		"a pod without annotations":               {&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "plain"}, Spec: template().Spec}, nil},
	}
	c, w := warned(t, "")
	kubetest.Eventually(t, func() error { // the API server compiles policies in its own time
		if err := c.Create(t.Context(), deployment([]string{clientKey}, nil), client.DryRunAll); err != nil {
			return err
		}
		if len(w.taken()) == 0 {
			return errors.New("there is no warning yet")
		}
		return nil
	})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := c.Create(t.Context(), tc.object, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, w.taken()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
	for _, name := range []string{"system:serviceaccount:kube-system:deployment-controller", "system:kube-controller-manager"} {
		t.Run("not "+name, func(t *testing.T) {
			controllers, told := warned(t, name)
			if err := controllers.Create(t.Context(), deployment([]string{clientKey}, nil), client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got := told.taken(); got != nil {
				t.Errorf("it is told %q", got)
			}
		})
	}
}

// TestChangesAreWarnedOf changes workloads that had no mistake before.
func TestChangesAreWarnedOf(t *testing.T) {
	c, w := warned(t, "")
	meta := metav1.ObjectMeta{Namespace: "default", Name: "changed"}
	d := deployment(nil, nil)
	d.ObjectMeta = meta
	for _, o := range []client.Object{
		d, &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: jobTemplate()}}},
	} {
		create(t, o)
		kubetest.Eventually(t, func() error {
			o.SetAnnotations(annotated(clientKey))
			if err := c.Update(t.Context(), o.DeepCopyObject().(client.Object), client.DryRunAll); err != nil {
				return err
			}
			if got := w.taken(); len(got) != 1 || !strings.Contains(got[0], "has no effect") {
				return fmt.Errorf("%T: warned of %q", o, got)
			}
			return nil
		})
	}
}

func podLabelled(p *corev1.Pod, key string) *corev1.Pod {
	p.Labels[key] = "x"
	return p
}
