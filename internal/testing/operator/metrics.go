// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/metrics"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// MetricOf returns the sum of a metric's series with some labels, and how many they are.
var MetricOf = kubetest.Metric

// Metric returns the value of one of the operator's counters or gauges.
func Metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for i, l := range m.GetLabel() { // sorted by name
				if l.GetValue() != labels[i] {
					continue metrics
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// Reconciled returns how often a controller has reconciled since the suite
// started.
func Reconciled(t *testing.T, controller string) int {
	t.Helper()
	n, _ := MetricOf(t, "controller_runtime_reconcile_total", map[string]string{"controller": controller})
	return int(n)
}

// EveryController holds the names of the operator's controllers, as in metrics.
var EveryController = []string{"authorizationserver", "clusterauthorizationserver", "apiresource", "verificationbundle", "m2mclient", "shardedclient", "pod",
	"apiresource-provisioning", "m2mclient-provisioning"}

// abandoned is what operators that were stopped in the middle of something have left in
// the metrics of their queues, by controller.
var abandoned = map[string]float64{}

// noteAbandoned is called while no operator runs.
func noteAbandoned(t *testing.T) {
	t.Helper()
	abandoned = tasks(t)
}

// Idle reports whether a running operator has nothing to do at this moment.
func Idle(t *testing.T, controllers ...string) error {
	t.Helper()
	now := tasks(t)
	for _, c := range controllers {
		if n := now[c] - abandoned[c]; n > 0 {
			return fmt.Errorf("controller %s has %v requests waiting or under way", c, n)
		}
	}
	return nil
}

// Tasks returns how many requests wait in the queue of a controller or are under way.
func Tasks(t *testing.T, controller string) int {
	t.Helper()
	return int(tasks(t)[controller] - abandoned[controller])
}

// tasks is Tasks for all controllers, with what was abandoned.
func tasks(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]float64{}
	for _, f := range families {
		label := map[string]string{"workqueue_depth": "name", "controller_runtime_active_workers": "controller"}[f.GetName()]
		if label == "" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					n[l.GetValue()] += m.GetGauge().GetValue()
				}
			}
		}
	}
	return n
}
