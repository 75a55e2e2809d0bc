// SPDX-License-Identifier: Apache-2.0

// Package enforcement writes, for each entry of an APIResource's spec.enforcement, the
// policy by which a gateway checks tokens, and keeps it as it should be. It also judges
// what the gateways made of it: package apiresource writes that into the status. What is
// in a policy is decided by internal/enforcement.
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
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Config holds the dependencies of a Reconciler.
type Config struct {
	Client   client.Client
	Clock    clock.PassiveClock
	Access   rules.Resolver
	Watched  watch.Namespaces
	Foreign  *foreign.Objects
	Policies *gateways.Policies
	Terms    *verification.ChangedTerms
}

// Reconciler writes the policies of APIResources.
type Reconciler struct {
	Config

	// Refused are the APIResources of which the API server refused an object, or takes
	// it again.
	Refused chan event.GenericEvent

	writes   *pace.Buckets[objectKey] // bounds the writes of each object
	failures *lru.Cache               // from objectKey to failure
	last     *lru.Cache               // from objectKey, of either form, to wrote
}

// objectKey names an object that is written. A policy that refuses every request counts as
// an object of its own: it is written instead of one that was refused.
type objectKey struct {
	kind   string
	name   types.NamespacedName
	closed bool
}

const (
	// maxRemembered bounds the failures and the writes that are remembered.
	maxRemembered = 4096
	// maxSaid bounds the characters that are kept of an API server's refusal.
	maxSaid = 512
	// notOwnedWait is how long the operator waits before it looks whether a policy that is
	// not its own is gone. It does not see those without its label.
	notOwnedWait = 10 * time.Second
)

// New returns a reconciler.
func New(c Config) *Reconciler {
	return &Reconciler{
		Config: c, Refused: make(chan event.GenericEvent, 1024), writes: pace.New[objectKey](writeRate), failures: lru.New(maxRemembered), last: lru.New(maxRemembered),
	}
}

// Reconcile brings the policies of an APIResource in line with its spec and its server's keys.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	var api v1alpha1.APIResource
	err := r.Client.Get(ctx, req.NamespacedName, &api)
	if apierrors.IsNotFound(err) {
		r.Terms.Forget(req.NamespacedName)
	}
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err) // the garbage collector removes what it owned
	}
	if len(r.Policies.Allowed()) == 0 {
		return ctrl.Result{}, nil
	}
	b, err := r.basisOf(ctx, &api)
	if err != nil {
		return ctrl.Result{}, err
	}
	var again time.Duration
	var errs []error
	var all []wanted
	for i := range api.Spec.Enforcement {
		e := &api.Spec.Enforcement[i]
		if verification.GatewayOf(e) == "" {
			continue
		}
		w := b.wantedOf(e)
		wait, err := r.enforce(ctx, b, w)
		again = refresh.Soonest(0, again, wait)
		errs, all = append(errs, err), append(all, w)
	}
	errs = append(errs, r.sweep(ctx, b, all))
	if err := errors.Join(errs...); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// enforce writes the objects of one entry.
func (r *Reconciler) enforce(ctx context.Context, b basis, w wanted) (time.Duration, error) {
	problem, err := r.Policies.Served(ctx, w.entry.Gateway)
	if err != nil {
		return 0, err
	}
	if problem != nil {
		return gateways.Again(problem), nil
	}
	if w.keep && r.gate(w).Belongs(b.api) {
		return 0, nil
	}
	if !b.api.DeletionTimestamp.IsZero() {
		// What the garbage collector has removed stays away, but a finalizer may hold the
		// APIResource for long, and a revoked key must leave.
		if stands, err := r.stands(ctx, b, w); !stands || err != nil {
			return 0, err
		}
	}
	p, err := r.planOf(ctx, b, w)
	if err != nil {
		return 0, err
	}
	staged, err := r.stage(ctx, b, w, p)
	if err != nil {
		return 0, err
	}
	for _, o := range w.policy.Objects {
		if o.GetKind() == "ConfigMap" && staged > 0 {
			continue
		}
		wait, err := r.write(ctx, b, w, o)
		if often := (*gateways.TooOften)(nil); errors.As(err, &often) {
			wait, err = often.Wait, nil
		}
		if wait == 0 && err == nil {
			continue
		}
		return refresh.Soonest(0, wait, staged), errors.Join(err, r.shut(ctx, b, w))
	}
	return staged, nil
}

// stands reports whether all objects of an entry are there.
func (r *Reconciler) stands(ctx context.Context, b basis, w wanted) (bool, error) {
	keys, policies := w.split()
	for _, o := range policies {
		if !r.Policies.Get(kindOf(w.entry.Gateway, o), w.name()).IsOf(b.api) {
			return false, nil
		}
	}
	if keys == nil {
		return true, nil
	}
	is, err := r.keysNow(ctx, w.keysName())
	return is != nil, err
}

// shut writes the policy that refuses every request if the entry's own policy lacks an
// object that could not be written. It always does so for a new entry. For an existing one,
// it does so if somebody else decides which keys the gateway has.
func (r *Reconciler) shut(ctx context.Context, b basis, w wanted) error {
	closed, first := enforcement.Closed(w.entry).Objects[0], w.policy.Objects[0]
	if first.GetKind() == closed.GetKind() {
		return nil
	}
	theirs, err := r.inOthersHands(ctx, w.keyOf(first))
	if err != nil || r.gate(w) != nil && !theirs {
		return err
	}
	w.contents = render.Contents{Terms: termsClosed}
	_, err = r.write(ctx, b, w, closed)
	return err
}

// inOthersHands reports whether somebody else has put what they like into an object with
// keys that the operator could not write: it is theirs, or they change it too often.
func (r *Reconciler) inOthersHands(ctx context.Context, key objectKey) (bool, error) {
	if f, failed := r.failure(key); failed && f.reason == v1alpha1.ReasonObjectNotOwned {
		return true, nil
	}
	last, known := r.wroteLast(key)
	if key.kind != "ConfigMap" || !known {
		return false, nil
	}
	is, err := r.keysNow(ctx, key.name)
	return is != nil && cached.ContentDigest(is) != last.data, err
}

func (r *Reconciler) write(ctx context.Context, b basis, w wanted, o *unstructured.Unstructured) (time.Duration, error) {
	if o.GetKind() == "ConfigMap" {
		return r.writeKeys(ctx, b, w, o)
	}
	return r.writePolicy(ctx, b, w, o)
}

// writePolicy creates or updates a policy if it is not as wanted.
func (r *Reconciler) writePolicy(ctx context.Context, b basis, w wanted, o *unstructured.Unstructured) (time.Duration, error) {
	k := kindOf(w.entry.Gateway, o)
	key := w.keyOf(o)
	is, err := r.Policies.Read(ctx, k, w.name())
	next, before := w.contentsOf(o.GetKind(), is, r.Clock.Now())
	if often := (*gateways.TooOften)(nil); errors.As(err, &often) && r.urgent(b, key, o, before, next) {
		// Nobody delays a removal by changing the policy. Since when it is as it is, is lost.
		is, next, err = r.Policies.Get(k, w.name()), next.Since(render.Contents{}, r.Clock.Now()), nil
	}
	if err != nil {
		return 0, err
	}
	contents := encode(next)
	if is.IsOf(b.api) && r.Policies.Same(k, is, o, contents) {
		r.taken(key, b.api)
		return 0, nil
	}
	f := failure{what: digestOf(o.Object, contents)}
	if is != nil {
		f.there = is.UID
	}
	urgent := r.urgent(b, key, o, before, next)
	if wait, err := r.awaitTokens(ctx, b, w, before, next); !urgent && (wait > 0 || err != nil) {
		return wait, err
	}
	if wait := r.mayWrite(key, f, urgent, weight(before, next)); wait > 0 {
		return wait, nil
	}
	err = r.Policies.Write(ctx, k, b.api, o, contents)
	if urgent && !key.closed && is != nil && write.Refused(err) {
		if err := r.withdraw(b, w, before, func(o *unstructured.Unstructured, c render.Contents) error {
			return r.Policies.Write(ctx, k, b.api, o, encode(c))
		}, func() error { return r.Policies.Delete(ctx, k, is) }); err != nil {
			return 0, err
		}
	}
	if err == nil {
		log.FromContext(ctx).Info("Wrote a policy", "kind", k.Name, "name", o.GetName())
		r.wrote(key, o, next, "")
		r.taken(key, b.api)
		return 0, nil
	}
	return r.failed(ctx, key, b.api, f, err)
}

// withdraw takes a revoked key out of an object that the API server refuses in its new
// form: without new keys, or else by deleting the object.
func (r *Reconciler) withdraw(
	b basis, w wanted, before render.Contents, put func(*unstructured.Unstructured, render.Contents) error, remove func() error,
) error {
	stays := func(id string) bool { return w.contents.Keys[id].Hash == before.Keys[id].Hash }
	bundle := b.bundle
	bundle.Keys = slices.DeleteFunc(slices.Clone(bundle.Keys), func(k render.Key) bool { return !stays(k.ID) })
	smaller, err := enforcement.Open(bundle, w.entry)
	if err != nil {
		return remove()
	}
	w.contents.Keys = maps.Clone(w.contents.Keys)
	maps.DeleteFunc(w.contents.Keys, func(id string, _ render.KeyContents) bool { return !stays(id) })
	if err := put(smaller.Objects[0], w.contents.Since(before, r.Clock.Now())); !write.Refused(err) {
		return err
	}
	return remove()
}

// contentsOf returns the contents of a policy as it is about to be, and as it is. Only
// the object with the keys lists them.
func (w wanted) contentsOf(kind string, is *gateways.Object, now time.Time) (next, before render.Contents) {
	next = w.contents
	if kind != "ConfigMap" && kind != "RequestAuthentication" {
		next.Keys = nil
	}
	if is == nil {
		return next, before
	}
	before, known := verification.ReadContents(is.Contents)
	if !known {
		return next, before
	}
	return next.Since(before, now), before
}

// awaitTokens returns how long other terms of a policy wait for the tokens in use.
func (r *Reconciler) awaitTokens(ctx context.Context, b basis, w wanted, before, next render.Contents) (time.Duration, error) {
	if w.problem != nil || next.Terms == termsClosed || before.Terms == termsClosed {
		return 0, nil // the policy closes, or was closed before
	}
	return r.Terms.Await(ctx, b.api, b.srv, before, next, r.Clock.Now())
}

// sweep removes the objects that no entry needs any more. A policy that refuses requests
// goes last, and only when every entry for its gateway has one: an entry may have a new name,
// and its new policy may not be there yet. Without its keys, the former policy lets nothing
// pass. A closed entry needs no keys.
func (r *Reconciler) sweep(ctx context.Context, b basis, all []wanted) error {
	type object struct{ kind, name string }
	needed, waiting := map[object]bool{}, map[enforcement.Gateway]bool{}
	for _, w := range all {
		for _, k := range gateways.Kinds(w.entry.Gateway) {
			needed[object{k.Name, w.name().Name}] = w.keep
		}
		needed[object{"ConfigMap", w.keysName().Name}] = w.keep
		for i := range w.entry.Spares {
			needed[object{spareKind.Name, w.spareName(i).Name}] = w.keep || w.problem == nil
		}
		for _, o := range w.policy.Objects {
			needed[object{o.GetKind(), o.GetName()}] = true
		}
		if !r.gate(w).IsOf(b.api) {
			waiting[w.entry.Gateway] = true
		}
	}
	var errs []error
	for _, g := range r.Policies.Allowed() {
		if problem, err := r.Policies.Served(ctx, g); problem != nil || err != nil {
			continue // there is nothing to see
		}
		kinds := gateways.Kinds(g)
		for i, k := range kinds {
			if i == len(kinds)-1 && waiting[g] {
				continue
			}
			for _, o := range r.Policies.Of(k, b.api) {
				if needed[object{k.Name, o.Name.Name}] || !enforcement.IsObjectName(b.api.Name, o.Name.Name) {
					continue
				}
				if err := r.Policies.Delete(ctx, k, o); err != nil {
					errs = append(errs, err)
					continue
				}
				log.FromContext(ctx).Info("Removed a policy", "kind", k.Name, "name", o.Name.Name)
			}
		}
	}
	return errors.Join(append(errs, r.sweepKeys(ctx, b.api, func(name string) bool { return needed[object{"ConfigMap", name}] }))...)
}

// SetupWithManager watches APIResources, servers and what is written for them.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	if len(r.Policies.Allowed()) == 0 {
		return nil
	}
	ofServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{}, client.MatchingFields{watch.ByServer: rules.ServerKeyOf(o).String()})
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("enforcement").
		For(&v1alpha1.APIResource{}, builder.WithPredicates(watch.EnforcedChanged)).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&corev1.ConfigMap{}, ofKeys()).
		WatchesRawSource(foreign.Source(r.Foreign, "ConfigMap", ofKeys())).
		WatchesRawSource(gateways.Source{Policies: r.Policies}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}

// ofKeys maps a ConfigMap with keys to its APIResource.
func ofKeys() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		if api, ok := enforcement.ParseKeysName(o.GetName()); ok {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: api}}}
		}
		return nil
	})
}
