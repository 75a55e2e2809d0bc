// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	dryRuns   = 200 // of each kind
	podStarts = 10
)

// testWebhook measures what the webhook costs: for the API server, for whoever
// creates a pod, and until the pod runs.
func testWebhook(t *testing.T, w *world) {
	annotated := map[string]string{v1alpha1.ClientAnnotation: "cart"}
	const histogram, ours = "apiserver_admission_webhook_admission_duration_seconds", `name="pods.m2m-operator.io"`
	before := apiServerMetrics(t).buckets(histogram, ours)
	var with, without []time.Duration
	for i := range dryRuns {
		for _, kind := range []struct {
			annotations map[string]string
			took        *[]time.Duration
		}{{annotated, &with}, {nil, &without}} {
			p := pod(shop, fmt.Sprintf("dry-%d", i), kind.annotations, "idle")
			start := time.Now()
			if err := kube.Create(t.Context(), p, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			*kind.took = append(*kind.took, time.Since(start))
		}
	}
	after := apiServerMetrics(t).buckets(histogram, ours)
	figures.set("webhook_admission_p50_seconds", histogramQuantile(0.5, before, after).Seconds())
	figures.set("webhook_admission_p99_seconds", histogramQuantile(0.99, before, after).Seconds())
	figures.spread("pod_create_annotated", with)
	figures.spread("pod_create_plain", without)
	figures.set("webhook_adds_to_create_p50_seconds", (quantile(with, 0.5) - quantile(without, 0.5)).Seconds())

	// Three kinds at a time, side by side: the webhook is not to blame for the
	// cost of a mounted Secret.
	kinds := []struct {
		name string
		make func(name string) *corev1.Pod
		took []time.Duration
	}{
		{name: "plain", make: func(name string) *corev1.Pod { return pod(shop, name, nil, "idle") }},
		{name: "mounted_by_hand", make: mounting},
		{name: "injected", make: func(name string) *corev1.Pod { return pod(shop, name, annotated, "idle") }},
	}
	for i := range podStarts {
		var starting sync.WaitGroup
		for k := range kinds {
			kind := &kinds[k]
			starting.Go(func() {
				p := kind.make(fmt.Sprintf("start-%d-%d", i, k))
				kind.took = append(kind.took, untilReady(t, p))
				if err := kube.Delete(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		starting.Wait()
	}
	for _, kind := range kinds {
		figures.spread("pod_start_"+kind.name, kind.took)
	}
	median := func(k int) time.Duration { return quantile(kinds[k].took, 0.5) }
	figures.set("injection_adds_to_pod_start_p50_seconds", (median(2) - median(0)).Seconds())
	figures.set("injection_adds_to_start_of_mounting_pod_p50_seconds", (median(2) - median(1)).Seconds())
}

// mounting is a pod that mounts the token by name, as a pod without injection does.
func mounting(name string) *corev1.Pod {
	p := pod(shop, name, nil, "idle")
	p.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cart-token"}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: v1alpha1.TokenDir, ReadOnly: true}}
	return p
}

// untilReady creates a pod and returns how long it took to become ready.
func untilReady(t *testing.T, p *corev1.Pod) time.Duration {
	changes, err := kube.Watch(t.Context(), &corev1.PodList{}, client.InNamespace(p.Namespace), client.MatchingLabels(p.Labels))
	if err != nil {
		t.Error(err)
		return 0
	}
	defer changes.Stop()
	start := time.Now()
	if err := kube.Create(t.Context(), p); err != nil {
		t.Error(err)
		return 0
	}
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		select {
		case change := <-changes.ResultChan():
			if now, ok := change.Object.(*corev1.Pod); ok && isReady(now) {
				return time.Since(start)
			}
		case <-timeout.C:
			t.Errorf("pod %s does not become ready", p.Name)
			return 0
		}
	}
}
