// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// plan lists the policies that an entry's spare places need. The entry's own keys may
// change from ready on.
type plan struct {
	places []place
	ready  time.Time
}

// place is a spare place.
type place struct {
	want     *unstructured.Unstructured // nil: it stays as it is
	contents render.Contents
}

// otherKeys stands for keys that are not needed.
const otherKeys = "other"

// planOf returns the plan of an entry, empty if it has no spare places. What is new, about
// to go, or not the APIResource's does not wait. A revoked key does not either.
func (r *Reconciler) planOf(ctx context.Context, b basis, w wanted) (p plan, err error) {
	keys, _ := w.split()
	var held [2]enforcement.Held
	if keys == nil || len(w.entry.Spares) != len(held) || !b.api.DeletionTimestamp.IsZero() {
		return p, nil
	}
	is, err := r.keysNow(ctx, w.keysName())
	if is == nil || err != nil || !gateways.Belongs(is, b.api) {
		return p, err
	}
	want, before, next := r.keysWanted(b, w, keys, is)
	if theirs, err := r.inOthersHands(ctx, w.keyOf(keys)); theirs || err != nil || r.urgent(b, w.keyOf(keys), keys, before, next) {
		return p, err
	}
	c := change{present: nameOfKeys(is), next: nameOfKeys(want), keys: want.Data[enforcement.KeysField]}
	for i := range held {
		held[i] = r.held(ctx, b, w, i, c)
	}
	now := r.Clock.Now()
	hold, ready := enforcement.Stage(c.present, c.next, held, now, w.drain)
	p.ready = ready
	for i, name := range hold {
		if name != c.next {
			p.places = append(p.places, place{})
			continue
		}
		o := enforcement.Spare(b.bundle, w.entry, i, c.keys)
		contents := render.Contents{Terms: termsOfSpare(o, c.next), Keys: next.Keys}
		was, _ := verification.ReadContents(contentsOf(r.spare(ctx, w, i)))
		p.places = append(p.places, place{o, contents.Since(was, now)})
	}
	return p, nil
}

// change is a change of an entry's keys. Sets of keys have names, because the cache does
// not have them.
type change struct{ present, next, keys string }

func nameOfKeys(m *corev1.ConfigMap) string { return fmt.Sprintf("%x", cached.ContentDigest(m)) }

// spare returns the policy for a spare place. One that cannot be read counts as one that is
// not there.
func (r *Reconciler) spare(ctx context.Context, w wanted, i int) *gateways.Object {
	is, err := r.Policies.Read(ctx, spareKind, w.spareName(i))
	if err != nil {
		log.FromContext(ctx).V(1).Info("Could not read the policy for a spare place", "reason", err.Error())
		return nil
	}
	return is
}

// held returns what a spare place holds of a change.
func (r *Reconciler) held(ctx context.Context, b basis, w wanted, i int, change change) enforcement.Held {
	is := r.spare(ctx, w, i)
	c, known := verification.ReadContents(contentsOf(is))
	if !is.IsOf(b.api) || !known || slices.ContainsFunc(slices.Collect(maps.Keys(c.Keys)), b.srv.Revoked) {
		return enforcement.Held{}
	}
	o := enforcement.Spare(b.bundle, w.entry, i, change.keys)
	switch c.Terms {
	case termsOfSpare(o, change.next):
		if !r.Policies.Same(spareKind, is, o, is.Contents) {
			return enforcement.Held{} // somebody has changed it
		}
		return enforcement.Held{Keys: change.next, Since: c.TermsSince}
	case termsOfSpare(o, change.present):
		return enforcement.Held{Keys: change.present, Since: c.TermsSince}
	}
	return enforcement.Held{Keys: otherKeys}
}

// spareKind is the kind of the policies for spare places.
var spareKind = gateways.Kinds(enforcement.EnvoyGateway)[0]

func (w wanted) spareName(i int) types.NamespacedName {
	return types.NamespacedName{Namespace: w.entry.Namespace, Name: enforcement.SpareName(w.entry.API, w.entry.Name, i)}
}

// termsOfSpare names what a policy for a spare place says, with keys of a name.
func termsOfSpare(o *unstructured.Unstructured, keys string) string {
	o = o.DeepCopy()
	providers, _, _ := unstructured.NestedSlice(o.Object, "spec", "jwt", "providers")
	for _, p := range providers {
		delete(p.(map[string]any), "localJWKS")
	}
	if err := unstructured.SetNestedSlice(o.Object, providers, "spec", "jwt", "providers"); err != nil {
		panic(err) // it has them
	}
	return fmt.Sprintf("%x", digestOf(o.Object, keys))
}

func contentsOf(o *gateways.Object) string {
	if o == nil {
		return ""
	}
	return o.Contents
}

// stage brings the spare places of an entry in line, and returns how long its own keys wait
// for that. They do not wait for a place that cannot be written.
func (r *Reconciler) stage(ctx context.Context, b basis, w wanted, p plan) (time.Duration, error) {
	var errs []error
	failed := false
	for i, place := range p.places {
		is := r.spare(ctx, w, i)
		contents := encode(place.contents)
		if place.want == nil || is.IsOf(b.api) && r.Policies.Same(spareKind, is, place.want, contents) {
			continue
		}
		key, f := w.keyOf(place.want), failure{what: digestOf(place.want.Object, contents)}
		if is != nil {
			f.there = is.UID
		}
		if r.mayWrite(key, f, false, 1) > 0 {
			failed = true
			continue
		}
		if err := r.Policies.Write(ctx, spareKind, b.api, place.want, contents); err != nil {
			_, err = r.failed(ctx, key, b.api, f, err)
			failed, errs = true, append(errs, err)
			continue
		}
		log.FromContext(ctx).V(1).Info("Wrote keys into a spare place", "name", place.want.GetName())
		r.taken(key, b.api)
	}
	if failed {
		return 0, errors.Join(errs...)
	}
	return max(0, p.ready.Sub(r.Clock.Now())), nil
}

// spareProblem returns why the keys of an entry cannot change without refusing a call, nil
// if they can or need not.
func (r *Reconciler) spareProblem(ctx context.Context, b basis, w wanted) (*rules.Problem, time.Duration) {
	for i := range w.entry.Spares {
		if p := r.problemWith(objectKey{kind: spareKind.Name, name: w.spareName(i)}); p != nil {
			return p, 0
		}
	}
	for i := range w.entry.Spares {
		is := r.spare(ctx, w, i)
		if !is.IsOf(b.api) {
			continue // it is being written
		}
		if p, again := r.envoyGatewaySays(is); p != nil {
			return p, again
		}
	}
	return nil, 0
}
