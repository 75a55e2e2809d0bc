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
)

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
