// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// condition is a condition that is published.
type condition struct {
	kind, reason string
	status       metav1.ConditionStatus
}

// ready is all that is published of most objects, which share it.
var ready = []condition{{v1alpha1.ConditionReady, v1alpha1.ReasonReady, metav1.ConditionTrue}}

// published returns the conditions of a status that are published: Ready, so that every
// object has a series, and those of the others that are not True. Only types that the
// operator writes count, because a status can be edited.
func published(all []metav1.Condition, kinds ...string) []condition {
	var found []condition
	for i := range all {
		c := &all[i]
		if c.Type == v1alpha1.ConditionReady || c.Status != metav1.ConditionTrue && slices.Contains(kinds, c.Type) {
			found = append(found, condition{c.Type, c.Reason, c.Status})
		}
	}
	if slices.Equal(found, ready) {
		return ready
	}
	return slices.Clip(found)
}

// object is what is published of an object with conditions.
type object struct {
	conditions  []condition
	undelivered int32 // of an APIResource
}

// objects publishes the conditions of a kind. A gauge vector would keep more than 1 KB for
// each series; this collector keeps only what it needs to build them when they are read.
type objects struct {
	desc, undelivered *prometheus.Desc // the second may be nil
	labels            func(types.NamespacedName) []string

	mu  sync.Mutex
	all map[types.NamespacedName]object
}

func nameLabels(n types.NamespacedName) []string { return []string{n.Namespace, n.Name} }

var (
	apis = &objects{
		desc: prometheus.NewDesc("m2m_api_condition",
			"1 for the condition Ready of an APIResource, and for each of its other conditions that is not True.",
			[]string{"namespace", "name", "type", "reason", "status"}, nil),
		undelivered: prometheus.NewDesc("m2m_verification_bundles_undelivered",
			"Other namespaces that need an API's verification bundle and do not have it in its present form.",
			[]string{"namespace", "name"}, nil),
		labels: nameLabels, all: map[types.NamespacedName]object{},
	}
	serverConditions = &objects{
		desc: prometheus.NewDesc("m2m_server_condition",
			"1 for the condition Ready of an authorization server, and for each of its other conditions that is not True.",
			[]string{"server", "type", "reason", "status"}, nil),
		labels: func(n types.NamespacedName) []string { return []string{n.Name} }, all: map[types.NamespacedName]object{},
	}
)

func (o *objects) set(name types.NamespacedName, is *object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if is == nil {
		delete(o.all, name)
		return
	}
	o.all[name] = *is
}

// Describe implements prometheus.Collector.
func (o *objects) Describe(descs chan<- *prometheus.Desc) {
	descs <- o.desc
	if o.undelivered != nil {
		descs <- o.undelivered
	}
}

// Collect implements prometheus.Collector.
func (o *objects) Collect(out chan<- prometheus.Metric) {
	o.mu.Lock()
	all := maps.Clone(o.all) // do not hold the lock for a slow reader
	o.mu.Unlock()
	for name, is := range all {
		collect(out, o.desc, o.labels(name), is.conditions)
		if o.undelivered != nil {
			out <- prometheus.MustNewConstMetric(o.undelivered, prometheus.GaugeValue, float64(is.undelivered), o.labels(name)...)
		}
	}
}

// collect sends the conditions of one object.
func collect(out chan<- prometheus.Metric, desc *prometheus.Desc, labels []string, conditions []condition) {
	for _, c := range conditions {
		values := append(slices.Clip(labels), c.kind, c.reason, string(c.status))
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1, values...)
	}
}

// ObserveAPI publishes the conditions of an APIResource, and where its bundle is missing.
func ObserveAPI(a *v1alpha1.APIResource) {
	conditions := published(a.Status.Conditions, v1alpha1.ConditionAccepted, v1alpha1.ConditionDistributed, v1alpha1.ConditionEnforced, v1alpha1.ConditionProvisioned)
	apis.set(client.ObjectKeyFromObject(a), &object{conditions, a.Status.Bundle.Undelivered})
}

// ForgetAPI drops what was published for an APIResource that is gone.
func ForgetAPI(name types.NamespacedName) { apis.set(name, nil) }

// ObserveServer publishes the conditions of an authorization server.
func ObserveServer(server fmt.Stringer, status *v1alpha1.AuthorizationServerStatus) {
	conditions := published(status.Conditions, v1alpha1.ConditionDiscovered, v1alpha1.ConditionKeysFresh, v1alpha1.ConditionProvisioningReady)
	serverConditions.set(types.NamespacedName{Name: server.String()}, &object{conditions: conditions})
}
