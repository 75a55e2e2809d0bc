// SPDX-License-Identifier: Apache-2.0

// Package pod delivers changes and news to pods. It touches pods that must see a
// changed Secret or ConfigMap at once, and tells pods and workloads by events what
// they wait for in vain. Package delivery decides when a touch is needed; package
// controller sets up the reconcilers. The package knows pods by their metadata
// only, and may change one annotation on them and nothing else.
package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// Config holds the dependencies of a Reconciler.
type Config struct {
	Client   client.Client
	Clock    clock.PassiveClock
	Events   recorder.EventRecorder
	Watched  watch.Namespaces
	Foreign  *foreign.Objects
	Refusals *verification.Refusals // of bundles
	Prompt   bool                   // enables touching pods
}

// Reconciler touches the pods that must see a changed Secret or ConfigMap at once, and tells
// pods what they wait for. It reads only their metadata, and changes only one annotation.
// The permission for that is in config/rbac/prompt_delivery.yaml, apart from the generated
// role, so that it can be left out.
type Reconciler struct {
	Config

	Told    toldPods
	touches *touchBudget

	// Refusing reports whether the last touch was refused, so that the log says it once
	// and not for every pod.
	Refusing atomic.Bool
}

// New returns a Reconciler that has touched nothing yet.
func New(c Config) *Reconciler {
	return &Reconciler{Config: c, touches: newTouchBudget()}
}

// Reconcile touches a pod if that is due, and tells it what it waits for.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	pod := cached.Metadata("Pod")
	if err := r.Client.Get(ctx, req.NamespacedName, pod); err != nil || pod.DeletionTimestamp != nil {
		if client.IgnoreNotFound(err) == nil {
			r.Told.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	touch, err := r.touchIfDue(ctx, pod)
	if err != nil {
		return ctrl.Result{}, err
	}
	waits, err := r.waitsOf(ctx, pod)
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: refresh.Soonest(0, touch, r.Told.tell(r.Events, pod, waits, r.Clock.Now()))}, nil
}

// These rates limit the touches of one pod, and of all pods in one namespace. One change of
// a Secret touches every pod that mounts it, and anybody who may edit Secrets can make a
// change look urgent.
var (
	PodTouchRate       = pace.Rate{Every: 5 * time.Second, Burst: 3}
	namespaceTouchRate = pace.Rate{Every: 50 * time.Millisecond, Burst: 200}
)

// touchBudget limits the touches of pods.
type touchBudget struct {
	pods       *pace.Buckets[types.UID]
	namespaces *pace.Buckets[string]
}

// newTouchBudget returns a budget from which nothing was taken yet.
func newTouchBudget() *touchBudget {
	return &touchBudget{pods: pace.New[types.UID](PodTouchRate), namespaces: pace.New[string](namespaceTouchRate)}
}

// take returns 0 if a pod may be touched now, or how long to wait. If the namespace has used
// up its budget, its pods come back at different times.
func (b *touchBudget) take(pod client.Object, now time.Time) time.Duration {
	if wait := b.pods.Wait(pod.GetUID(), 1, now); wait > 0 {
		return wait
	}
	if wait := b.namespaces.Take(pod.GetNamespace(), 1, now); wait > 0 {
		spread := fnv.New32a()
		_, _ = spread.Write([]byte(pod.GetUID())) // a hash never fails
		return wait + time.Duration(spread.Sum32()%5000)*time.Millisecond
	}
	return b.pods.Take(pod.GetUID(), 1, now)
}

// touchIfDue touches a pod if it mounts an object whose present content it must see at once
// and may not have seen. If the touch has to wait, touchIfDue returns for how long.
func (r *Reconciler) touchIfDue(ctx context.Context, pod *metav1.PartialObjectMetadata) (time.Duration, error) {
	if !r.Prompt {
		return 0, nil
	}
	now, moment := r.Clock.Now(), time.Time{}
	for _, m := range watch.MountsOf(pod) {
		since, err := r.promptSince(ctx, pod.Namespace, m)
		if err != nil {
			return 0, err
		}
		if watch.PodOf(pod, r.Prompt).MustTouch(since, now) && since.After(moment) {
			moment = since
		}
	}
	if moment.IsZero() {
		return 0, nil
	}
	if now.After(moment) {
		moment = now
	}
	if wait := r.touches.take(pod, now); wait > 0 {
		return wait, nil
	}
	return 0, r.Touch(ctx, client.ObjectKeyFromObject(pod), moment)
}

// promptSince returns since when pods must see the present content of an object. It returns
// the zero time if they need not, or if the object is not the operator's.
func (r *Reconciler) promptSince(ctx context.Context, namespace string, m watch.Mount) (time.Time, error) {
	o := m.Object()
	// The event of a change comes through the same cache, so the read need not wait.
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: m.Name}, o,
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return time.Time{}, client.IgnoreNotFound(err)
	}
	// A touch is precise to the millisecond. A forged moment that is finer would never
	// count as touched.
	return watch.MomentIn(o, v1alpha1.PromptSinceAnnotation).Truncate(time.Millisecond), nil
}

// Touch changes an annotation of a pod, which makes the kubelet update its volumes.
func (r *Reconciler) Touch(ctx context.Context, name types.NamespacedName, moment time.Time) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{v1alpha1.TouchedAtAnnotation: delivery.Moment(moment)},
	}})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	touched := cached.Metadata("Pod")
	touched.Namespace, touched.Name = name.Namespace, name.Name
	err = r.Client.Patch(ctx, touched, client.RawPatch(types.MergePatchType, patch))
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case write.Refused(err):
		// Another attempt would be refused too. The kubelet shows the change later, at
		// its own pace.
		metrics.PodTouches.WithLabelValues("refused").Inc()
		if !r.Refusing.Swap(true) {
			log.FromContext(ctx).Error(err, "Failed to touch a pod; pods see changes when their kubelets look again")
		}
		return nil
	case err != nil:
		metrics.PodTouches.WithLabelValues("failed").Inc()
		return fmt.Errorf("touch pod %q: %w", name, err)
	}
	r.Refusing.Store(false)
	metrics.PodTouches.WithLabelValues("success").Inc()
	log.FromContext(ctx).V(1).Info("Touched a pod")
	return nil
}

// SetupWithManager watches pods with our annotations, the objects that they mount, and the
// objects that those are made from.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	podsWith := func(field string, value func(client.Object) string, namespace func(client.Object) string) handler.EventHandler {
		return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			if in := namespace(o); in != metav1.NamespaceAll && !r.Watched.Watches(in) {
				return nil // in the operator's own namespace
			}
			pods := &metav1.PartialObjectMetadataList{}
			pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
			return watch.Requests(ctx, r.Client, pods, client.InNamespace(namespace(o)), client.MatchingFields{field: value(o)})
		})
	}
	same, anywhere := client.Object.GetNamespace, func(client.Object) string { return metav1.NamespaceAll }
	mounting := func(kind string) handler.EventHandler {
		return podsWith(watch.ByMounts, func(o client.Object) string { return watch.Mount{Kind: kind, Name: o.GetName()}.String() }, same)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("pod").
		For(cached.Metadata("Pod"), builder.WithPredicates(podChanged)).
		Watches(&corev1.Secret{}, mounting(watch.MountedSecret), builder.WithPredicates(promptChanged)).
		Watches(&corev1.ConfigMap{}, mounting(watch.MountedConfigMap), builder.WithPredicates(promptChanged)).
		Watches(&corev1.ConfigMap{}, podsWith(watch.ByVerify, bundleOf, same), builder.WithPredicates(comesOrGoes)).
		Watches(&v1alpha1.M2MClient{}, podsWith(watch.ByClient, client.Object.GetName, same), builder.WithPredicates(readinessChanged)).
		Watches(&v1alpha1.APIResource{},
			podsWith(watch.ByVerify, func(o client.Object) string { return client.ObjectKeyFromObject(o).String() }, anywhere),
			builder.WithPredicates(readinessChanged)).
		WatchesRawSource(source.Channel(r.Refusals.Pods, podsWith(watch.ByVerify, func(o client.Object) string {
			return o.GetAnnotations()[v1alpha1.APIResourceAnnotation]
		}, same))).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}

// bundleOf returns the APIResource whose verification bundle a ConfigMap is. A pod that was
// not injected mounts the bundle in its own way, and no annotation says so.
func bundleOf(o client.Object) string {
	api, _ := verification.APIResourceOf(o.GetName())
	return api.String()
}

// comesOrGoes passes bundles that are created or deleted. One is deleted after its
// APIResource, so the event of the APIResource is too early to tell pods of it.
var comesOrGoes = predicate.And(
	predicate.NewPredicateFuncs(func(o client.Object) bool {
		_, is := verification.APIResourceOf(o.GetName())
		return is
	}),
	predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }},
)

// podChanged passes pods with our annotations when these change. It drops the status updates
// of kubelets.
var podChanged = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return len(e.Object.GetAnnotations()) > 0 },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return !maps.Equal(e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations()) ||
			(e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
	},
	DeleteFunc: func(e event.DeleteEvent) bool { return len(e.Object.GetAnnotations()) > 0 },
}

// promptChanged passes a Secret or ConfigMap that is created, deleted, or must be seen at
// once. It drops routine refreshes.
var promptChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	const prompt = v1alpha1.PromptSinceAnnotation
	return e.ObjectOld.GetAnnotations()[prompt] != e.ObjectNew.GetAnnotations()[prompt]
}}
