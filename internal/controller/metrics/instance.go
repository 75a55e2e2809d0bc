// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/m2m-operator/m2m-operator/internal/build"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

var instanceActive = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "m2m_instance_active",
	Help: "1 if this replica is the active one of its shard, 0 if it is ready to take over. The main instance has no shard.",
}, []string{"shard"})

// ObserveInstance publishes whether this replica is the active one of a shard.
func ObserveInstance(shard string, active bool) {
	value := 0.0
	if active {
		value = 1
	}
	instanceActive.WithLabelValues(shard).Set(value)
}

// buildInfo returns the constant metric that says which program this is.
func buildInfo() prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "m2m_build_info",
		Help: "1, with the version of the operator, the commit that it was built from, and the version of Go.",
	}, []string{"version", "revision", "goversion"})
	info := build.Read()
	g.WithLabelValues(info.Version, info.Revision, info.Go).Set(1)
	return g
}

// reader publishes what a function returns when the metrics are read.
type reader[T any] struct {
	descs   []*prometheus.Desc
	collect func(out chan<- prometheus.Metric, descs []*prometheus.Desc, is T)
	read    atomic.Pointer[func() T]
}

// Describe implements prometheus.Collector.
func (r *reader[T]) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (r *reader[T]) Collect(out chan<- prometheus.Metric) {
	if read := r.read.Load(); read != nil {
		r.collect(out, r.descs, (*read)())
	}
}

func gauge(name, help, label string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{label}, nil)
}

// shards publishes how many clients the shards have.
var shards = &reader[map[string]int]{
	descs: []*prometheus.Desc{gauge("m2m_shard_clients", "M2MClients whose label names a shard. Only the main instance counts them.", "shard")},
	collect: func(out chan<- prometheus.Metric, descs []*prometheus.Desc, clients map[string]int) {
		for shard, n := range clients {
			out <- prometheus.MustNewConstMetric(descs[0], prometheus.GaugeValue, float64(n), shard)
		}
	},
}

// ReadShards sets where the numbers of clients by shard are read from.
func ReadShards(read func() map[string]int) { shards.read.Store(&read) }

// traffics publishes how requests to authorization servers are held back.
var traffics = &reader[map[string]traffic.Load]{
	descs: []*prometheus.Desc{
		gauge("m2m_server_budget_requests_per_second", "Requests per second that this instance may send to an authorization server.", "server"),
		gauge("m2m_server_budget_used_ratio", "The part of an authorization server's burst that is used up at the moment, from 0 to 1.", "server"),
		gauge("m2m_server_queued_requests", "Requests that wait for their turn at the host of an authorization server.", "server"),
		gauge("m2m_server_breaker_open", "1 while requests to an authorization server are stopped, except for probes, because it fails for several namespaces or does not answer; else 0.", "server"),
		gauge("m2m_server_stopped_namespaces", "Namespaces whose requests to an authorization server are stopped, except for probes, because it fails for several of their clients.", "server"),
	},
	collect: func(out chan<- prometheus.Metric, descs []*prometheus.Desc, loads map[string]traffic.Load) {
		for server, l := range loads {
			open := 0.0
			if l.Open {
				open = 1
			}
			for i, v := range []float64{l.PerSecond, l.Used, float64(l.Queued), open, float64(l.StoppedTenants)} {
				out <- prometheus.MustNewConstMetric(descs[i], prometheus.GaugeValue, v, server)
			}
		}
	},
}

// ReadTraffic sets where the loads of the authorization servers are read from.
func ReadTraffic(read func() map[string]traffic.Load) { traffics.read.Store(&read) }
