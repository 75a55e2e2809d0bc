// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Metric returns the sum of a metric's series with these labels, and the number of
// these series. For a histogram, the sum is the number of observations.
func Metric(t *testing.T, name string, labels map[string]string) (sum float64, series int) {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matches := 0
			for _, l := range m.GetLabel() {
				if v, ok := labels[l.GetName()]; ok && v == l.GetValue() {
					matches++
				}
			}
			if matches < len(labels) {
				continue
			}
			series++
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum, series
}
