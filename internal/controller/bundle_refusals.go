// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	// maxRefusals bounds the refused bundles that are remembered, and maxRefusal
	// the characters of what the API server says of one.
	maxRefusals = 4096
	maxRefusal  = 512
)

// refusals are the bundles that the API server does not take, and what it says of
// each. They are lost with the process, which then offers the bundles again.
type refusals struct {
	clock clock.PassiveClock
	said  *lru.Cache // from bundleRequest to refusal

	apis chan event.GenericEvent // APIResources one of whose bundles is judged otherwise than before
	pods chan event.GenericEvent // bundles that pods wait for
}

// refusal is what the API server said of a bundle and when, "" once it is taken.
type refusal struct {
	said string
	at   time.Time
}

func newRefusals(c clock.PassiveClock) *refusals {
	return &refusals{
		clock: c, said: lru.New(maxRefusals), apis: make(chan event.GenericEvent, 1024), pods: make(chan event.GenericEvent, 1024),
	}
}

// of returns what the API server said of a bundle, "" if it took it. Unless it is
// judged, this process knows nothing of a refusal.
func (r *refusals) of(bundle bundleRequest) (said string, judged bool) {
	last, judged := r.last(bundle)
	return last.said, judged
}

func (r *refusals) last(bundle bundleRequest) (last refusal, ok bool) {
	if v, ok := r.said.Get(bundle); ok {
		return v.(refusal), true
	}
	return refusal{}, false
}

// refused notes that the API server does not take a bundle, and wakes whom it
// concerns. What it says may differ each time, and be written into a status, which
// has the bundle offered again: it counts for a while.
func (r *refusals) refused(d *draft, bundle *corev1.ConfigMap, err error) (said string) {
	now := r.clock.Now()
	last, _ := r.last(d.request)
	if last.said == "" || now.Sub(last.at) >= refusalWait {
		answer := err.Error()
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			answer = status.Status().Message
		}
		last = refusal{truncate(oneLine(answer), maxRefusal), now}
		r.said.Add(d.request, last)
	}
	send(r.apis, event.GenericEvent{Object: d.api})
	send(r.pods, event.GenericEvent{Object: bundle})
	return last.said
}

// taken notes that a bundle is as it should be.
func (r *refusals) taken(d *draft) {
	c := meta.FindStatusCondition(d.api.Status.Conditions, v1alpha1.ConditionDistributed)
	told := c != nil && c.Reason == v1alpha1.ReasonBundleRefused && d.request.namespace == d.api.Namespace
	if said, _ := r.of(d.request); said == "" && !told {
		return
	}
	r.said.Add(d.request, refusal{})
	send(r.apis, event.GenericEvent{Object: d.api})
}

// forget drops what was said of a bundle that nobody asks for.
func (r *refusals) forget(bundle bundleRequest) { r.said.Remove(bundle) }

// send wakes a controller. One that is too busy hears of it with the next attempt.
func send(to chan<- event.GenericEvent, e event.GenericEvent) {
	select {
	case to <- e:
	default:
	}
}
