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

// Refusals remembers which bundles the API server refuses, and why. It is lost on restart;
// the bundles are then offered again.
type Refusals struct {
	clock clock.PassiveClock
	said  *lru.Cache // from Request to refusal

	Apis chan event.GenericEvent // APIResources of which a bundle was refused or taken
	Pods chan event.GenericEvent // bundles that pods wait for
}

// refusal is why and when the API server refused a bundle; said is empty once it took the
// bundle.
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

// Of returns why the API server refused a bundle, "" if it took the bundle. judged is false
// if this process has not offered the bundle yet.
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

// Refused records that the API server refused a bundle, and wakes the controllers that report
// it. The message is kept for write.RefusalWait: it may differ each time, and each change of
// the status in which it is reported would lead to another attempt.
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

// Taken records that a bundle is up to date.
func (r *Refusals) Taken(req Request, api *v1alpha1.APIResource) {
	c := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionDistributed)
	told := c != nil && c.Reason == v1alpha1.ReasonBundleRefused && req.Namespace == api.Namespace
	if said, _ := r.Of(req); said == "" && !told {
		return
	}
	r.said.Add(req, refusal{})
	send(r.Apis, event.GenericEvent{Object: api})
}

// Forget drops what is known of a bundle that nobody needs any more.
func (r *Refusals) Forget(bundle Request) { r.said.Remove(bundle) }

// send wakes a controller. If the controller is too busy, the next attempt wakes it.
func send(to chan<- event.GenericEvent, e event.GenericEvent) {
	select {
	case to <- e:
	default:
	}
}
