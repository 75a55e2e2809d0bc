// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
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

// testWebhook measures what the webhook costs: to the API server, to the one that
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

	// One of each at a time, side by side.
	with, without = nil, nil
	for i := range podStarts {
		plain := pod(shop, fmt.Sprintf("start-plain-%d", i), nil, "idle")
		injected := pod(shop, fmt.Sprintf("start-injected-%d", i), annotated, "idle")
		first := make(chan time.Duration, 1)
		go func() { first <- untilReady(t, plain) }()
		with = append(with, untilReady(t, injected))
		without = append(without, <-first)
		for _, p := range []*corev1.Pod{plain, injected} {
			if err := kube.Delete(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
	}
	figures.spread("pod_start_annotated", with)
	figures.spread("pod_start_plain", without)
	figures.set("injection_adds_to_pod_start_p50_seconds", (quantile(with, 0.5) - quantile(without, 0.5)).Seconds())
}

// untilReady creates a pod and says how long it took until it was ready.
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
