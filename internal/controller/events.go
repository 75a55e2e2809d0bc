// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
)

// boundedEvents shortens notes to what an event can hold: the API server refuses
// others, and the event would be lost. A list of names has no bound.
type boundedEvents struct{ recorder.EventRecorder }

// Eventf records an event.
func (e boundedEvents) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	e.EventRecorder.Eventf(regarding, related, eventType, reason, action, "%s", bounded(fmt.Sprintf(note, args...)))
}

// bounded shortens a note to what an event can hold: 1024 bytes.
func bounded(note string) string {
	const most = 1000
	if len(note) <= most {
		return note
	}
	return strings.ToValidUTF8(note[:most], "") + "…"
}
