// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// samples are metrics in the text format, by name and labels.
type samples map[string]float64

func parseMetrics(text string) samples {
	all := samples{}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := cutLast(line, " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if f, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = f
		}
	}
	return all
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// sum adds up the metrics of a name whose labels contain all of these.
func (s samples) sum(name string, labels ...string) (total float64) {
	for key, value := range s {
		if s.matches(key, name, labels) {
			total += value
		}
	}
	return total
}

func (samples) matches(key, name string, labels []string) bool {
	if base, _, _ := strings.Cut(key, "{"); base != name {
		return false
	}
	for _, l := range labels {
		if !strings.Contains(key, l) {
			return false
		}
	}
	return true
}

// buckets are the cumulative counts of a histogram by upper bound.
func (s samples) buckets(name string, labels ...string) map[float64]float64 {
	all := map[float64]float64{}
	for key, value := range s {
		if !s.matches(key, name+"_bucket", labels) {
			continue
		}
		_, rest, _ := strings.Cut(key, `le="`)
		bound, _, _ := strings.Cut(rest, `"`)
		if le, err := strconv.ParseFloat(bound, 64); err == nil {
			all[le] += value
		}
	}
	return all
}

// histogramQuantile is Prometheus's function of that name, applied to what was
// added between two readings.
func histogramQuantile(q float64, before, after map[float64]float64) time.Duration {
	added := map[float64]float64{}
	for le, n := range after {
		added[le] = n - before[le]
	}
	rank := q * added[math.Inf(1)]
	lower, below := 0.0, 0.0
	for range added {
		upper := math.Inf(1)
		for le := range added {
			if le > lower && le < upper {
				upper = le
			}
		}
		if added[upper] >= rank && added[upper] > below {
			if math.IsInf(upper, 1) {
				break
			}
			return time.Duration((lower + (upper-lower)*(rank-below)/(added[upper]-below)) * float64(time.Second))
		}
		lower, below = upper, added[upper]
	}
	return time.Duration(lower * float64(time.Second))
}

// apiServerMetrics reads the API server's own metrics.
func apiServerMetrics(t *testing.T) samples {
	t.Helper()
	raw, err := clientset.RESTClient().Get().AbsPath("/metrics").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	return parseMetrics(string(raw))
}

// operatorMetrics reads the metrics of every pod of the operator.
func (w *world) operatorMetrics(t *testing.T) map[string]samples {
	t.Helper()
	all := map[string]samples{}
	eventually(t, time.Minute, func() error {
		var pods corev1.PodList
		if err := kube.List(t.Context(), &pods, client.InNamespace(operatorNamespace)); err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if !isReady(&pod) || pod.DeletionTimestamp != nil {
				continue
			}
			var text string
			if err := ask(t.Context(), w.scraper, http.MethodGet, "/metrics?address="+pod.Status.PodIP+":8443", nil, &text); err != nil {
				return fmt.Errorf("metrics of %s: %w", pod.Name, err)
			}
			all[pod.Name] = parseMetrics(text)
		}
		if len(all) == 0 {
			return errors.New("no pod of the operator is ready")
		}
		return nil
	})
	return all
}

// webhookRequests returns how many admission requests have reached the operator.
func (w *world) webhookRequests(t *testing.T) (total float64) {
	t.Helper()
	for _, s := range w.operatorMetrics(t) {
		total += s.sum("controller_runtime_webhook_requests_total")
	}
	return total
}
