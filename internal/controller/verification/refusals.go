// SPDX-License-Identifier: Apache-2.0

package verification

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
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

const (
	// maxRefusals bounds the refused bundles that are remembered.
	maxRefusals = 4096

	// MaxRefusal bounds the characters that are kept of an API server's refusal.
	MaxRefusal = 512
)

// Refusals are the bundles that the API server does not take, and what it says of
// each. They are lost with the process, which then offers the bundles again.
type Refusals struct {
	clock clock.PassiveClock
	said  *lru.Cache // from Request to refusal

	Apis chan event.GenericEvent // APIResources one of whose bundles is judged otherwise than before
	Pods chan event.GenericEvent // bundles that pods wait for
}

// refusal is what the API server said of a bundle and when, "" once it is taken.
type refusal struct {
	said string
	at   time.Time
}

// NewRefusals returns refusals of which none is known yet.
func NewRefusals(c clock.PassiveClock) *Refusals {
	return &Refusals{
		clock: c, said: lru.New(maxRefusals), Apis: make(chan event.GenericEvent, 1024), Pods: make(chan event.GenericEvent, 1024),
	}
}

// Of returns what the API server said of a bundle, "" if it took it. Unless it is
// judged, this process knows nothing of a refusal.
func (r *Refusals) Of(bundle Request) (said string, judged bool) {
	last, judged := r.last(bundle)
	return last.said, judged
}

func (r *Refusals) last(bundle Request) (last refusal, ok bool) {
	if v, ok := r.said.Get(bundle); ok {
		return v.(refusal), true
	}
	return refusal{}, false
}

// Refused notes that the API server does not take a bundle, and wakes whom it
// concerns. What it says may differ each time, and be written into a status, which
// has the bundle offered again: it counts for a while.
func (r *Refusals) Refused(req Request, api *v1alpha1.APIResource, bundle *corev1.ConfigMap, err error) (said string) {
	now := r.clock.Now()
	last, _ := r.last(req)
	if last.said == "" || now.Sub(last.at) >= write.RefusalWait {
		answer := err.Error()
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			answer = status.Status().Message
		}
		last = refusal{text.CutRunes(text.Line(answer), MaxRefusal), now}
		r.said.Add(req, last)
	}
	send(r.Apis, event.GenericEvent{Object: api})
	send(r.Pods, event.GenericEvent{Object: bundle})
	return last.said
}

// Taken notes that a bundle is as it should be.
func (r *Refusals) Taken(req Request, api *v1alpha1.APIResource) {
	c := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionDistributed)
	told := c != nil && c.Reason == v1alpha1.ReasonBundleRefused && req.Namespace == api.Namespace
	if said, _ := r.Of(req); said == "" && !told {
		return
	}
	r.said.Add(req, refusal{})
	send(r.Apis, event.GenericEvent{Object: api})
}

// Forget drops what was said of a bundle that nobody asks for.
func (r *Refusals) Forget(bundle Request) { r.said.Remove(bundle) }

// send wakes a controller. One that is too busy hears of it with the next attempt.
func send(to chan<- event.GenericEvent, e event.GenericEvent) {
	select {
	case to <- e:
	default:
	}
}
