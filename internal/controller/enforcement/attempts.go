// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// wrote is what this process wrote last of an object. What the object itself says of that,
// somebody may have changed.
type wrote struct {
	what cached.Digest // of the object without its metadata
	data string        // digest of a ConfigMap's data
	keys []string
}

// failure is why an object could not be written.
type failure struct {
	at     time.Time
	what   cached.Digest // what was to be written
	there  types.UID     // the object that was in the way
	reason string
	said   string
}

// writeRate bounds how often an object is written, as that of verification bundles:
// somebody may change it as often as they like. A new key counts as one write.
var writeRate = pace.Rate{Every: 10 * time.Second, Burst: 64}

// urgent reports whether a write takes something away that must go at once: a revoked key,
// or, by a policy that refuses every request, all that was permitted. It is urgent once: if
// somebody changes what was written, writing it again is not.
func (r *Reconciler) urgent(b basis, key objectKey, o *unstructured.Unstructured, before, next render.Contents) bool {
	last, known := r.wroteLast(key)
	if known && last.what == digestOf(o.Object, "") {
		return false
	}
	if key.closed {
		return true
	}
	if b.srv == nil || next.Keys == nil {
		return false
	}
	keys := last.keys
	if !known { // since a restart, only the object itself tells
		keys = slices.Collect(maps.Keys(before.Keys))
	}
	return slices.ContainsFunc(keys, func(id string) bool {
		_, stays := next.Keys[id]
		return !stays && b.srv.Revoked(id)
	})
}

// either returns the key of an object, whatever form of it is to be written.
func (k objectKey) either() objectKey {
	k.closed = false
	return k
}

func (r *Reconciler) wroteLast(key objectKey) (w wrote, known bool) {
	v, known := r.last.Get(key.either())
	if known {
		w = v.(wrote)
	}
	return w, known
}

func (r *Reconciler) wrote(key objectKey, o *unstructured.Unstructured, c render.Contents, data string) {
	r.last.Add(key.either(), wrote{digestOf(o.Object, ""), data, slices.Collect(maps.Keys(c.Keys))})
}

// weight returns how much a write counts: the number of new keys, at least 1.
func weight(before, next render.Contents) int {
	n := 0
	for id, k := range next.Keys {
		if before.Keys[id].Hash != k.Hash {
			n++
		}
	}
	return min(max(1, n), writeRate.Burst)
}

// mayWrite returns how long a write has to wait. What was refused is offered again after a
// while, or once it or what was in its way differs. An urgent write does not wait for its turn.
func (r *Reconciler) mayWrite(key objectKey, as failure, urgent bool, n int) time.Duration {
	now := r.Clock.Now()
	if f, ok := r.failure(key); ok && f.what == as.what && f.there == as.there {
		if wait := f.at.Add(f.wait()).Sub(now); wait > 0 && wait <= f.wait() {
			return wait
		}
	}
	if urgent {
		r.writes.Force(key, n, now)
		return 0
	}
	return r.writes.Take(key, n, now)
}

// wait returns how long the operator waits before it tries again.
func (f failure) wait() time.Duration {
	if f.reason == v1alpha1.ReasonObjectNotOwned {
		return notOwnedWait
	}
	return write.RefusalWait
}

func (r *Reconciler) failure(key objectKey) (f failure, ok bool) {
	v, ok := r.failures.Get(key)
	if ok {
		f = v.(failure)
	}
	return f, ok
}

// failed remembers why an object was not written, if that will last, and returns when to
// try again. A revoked key must leave nevertheless.
func (r *Reconciler) failed(ctx context.Context, key objectKey, api *v1alpha1.APIResource, f failure, err error) (time.Duration, error) {
	f.at, f.reason = r.Clock.Now(), v1alpha1.ReasonObjectRefused
	switch {
	case errors.Is(err, gateways.ErrNotOurs):
		f.reason = v1alpha1.ReasonObjectNotOwned
	case errors.Is(err, gateways.ErrGone):
		return gateways.LookAgain, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return 0, nil
	case write.Refused(err):
		f.said = said(err)
	default:
		return 0, err
	}
	before, known := r.failure(key)
	if known && before.reason == f.reason && f.at.Sub(before.at) < write.RefusalWait {
		f.said = before.said // it may differ each time
	}
	r.failures.Add(key, f)
	if !known || before.reason != f.reason || before.said != f.said {
		log.FromContext(ctx).Info("Could not write an object of spec.enforcement", "kind", key.kind, "name", key.name.Name, "reason", err.Error())
		r.tell(api)
	}
	return f.wait(), nil
}

// taken forgets the failure of an object that the API server has taken.
func (r *Reconciler) taken(key objectKey, api *v1alpha1.APIResource) {
	if _, ok := r.failure(key); ok {
		r.failures.Remove(key)
		r.tell(api)
	}
}

// tell wakes the controller that writes the status. If it is too busy, the next attempt
// wakes it.
func (r *Reconciler) tell(api *v1alpha1.APIResource) {
	select {
	case r.Refused <- event.GenericEvent{Object: api}:
	default:
	}
}
