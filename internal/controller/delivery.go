// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// kubeletDelay is how long a kubelet takes at most to show a changed Secret
	// or ConfigMap in a pod that nobody touches: its sync period of a minute,
	// spread by half, and what is on the way.
	kubeletDelay = 2 * time.Minute

	// touchDelay is how long it takes at most after the pod was touched. A
	// second was measured.
	touchDelay = 5 * time.Second

	// clockSkew is how far the clocks of the API server, which says when a pod
	// was created, and of the operator may differ. With the second that creation
	// times are cut to, and the moment between a pod's creation and its start, it
	// is how much later than a change a pod must be for having seen it.
	clockSkew = 5 * time.Second
)

// createdSince reports whether a pod was created after a moment, beyond doubt.
func createdSince(pod client.Object, moment time.Time) bool {
	return pod.GetCreationTimestamp().After(moment.Add(clockSkew))
}

// momentIn reads a moment that the operator keeps in an annotation. What cannot
// be read is no moment.
func momentIn(o client.Object, annotation string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, o.GetAnnotations()[annotation])
	if err != nil {
		return time.Time{}
	}
	return t
}

// formatMoment writes what momentIn reads, to the millisecond.
func formatMoment(t time.Time) string {
	return t.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano)
}
