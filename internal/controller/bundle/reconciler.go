// SPDX-License-Identifier: Apache-2.0

// Package bundle writes the verification bundles: one ConfigMap for each
// APIResource in each namespace whose pods or workloads verify that API's tokens.
// It decides when a bundle is written and when it goes; packages verification and
// render decide what it contains. Package controller sets it up. It never changes a
// ConfigMap that is not the operator's, and writes no status: package apiresource
// reports what became of the bundles.
package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Config holds the dependencies of a Reconciler.
type Config struct {
	Client   client.Client
	Live     client.Reader // the cache does not hold the contents of ConfigMaps
	Clock    clock.PassiveClock
	Events   recorder.EventRecorder
	Access   rules.Resolver
	Watched  watch.Namespaces
	Foreign  *foreign.Objects
	Rendered *verification.Rendered
	Refusals *verification.Refusals
	Terms    *verification.ChangedTerms
	Prompt   bool // enables touching pods that must see a change at once
}

// Reconciler maintains the verification bundles: in each namespace, one ConfigMap for each
// APIResource that the annotation of a pod or workload there names.
type Reconciler struct {
	Config

	writes *pace.Buckets[verification.Request] // bounds the writes of each bundle
}

// New returns a Reconciler that has written nothing yet.
func New(c Config) *Reconciler {
	return &Reconciler{Config: c, writes: pace.New[verification.Request](bundleWriteRate)}
}

// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets;daemonsets,verbs=list;watch
// +kubebuilder:rbac:groups=batch,resources=jobs;cronjobs,verbs=list;watch

// Reconcile creates, updates or removes one bundle.
func (r *Reconciler) Reconcile(ctx context.Context, req verification.Request) (ctrl.Result, error) {
	current := &corev1.ConfigMap{}
	name := types.NamespacedName{Namespace: req.Namespace, Name: render.ConfigMapName(req.API.Namespace, req.API.Name)}
	if err := r.Client.Get(ctx, name, current); apierrors.IsNotFound(err) {
		current = nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get ConfigMap %q: %w", name, err)
	}

	var api v1alpha1.APIResource
	err := r.Client.Get(ctx, req.API, &api)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("get APIResource %q: %w", req.API, err)
	}
	exists := err == nil && api.DeletionTimestamp.IsZero()
	needed, err := r.Needed(ctx, req)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !exists {
		r.Rendered.Forget(req.API)
		r.Terms.Forget(req.API)
	}
	if !exists || !needed {
		r.Refusals.Forget(req)
		return ctrl.Result{}, r.remove(ctx, current, req)
	}

	return r.distribute(ctx, req, &api, current)
}

// Needed reports whether a pod or workload of the namespace asks for the bundle.
func (r *Reconciler) Needed(ctx context.Context, req verification.Request) (bool, error) {
	for _, list := range watch.VerifierLists() {
		err := r.Client.List(ctx, list, client.InNamespace(req.Namespace), client.MatchingFields{watch.ByVerify: req.API.String()},
			client.Limit(1), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
		if err != nil {
			return false, fmt.Errorf("list workloads that verify: %w", err)
		}
		if meta.LenList(list) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// bundleWriteRate limits how often one bundle is written; each new key counts as a write.
// Otherwise anyone who can change the contents or the ConfigMap itself could cause endless
// writes, in every namespace that verifies. Removing a revoked key never waits for it.
var bundleWriteRate = pace.Rate{Every: 10 * time.Second, Burst: 64}

// distribute writes the bundle of an APIResource. If something it needs is not known now,
// the present bundle stays, and the APIResource's conditions say why.
func (r *Reconciler) distribute(ctx context.Context, req verification.Request, api *v1alpha1.APIResource, current *corev1.ConfigMap) (ctrl.Result, error) {
	if !meta.IsStatusConditionTrue(api.Status.Conditions, v1alpha1.ConditionAccepted) {
		return ctrl.Result{}, nil
	}
	srv, unresolved, err := r.Access.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	if unresolved != nil || err != nil {
		return ctrl.Result{}, err
	}
	if srv.Opaque() {
		r.Refusals.Forget(req)
		return ctrl.Result{}, r.remove(ctx, current, req)
	}
	if !srv.KeysKnown() {
		return ctrl.Result{}, nil
	}
	d := &draft{request: req, api: api, srv: srv, current: current, bundle: verification.BundleOf(api, srv), extra: verification.ExtraFiles(api)}
	want, err := r.configMap(ctx, d, r.Rendered.Files)
	if err != nil {
		return ctrl.Result{}, err
	}
	if want == nil {
		return ctrl.Result{}, r.withdraw(ctx, d)
	}
	if current != nil {
		if want = changed(current, want); want == nil {
			r.Refusals.Taken(d.request, d.api)
			return ctrl.Result{}, nil
		}
	}
	revoked, err := r.holdsRevoked(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	now, weight := r.Clock.Now(), d.weight()
	if !revoked {
		before, _ := verification.ContentsIn(current)
		wait, err := r.Terms.Await(ctx, api, srv, before, render.ContentsOf(d.bundle, d.extra), now)
		if wait > 0 || err != nil {
			return ctrl.Result{RequeueAfter: wait}, err
		}
	}
	if revoked {
		r.writes.Force(req, weight, now)
	} else if wait := r.writes.Take(req, weight, now); wait > 0 {
		log.FromContext(ctx).V(1).Info("Put off writing a verification bundle that changes too often", "wait", wait)
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	err = r.write(ctx, d, want)
	switch {
	case write.Refused(err):
		return r.refused(ctx, d, want, err)
	case err == nil:
		r.Refusals.Taken(d.request, d.api)
	}
	return ctrl.Result{}, err
}

// draft is a bundle that is about to be written.
type draft struct {
	request verification.Request
	api     *v1alpha1.APIResource
	srv     *rules.Server
	current *corev1.ConfigMap // as the cache has it; nil if there is none
	bundle  render.Bundle
	extra   map[string]string

	now map[string]string // the content of current; nil: not read yet

	sameMetadata bool // keep the labels and annotations of current
}

// weight returns how much writing the bundle counts: its number of new keys, at least 1.
func (d *draft) weight() int {
	before, _ := verification.ContentsIn(d.current)
	added := 0
	for id, k := range render.ContentsOf(d.bundle, nil).Keys {
		if before.Keys[id].Hash != k.Hash {
			added++
		}
	}
	return min(max(1, added), bundleWriteRate.Burst)
}

// look reads the present content of a bundle, which the cache does not keep.
func (r *Reconciler) look(ctx context.Context, d *draft) error {
	if d.current == nil || d.now != nil {
		return nil
	}
	var live corev1.ConfigMap
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(d.current), &live); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read ConfigMap %q: %w", d.current.Name, err)
	}
	d.now = write.Merged(live.Data, nil)
	return nil
}

// holdsRevoked reports whether the present bundle contains a revoked key.
func (r *Reconciler) holdsRevoked(ctx context.Context, d *draft) (bool, error) {
	p := jwks.MergePolicy{Revoked: d.srv.Spec.JWKS.RevokedKeyIDs}
	if len(p.Revoked) == 0 {
		return false, nil
	}
	err := r.look(ctx, d)
	return slices.ContainsFunc(d.keysNow(), p.Revokes), err
}

// keysNow returns the keys of the present bundle.
func (d *draft) keysNow() []jwks.Key {
	keys, _, err := jwks.Parse([]byte(d.now[render.FileJWKS]))
	if err != nil {
		return nil // there is no bundle, or somebody edited it
	}
	return keys
}

// configMap returns the ConfigMap of a draft, nil if nothing can be rendered.
func (r *Reconciler) configMap(
	ctx context.Context, d *draft, files func(types.NamespacedName, render.Bundle, map[string]string) (map[string]string, error),
) (*corev1.ConfigMap, error) {
	data, err := files(client.ObjectKeyFromObject(d.api), d.bundle, d.extra)
	if err != nil {
		log.FromContext(ctx).V(1).Info("Could not render the verification bundle", "reason", err.Error())
	}
	if data == nil {
		return nil, nil
	}
	if left := (*render.Incomplete)(nil); errors.As(err, &left) {
		if err := r.look(ctx, d); err != nil {
			return nil, err
		}
		d.keepFiles(data, left.Files)
	}
	contents, since, err := r.contents(ctx, d.api, d.srv, d.current, render.ContentsOf(d.bundle, d.extra))
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(contents)
	if err != nil {
		return nil, fmt.Errorf("encode the contents of a bundle: %w", err)
	}
	annotations := map[string]string{
		v1alpha1.APIResourceAnnotation: client.ObjectKeyFromObject(d.api).String(),
		v1alpha1.KeyIDsAnnotation:      strings.Join(render.KeyIDs(d.bundle), ","),
		v1alpha1.ContentsAnnotation:    string(encoded),
	}
	if !since.IsZero() {
		annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(since)
	}
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.request.Namespace, Name: render.ConfigMapName(d.api.Namespace, d.api.Name),
			Labels:      map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
			Annotations: annotations,
		},
		Data: data,
	}
	d.addMetadata(want)
	return want, nil
}

// bundleMetadata holds the keys of the labels and annotations that the spec has set on a
// bundle, so that they can be removed later.
type bundleMetadata struct {
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

func metadataSetOn(bundle *corev1.ConfigMap) (set bundleMetadata) {
	if bundle == nil || json.Unmarshal([]byte(bundle.Annotations[v1alpha1.MetadataAnnotation]), &set) != nil {
		return bundleMetadata{}
	}
	return set
}

// addMetadata adds the spec's labels and annotations to the bundle in the API's own
// namespace. In another namespace, software there could act on them, and the API's owner
// has no say in that.
func (d *draft) addMetadata(want *corev1.ConfigMap) {
	if d.request.Namespace != d.api.Namespace {
		return
	}
	labels, annotations := d.api.Spec.Bundle.Labels, d.api.Spec.Bundle.Annotations
	if d.sameMetadata {
		labels, annotations = map[string]string{}, map[string]string{}
		set := metadataSetOn(d.current)
		for _, k := range set.Labels {
			labels[k] = d.current.Labels[k]
		}
		for _, k := range set.Annotations {
			annotations[k] = d.current.Annotations[k]
		}
	} else if verification.InvalidBundleMetadata(d.api) != nil {
		return // the API server would refuse the whole bundle, keys included
	}
	if len(labels)+len(annotations) == 0 {
		return
	}
	encoded, err := json.Marshal(bundleMetadata{slices.Sorted(maps.Keys(labels)), slices.Sorted(maps.Keys(annotations))})
	if err != nil {
		panic(err) // strings only
	}
	want.Labels = write.Merged(labels, nil, want.Labels)
	want.Annotations = write.Merged(annotations, nil, want.Annotations, map[string]string{v1alpha1.MetadataAnnotation: string(encoded)})
}

// keepFiles keeps the present content of files that cannot be rendered: without its file, a
// gateway may not start or may not check tokens. If a key has left the bundle, the files
// go, because they may contain that key.
func (d *draft) keepFiles(data map[string]string, left []string) {
	stay, _, _ := jwks.Parse([]byte(data[render.FileJWKS]))
	for _, k := range d.keysNow() {
		if !slices.Contains(stay, k) {
			return
		}
	}
	for _, name := range left {
		if content, ok := d.now[name]; ok {
			data[name] = content
		}
	}
}

// changed returns the update that makes current what is wanted, nil if it is so already.
func changed(current, want *corev1.ConfigMap) *corev1.ConfigMap {
	updated := current.DeepCopy()
	updated.Immutable = nil
	former := metadataSetOn(current)
	updated.Labels = write.Merged(current.Labels, former.Labels, want.Labels)
	updated.Annotations = write.Merged(current.Annotations, append(former.Annotations, v1alpha1.MetadataAnnotation), want.Annotations)
	if cached.ContentDigest(current) == cached.ContentDigest(want) && equality.Semantic.DeepEqual(current, updated) {
		return nil
	}
	updated.Data, updated.BinaryData = want.Data, nil
	return updated
}

// SetupWithManager watches the pods and workloads that ask for bundles, the objects that
// bundles are made of, and the bundles themselves.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	from := func(fn func(context.Context, client.Object) []verification.Request) handler.TypedEventHandler[client.Object, verification.Request] {
		return handler.TypedEnqueueRequestsFromMapFunc(fn)
	}
	ofServer := from(func(ctx context.Context, o client.Object) []verification.Request {
		var all []verification.Request
		for _, api := range watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{}, client.MatchingFields{watch.ByServer: rules.ServerKeyOf(o).String()}) {
			all = append(all, r.Bundles(ctx, api.NamespacedName)...)
		}
		return all
	})
	b := builder.TypedControllerManagedBy[verification.Request](mgr).
		Named("verificationbundle").
		Watches(&v1alpha1.APIResource{}, from(func(ctx context.Context, o client.Object) []verification.Request {
			return r.Bundles(ctx, client.ObjectKeyFromObject(o))
		})).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.M2MClient{}, from(func(ctx context.Context, o client.Object) []verification.Request {
			var all []verification.Request
			for _, api := range watch.APIResourcesOf(o) {
				if ref, ok := record.ParseName(api); ok {
					all = append(all, r.Bundles(ctx, ref)...)
				}
			}
			return all
		}), builder.WithPredicates(keyInUseChanged)).
		Watches(&corev1.ConfigMap{}, from(func(_ context.Context, o client.Object) []verification.Request {
			if api, ok := record.ParseName(o.GetAnnotations()[v1alpha1.APIResourceAnnotation]); ok {
				return []verification.Request{{Namespace: o.GetNamespace(), API: api}}
			}
			return nil
		})).
		WatchesRawSource(foreign.Source(r.Foreign, "ConfigMap", from(func(_ context.Context, o client.Object) []verification.Request {
			// Somebody else's ConfigMap with a bundle's name, or a bundle that lost its
			// label. Its deletion makes room.
			if api, ok := verification.APIResourceOf(o.GetName()); ok {
				return []verification.Request{{Namespace: o.GetNamespace(), API: api}}
			}
			return nil
		}))).
		WithOptions(controller.TypedOptions[verification.Request]{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(func(r verification.Request) string { return r.Namespace }, nil)})
	for _, o := range watch.Verifiers() {
		b = b.Watches(o, from(func(_ context.Context, o client.Object) []verification.Request {
			var all []verification.Request
			for _, api := range watch.VerifyRefs(o) {
				all = append(all, verification.Request{Namespace: o.GetNamespace(), API: api})
			}
			return all
		}))
	}
	return b.Complete(watch.Reconciler(r, r.Watched, func(req verification.Request) []string { return []string{req.Namespace, req.API.Namespace} }))
}

// Bundles returns every bundle of an APIResource that should or does exist.
func (r *Reconciler) Bundles(ctx context.Context, api types.NamespacedName) []verification.Request {
	namespaces := sets.New[string]()
	for _, find := range []func(context.Context, client.Reader, types.NamespacedName) (sets.Set[string], error){verification.NamespacesThatVerify, verification.NamespacesWithBundle} {
		found, err := find(ctx, r.Client, api)
		if err != nil {
			log.FromContext(ctx).Error(err, "Failed to list from the cache")
		}
		namespaces = namespaces.Union(found)
	}
	all := make([]verification.Request, 0, len(namespaces))
	for _, ns := range sets.List(namespaces) {
		all = append(all, verification.Request{Namespace: ns, API: api})
	}
	return all
}
