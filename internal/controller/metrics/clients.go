// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// clients publishes the tokens and conditions of M2MClients.
var clients = &clientCollector{
	expiry: prometheus.NewDesc("m2m_token_expiry_timestamp_seconds",
		"When the token of an access expires, in seconds since the epoch.", []string{"namespace", "name", "access"}, nil),
	condition: prometheus.NewDesc("m2m_client_condition",
		"1 for the condition Ready of an M2MClient, and for each of its other conditions that is not True.",
		[]string{"namespace", "name", "type", "reason", "status"}, nil),
	due: prometheus.NewDesc("m2m_token_refresh_due_timestamp_seconds",
		"When the earliest refresh of a token is or was due, in seconds since the epoch. If that is past, the refresh is overdue.", []string{"server"}, nil),
	waiting: prometheus.NewDesc("m2m_tokens_waiting",
		"Tokens that were issued and wait until the pods of their API have the key.", []string{"server"}, nil),
	all: map[types.NamespacedName]clientSeries{},
}

// clientCollector keeps what it needs to build the series when they are read.
type clientCollector struct {
	expiry, condition, due, waiting *prometheus.Desc

	mu  sync.Mutex
	all map[types.NamespacedName]clientSeries
}

// clientSeries is what is published of a client.
type clientSeries struct {
	server     unique.Handle[string]
	tokens     []token
	conditions []condition
	waiting    int
}

// token is when the token of an access expires, and when it is due for its refresh.
type token struct {
	access      string
	expiry, due int64
}

// Describe implements prometheus.Collector.
func (c *clientCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.expiry, c.condition, c.due, c.waiting} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *clientCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	all := maps.Clone(c.all) // do not hold the lock for a slow reader
	c.mu.Unlock()
	due, waiting := map[unique.Handle[string]]int64{}, map[unique.Handle[string]]int{}
	for name, s := range all {
		for _, t := range s.tokens {
			out <- prometheus.MustNewConstMetric(c.expiry, prometheus.GaugeValue, float64(t.expiry), name.Namespace, name.Name, t.access)
			if first, ok := due[s.server]; t.due > 0 && (!ok || t.due < first) {
				due[s.server] = t.due
			}
		}
		collect(out, c.condition, nameLabels(name), s.conditions)
		waiting[s.server] += s.waiting
	}
	for server, at := range due {
		out <- prometheus.MustNewConstMetric(c.due, prometheus.GaugeValue, float64(at), server.Value())
	}
	for server, n := range waiting {
		out <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(n), server.Value())
	}
}

// ObserveClient publishes the tokens and conditions of a client, and drops what it published
// for accesses and tokens that are gone. server is the client's, "" if that is not known.
func ObserveClient(c *v1alpha1.M2MClient, server string) {
	s := clientSeries{
		server: unique.Make(server),
		conditions: published(c.Status.Conditions,
			v1alpha1.ConditionGranted, v1alpha1.ConditionFresh, v1alpha1.ConditionVerified, v1alpha1.ConditionProvisioned),
	}
	for i := range c.Status.Tokens {
		t := &c.Status.Tokens[i]
		if t.Pending.Since != nil {
			s.waiting++
		}
		if t.ExpiresAt == nil {
			continue
		}
		is := token{access: string(t.Key), expiry: t.ExpiresAt.Unix()}
		if t.RefreshAt != nil {
			is.due = t.RefreshAt.Unix()
		}
		s.tokens = append(s.tokens, is)
	}
	clients.mu.Lock()
	defer clients.mu.Unlock()
	clients.all[client.ObjectKeyFromObject(c)] = s
}

// ForgetClient drops what was published for a client that is gone.
func ForgetClient(name types.NamespacedName) {
	clients.mu.Lock()
	defer clients.mu.Unlock()
	delete(clients.all, name)
}
