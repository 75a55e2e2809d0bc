// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"slices"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
)

// NotedEvents records events on their way to the API server.
type NotedEvents struct {
	recorder.EventRecorder
	Notes []string // "pod: reason: note"
}

// Eventf records an event and sends it on.
func (n *NotedEvents) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	n.Notes = append(n.Notes, regarding.(client.Object).GetName()+": "+reason+": "+fmt.Sprintf(note, args...))
	n.EventRecorder.Eventf(regarding, related, eventType, reason, action, note, args...)
}

// NoteEvents records a stepped operator's events about pods.
func NoteEvents(op *Operator) *NotedEvents {
	n := &NotedEvents{EventRecorder: op.Pods.Events}
	op.Pods.Events = n
	return n
}

// Take returns the events since the last call.
func (n *NotedEvents) Take() []string {
	notes := n.Notes
	n.Notes = nil
	slices.Sort(notes)
	return notes
}

// EventsOfPod returns the API server's events about a pod, as "type reason: note".
func EventsOfPod(t *testing.T, pod client.Object) []string {
	t.Helper()
	var list eventsv1.EventList
	if err := Kube.List(t.Context(), &list, client.InNamespace(pod.GetNamespace())); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range list.Items {
		if e.Regarding.Kind == "Pod" && e.Regarding.APIVersion == "v1" && e.Regarding.UID == pod.GetUID() && e.Series == nil {
			found = append(found, e.Type+" "+e.Reason+": "+e.Note)
		}
	}
	slices.Sort(found)
	return found
}
