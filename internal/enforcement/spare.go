// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Envoy Gateway names a provider after its keys. The listener of an Envoy has the
// providers, a route has the name of the one that it requires, and Envoy applies the
// two one after the other. In between, and on connections of the former listener for as
// long as they drain, a route names a provider that the listener does not have, and
// Envoy refuses the request. So each set of keys is also in a policy for a place that
// gets no requests, before the route requires it and as long as the route did: the
// listener then has both names, and only the route changes.

// sparePlaces end the names of the policies for spare places.
var sparePlaces = []string{"spare-1", "spare-2"}

// SpareName returns the name of the policy for a spare place, 0 or 1, of an entry.
func SpareName(api, entry string, place int) string {
	return ObjectName(api, entry) + "." + sparePlaces[place]
}

// Spare returns the policy for a spare place. It has keys, and refuses every request.
func Spare(b render.Bundle, e Entry, place int, keys string) *unstructured.Unstructured {
	o := object(e, "gateway.envoyproxy.io/v1alpha1", "SecurityPolicy", SpareName(e.API, e.Name, place))
	o.Object["spec"] = map[string]any{
		"targetRefs":    targetRefs([]Target{e.Spares[place]}),
		"jwt":           envoyProviders(b, map[string]any{"type": "Inline", "inline": keys}),
		"authorization": map[string]any{"defaultAction": "Deny"},
	}
	return o
}

// Held names the keys in a spare place, and the time since which it has them.
type Held struct {
	Keys  string // a name of them; empty: nothing of use
	Since time.Time
}

// Stage returns what the two spare places of an entry have to hold while its keys change
// from the present ones to the next ones, by name, and when the next ones may be written
// for the route itself. Places that already hold what is needed keep it. Only the next keys
// are at hand, so the present ones cannot be put anywhere while they differ.
func Stage(present, next string, held [2]Held, now time.Time, drain time.Duration) (hold [2]string, ready time.Time) {
	at := func(keys string) int { return slices.IndexFunc(held[:], func(h Held) bool { return h.Keys == keys }) }
	for i, h := range held {
		hold[i] = h.Keys
		if h.Keys == "" {
			hold[i] = next
		}
	}
	if at(next) < 0 {
		hold[1-max(0, at(present))] = next
	}
	if present == next {
		return hold, now
	}
	for i, h := range held {
		since := now
		switch {
		case hold[i] != present && hold[i] != next:
			continue
		case h.Keys == hold[i] && h.Since.Before(now):
			since = h.Since
		}
		if at := since.Add(drain); at.After(ready) {
			ready = at
		}
	}
	return hold, ready
}
