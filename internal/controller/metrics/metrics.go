// SPDX-License-Identifier: Apache-2.0

// Package metrics holds the operator's own Prometheus metrics, in addition to those
// of controller-runtime, and the functions that update them. Reconcilers call it
// when something has happened. No label may hold a token, a secret or text that a
// server sent.
package metrics

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
)

// The operator's own metrics, in addition to those of controller-runtime.
var (
	refreshLateness = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "m2m_token_refresh_lateness_seconds",
		Help:    "How long after its due time a token was replaced.",
		Buckets: []float64{.1, .25, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600},
	})

	tokenRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_token_requests_total",
		Help: "Token requests by authorization server and result: success, or the class of the error.",
	}, []string{"server", "result"})

	keysFetched = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "m2m_jwks_fetched_timestamp_seconds",
		Help: "When the signing keys were last fetched, in seconds since the epoch.",
	}, []string{"server"})

	keysKnown = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "m2m_jwks_keys",
		Help: "Signing keys in the verification bundles by state: active or retired.",
	}, []string{"server", "state"})

	BundleWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_verification_bundle_writes_total",
		Help: "Verification bundles created, updated or removed.",
	}, []string{"operation"})

	EventsDropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "m2m_events_dropped_total",
		Help: "Events that were not recorded because there were too many about one object or in one namespace.",
	})

	PodTouches = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_pod_touches_total",
		Help: "Pods touched so that they see a change at once, by result: success, refused or failed.",
	}, []string{"result"})
)

var (
	provisioningRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_provisioning_requests_total",
		Help: "Requests to the administration of an authorization server by the class of the answer's status: 2xx to 5xx, or none.",
	}, []string{"server", "code"})

	provisioningDrift = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_provisioning_drift_total",
		Help: "Differences that were put right at an authorization server.",
	}, []string{"server"})

	provisioningLeftBehind = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "m2m_provisioning_left_behind_total",
		Help: "Objects that were let go while something of them remained at their authorization server, by kind.",
	}, []string{"kind"})
)

func init() {
	for _, kind := range []string{"APIResource", "M2MClient"} {
		provisioningLeftBehind.WithLabelValues(kind) // increase() does not see a series begin
	}
	metrics.Registry.MustRegister(clients, apis, serverConditions, traffics, shards, instanceActive, buildInfo(), refreshLateness, tokenRequests, keysFetched, keysKnown, BundleWrites, PodTouches, EventsDropped,
		provisioningRequests, provisioningDrift, provisioningLeftBehind)
}

// ObserveProvisioning counts a request to a server's administration by the status of the
// answer, 0 for none.
func ObserveProvisioning(server fmt.Stringer, status int) {
	code := "none"
	if status > 0 {
		code = strconv.Itoa(status/100) + "xx"
	}
	provisioningRequests.WithLabelValues(server.String(), code).Inc()
	provisioningDrift.WithLabelValues(server.String()) // increase() does not see a series begin
}

// ObserveDrift counts differences that were put right at a server.
func ObserveDrift(server fmt.Stringer, n int) {
	provisioningDrift.WithLabelValues(server.String()).Add(float64(n))
}

// ObserveLeftBehind counts an object that was let go while something of it remained at its
// server.
func ObserveLeftBehind(kind string) { provisioningLeftBehind.WithLabelValues(kind).Inc() }

// ObserveLateness records how long after its due time a token was replaced.
func ObserveLateness(d time.Duration) { refreshLateness.Observe(d.Seconds()) }

// ObserveRequest counts a token request by its result. failure is nil for success.
func ObserveRequest(server fmt.Stringer, failure *oauth.Error) {
	result := "success"
	if failure != nil {
		result = strings.ToLower(string(failure.Class))
	}
	tokenRequests.WithLabelValues(server.String(), result).Inc()
}

// ObserveKeys publishes how many signing keys a server has and when they were fetched; the
// zero time leaves the latter as it is.
func ObserveKeys(server fmt.Stringer, status *v1alpha1.AuthorizationServerStatus, fetchedAt time.Time) {
	retired := 0
	for _, k := range status.Keys {
		if k.RetiredAt != nil {
			retired++
		}
	}
	keysKnown.WithLabelValues(server.String(), "active").Set(float64(len(status.Keys) - retired))
	keysKnown.WithLabelValues(server.String(), "retired").Set(float64(retired))
	if !fetchedAt.IsZero() {
		keysFetched.WithLabelValues(server.String()).Set(float64(fetchedAt.Unix()))
	}
}

// ForgetServerMetrics drops what was published for a server that is gone.
func ForgetServerMetrics(server fmt.Stringer) {
	for _, v := range []*prometheus.MetricVec{keysFetched.MetricVec, keysKnown.MetricVec, tokenRequests.MetricVec, provisioningRequests.MetricVec, provisioningDrift.MetricVec} {
		v.DeletePartialMatch(prometheus.Labels{"server": server.String()})
	}
	serverConditions.set(types.NamespacedName{Name: server.String()}, nil)
}
