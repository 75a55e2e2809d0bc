// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// legacyEvent is an event of the core group: who reports it, where it comes from, and about
// what it is.
func legacyEvent(namespace, reporter, source, apiVersion, kind, name string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, GenerateName: "clause-"},
		InvolvedObject:      corev1.ObjectReference{APIVersion: apiVersion, Kind: kind, Namespace: namespace, Name: name},
		ReportingController: reporter, Source: corev1.EventSource{Component: source},
		Reason: "Misplaced", Type: corev1.EventTypeWarning,
	}
}

func eventClauses(t *testing.T) (all []attempt) {
	t.Helper()
	ns := newNamespace(t, "event-clauses")
	for _, about := range []struct {
		allowed                               bool
		reporter, source, version, kind, name string
	}{
		{true, "m2m-pod", "m2m-pod", "v1", "Pod", "cart"},
		{true, "m2m-bundle", "", "v1", "ConfigMap", "m2m-verify.payments.api"},
		{false, "m2m-bundle", "", "v1", "ConfigMap", "settings"},
		{false, "m2m-bundle", "", "v1", "Secret", "m2m-verify.payments.api"},
		{false, "m2m-pod", "", theirs, "Pod", "cart"},
		{true, "m2m-workload", "m2m-workload", "apps/v1", "StatefulSet", "cart"},
		{true, "m2m-workload", "", "apps/v1", "DaemonSet", "cart"},
		{true, "m2m-workload", "", "batch/v1", "Job", "cart"},
		{false, "m2m-workload", "", "apps/v1", "ReplicaSet", "cart"},
		{false, "m2m-workload", "", "batch/v1", "Queue", "cart"},
		{false, "m2m-workload", "", theirs, "Deployment", "cart"},
		{false, "m2m-workload", "", theirs, "Job", "cart"},
		{false, "kubelet", "", "apps/v1", "Deployment", "cart"},
		{false, "m2m-workload", "kubelet", "apps/v1", "Deployment", "cart"},
	} {
		name := fmt.Sprintf("speaks as %s, from %q, about a %s %s %s", about.reporter, about.source, about.version, about.kind, about.name)
		all = append(all, attempt{name, creates(legacyEvent(ns, about.reporter, about.source, about.version, about.kind, about.name)), about.allowed})
	}
	normal, other := legacyEvent(ns, "m2m-workload", "", "apps/v1", "Deployment", "cart"), legacyEvent(ns, "m2m-pod", "kubelet", "v1", "Pod", "cart")
	normal.Type = corev1.EventTypeNormal
	other.EventTime, other.Action, other.ReportingInstance = metav1.NowMicro(), "Deliver", "node-1"
	create(t, other)
	const series = `{"series":{"count":2,"lastObservedTime":"2026-11-24T12:00:00.000000Z"}}`
	older := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: other.Name}}
	leading := legacyEvent(systemNamespace, "pod_1", "", "v1", "ConfigMap", "m2m-operator")
	own := event(ns, "own-clause")
	own.ReportingController = "m2m-pod"
	create(t, own)
	all = append(all,
		attempt{"says in passing that something is misplaced", creates(normal), false},
		attempt{"speaks for the kubelet in the older field", patches(older, types.MergePatchType, series), false},
		attempt{"says who leads with another kind", creates(leading), false},
		attempt{"deletes its own event", deletes(own), false},
	)
	// Each is another's, and would be the operator's afterwards.
	for name, change := range map[string]struct {
		was   *corev1.Event
		patch string
	}{
		"that another reports":                     {legacyEvent(ns, "kubelet", "", "v1", "Pod", "cart"), `{"reportingComponent":"m2m-pod"}`},
		"that comes from another":                  {legacyEvent(ns, "m2m-pod", "kubelet", "v1", "Pod", "cart"), `{"source":{"component":"m2m-pod"}}`},
		"about something else":                     {legacyEvent(ns, "m2m-pod", "", "v1", "Node", "cart"), `{"involvedObject":{"kind":"Pod"}}`},
		"about a workload that another reports":    {legacyEvent(ns, "kubelet", "", "apps/v1", "Deployment", "cart"), `{"reportingComponent":"m2m-workload"}`},
		"about a workload that comes from another": {legacyEvent(ns, "m2m-workload", "kubelet", "apps/v1", "Deployment", "cart"), `{"source":null}`},
		"about a workload that was about a node":   {legacyEvent(ns, "m2m-workload", "", "apps/v1", "Node", "cart"), `{"involvedObject":{"kind":"Deployment"}}`},
	} {
		create(t, change.was)
		all = append(all, attempt{"takes over an event " + name, patches(change.was, types.MergePatchType, change.patch), false})
	}
	scaled := legacyEvent(ns, "m2m-workload", "", "apps/v1", "Deployment", "cart")
	scaled.Reason = "ScalingReplicaSet"
	create(t, scaled)
	return append(all, attempt{"takes over an event of another reason", patches(scaled, types.MergePatchType, `{"reason":"Misplaced"}`), false})
}
