// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/metrics"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// MetricOf returns the sum of a metric's series with some labels, and the number of
// these series.
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

// EveryController lists the names of the operator's controllers, as in metrics.
var EveryController = []string{"authorizationserver", "clusterauthorizationserver", "apiresource", "verificationbundle", "m2mclient", "shardedclient", "pod",
	"apiresource-provisioning", "m2mclient-provisioning"}

// work is the state of the controllers' queues and workers in the metrics, by
// controller.
type work struct {
	queued   map[string]float64
	underWay map[string]float64
}

// abandoned is the work in the metrics that operators left unfinished when they
// stopped.
var abandoned work

// noteAbandoned is called while no operator runs.
func noteAbandoned(t *testing.T) {
	t.Helper()
	abandoned = workNow(t)
}

// Idle returns an error while a running operator has something to do.
func Idle(t *testing.T, controllers ...string) error {
	t.Helper()
	now := workNow(t)
	for _, c := range controllers {
		queued, underWay := now.queued[c]-abandoned.queued[c], now.underWay[c]-abandoned.underWay[c]
		if queued > 0 || underWay > 0 {
			return fmt.Errorf("controller %s has %v requests waiting and %v under way", c, queued, underWay)
		}
	}
	return nil
}

// Queued returns how many requests wait in the queue of a controller.
func Queued(t *testing.T, controller string) int {
	t.Helper()
	return int(workNow(t).queued[controller] - abandoned.queued[controller])
}

// workNow reads the metrics. It leaves out controller_runtime_active_workers: every
// operator that starts sets it to zero, whatever the others do.
func workNow(t *testing.T) work {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	w := work{queued: map[string]float64{}, underWay: map[string]float64{}}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			controller := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "controller" {
					controller = l.GetValue()
				}
			}
			switch f.GetName() {
			case "workqueue_depth":
				w.queued[controller] += m.GetGauge().GetValue()
			case "workqueue_queue_duration_seconds": // observed when a request leaves the queue
				w.underWay[controller] += float64(m.GetHistogram().GetSampleCount())
			case "workqueue_work_duration_seconds": // observed when it is done
				w.underWay[controller] -= float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return w
}
