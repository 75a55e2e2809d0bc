// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// countDelay is how long bundles may settle before an APIResource counts them,
// so that a rotation which writes a thousand of them costs a few status writes.
const countDelay = time.Second

// APIResourceReconciler says of each APIResource whether it may describe its
// API and where its verification bundle is. It writes the status only; bundles
// are written by BundleReconciler.
type APIResourceReconciler struct {
	client  client.Client
	access  rules.Resolver
	watched namespaces
	clock   clock.PassiveClock
	foreign *foreignObjects
	events  recorder.EventRecorder

	rendered *renderedBundles // shared with BundleReconciler
	refusals *refusals        // which tells of them
}

// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources/status,verbs=patch
// +kubebuilder:rbac:groups="",roleName=manager-cluster-role,resources=namespaces,verbs=list;watch

// Reconcile judges an APIResource and writes its status.
func (r *APIResourceReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	if !r.watched.watches(req.Namespace) {
		return ctrl.Result{}, nil // a workload of a watched namespace verifies its tokens
	}
	var api v1alpha1.APIResource
	if err := r.client.Get(ctx, req.NamespacedName, &api); err != nil || !api.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := api.DeepCopy()
	if err := r.reconcile(ctx, &api); err != nil {
		return ctrl.Result{}, err
	}
	if equality.Semantic.DeepEqual(before.Status, api.Status) {
		return ctrl.Result{}, nil
	}
	if err := r.client.Status().Patch(ctx, &api, client.MergeFrom(before)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	tellTransitions(r.events, &api, "Reconcile", before.Status.Conditions, api.Status.Conditions)
	return ctrl.Result{}, nil
}

func (r *APIResourceReconciler) reconcile(ctx context.Context, api *v1alpha1.APIResource) error {
	srv, refused, err := r.access.Accept(ctx, api)
	if err != nil {
		return err
	}
	accepted := isTrue(v1alpha1.ConditionAccepted, v1alpha1.ReasonAccepted, "The APIResource describes its API")
	if refused != nil {
		accepted = conditionOf(v1alpha1.ConditionAccepted, refused)
	}
	r.hold(api, srv, refused)
	provisioned := apiProvisioned(api, srv, refused)
	held, needed, err := r.delivery(ctx, client.ObjectKeyFromObject(api))
	if err != nil {
		return err
	}
	distributed, err := r.distribution(ctx, api, srv, refused, needed.Has(api.Namespace), held.Has(api.Namespace))
	if err != nil {
		return err
	}
	ready := isTrue(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "The APIResource is accepted and its verification bundle is where its own workloads need it")
	for _, c := range []condition{distributed, provisioned, accepted} {
		// What is only observed may differ.
		if c.Type != "" && c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.ReasonDrifted {
			ready = c.asReady()
		}
	}
	setOrRemove(&api.Status.Conditions, api.Generation, v1alpha1.ConditionProvisioned, provisioned)
	setConditions(&api.Status.Conditions, api.Generation, accepted, distributed, ready)
	api.Status.ObservedGeneration = api.Generation
	api.Status.Bundle = v1alpha1.VerificationBundle{
		ConfigMapName: v1alpha1.ObjectName(render.ConfigMapName(api.Namespace, api.Name)),
		Namespaces:    ptr.To(numberOf(held)),
		Undelivered:   numberOf(r.undelivered(client.ObjectKeyFromObject(api), held, needed)),
	}
	return nil
}

// undelivered returns the other namespaces that ask for a bundle and do not have it
// as it is now.
func (r *APIResourceReconciler) undelivered(api types.NamespacedName, held, needed sets.Set[string]) sets.Set[string] {
	lacking := needed.Difference(held)
	for namespace := range needed {
		if said, _ := r.refusals.of(bundleRequest{namespace, api}); said != "" {
			lacking.Insert(namespace)
		}
	}
	return lacking.Delete(api.Namespace)
}

// numberOf returns how many namespaces these are.
func numberOf(namespaces sets.Set[string]) int32 {
	return int32(min(len(namespaces), 1<<30))
}

// hold writes down that an APIResource has its identifier, or that it has it no
// more. What is not known for the moment changes nothing.
func (r *APIResourceReconciler) hold(api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem) {
	switch {
	case refused != nil && rules.Decided(refused.Reason):
		api.Status.IdentifierHold = v1alpha1.IdentifierHold{}
	case refused == nil && !rules.Holds(api, srv.Spec.Issuer):
		api.Status.IdentifierHold = v1alpha1.IdentifierHold{Issuer: srv.Spec.Issuer, Since: timeOf(r.clock.Now())}
	}
}

// delivery returns the namespaces that have an API's bundle, and those that need
// it.
func (r *APIResourceReconciler) delivery(ctx context.Context, api types.NamespacedName) (held, needed sets.Set[string], err error) {
	if needed, err = namespacesThatVerify(ctx, r.client, api); err != nil {
		return nil, nil, err
	}
	held, err = namespacesWithBundle(ctx, r.client, api)
	return held, needed, err
}

// distribution reports whether the API's own namespace has the bundle. What is in
// its way elsewhere is told there, and decides nothing about the API: whoever may
// write to another namespace could have it fail.
func (r *APIResourceReconciler) distribution(
	ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem, needed, held bool,
) (condition, error) {
	no := func(reason, message string) (condition, error) {
		return isFalse(v1alpha1.ConditionDistributed, reason, message), nil
	}
	if refused != nil {
		return no(v1alpha1.ReasonNotAccepted, "The APIResource is not accepted")
	}
	if srv.Opaque() {
		message := fmt.Sprintf("There is no verification bundle, for the tokens of %s %q are opaque", srv.Key().Kind, srv.Key().Name)
		if needed && !held {
			return no(v1alpha1.ReasonOpaqueToken, message+"; take the annotation "+v1alpha1.VerifyAnnotation+" off the API's workloads")
		}
		return isTrue(v1alpha1.ConditionDistributed, v1alpha1.ReasonOpaqueToken, message), nil
	}
	if !srv.KeysKnown() {
		return no(v1alpha1.ReasonNoKeys, fmt.Sprintf("No signing key of %s %q is known yet", srv.Key().Kind, srv.Key().Name))
	}
	bundle := bundleOf(api, srv)
	if _, err := r.rendered.files(client.ObjectKeyFromObject(api), bundle, extraFiles(api)); err != nil {
		return no(v1alpha1.ReasonInvalidTemplate, "A part of the verification bundle cannot be rendered: "+err.Error())
	}
	if invalid := invalidBundleMetadata(api); invalid != nil {
		return no(invalid.Reason, invalid.Message)
	}
	name := types.NamespacedName{Namespace: api.Namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}
	if needed {
		said, judged := r.refusals.of(bundleRequest{api.Namespace, client.ObjectKeyFromObject(api)})
		before := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionDistributed)
		switch {
		case said != "":
			return no(v1alpha1.ReasonBundleRefused, fmt.Sprintf("The API server refuses ConfigMap %q in namespace %q: %s", name.Name, name.Namespace, said))
		case !judged && before != nil && before.Reason == v1alpha1.ReasonBundleRefused:
			return no(before.Reason, before.Message) // this process has not offered it yet
		}
	}
	if !needed || held {
		return isDistributed(bundle), nil
	}
	// One that is the operator's has only not reached this cache yet.
	anothers, err := r.foreign.isAnothers(ctx, "ConfigMap", name)
	if err != nil {
		return condition{}, err
	}
	if anothers {
		return no(v1alpha1.ReasonConfigMapNotOwned, fmt.Sprintf(
			"ConfigMap %q exists in namespace %q and is not the operator's; delete or rename it", name.Name, name.Namespace))
	}
	return no(v1alpha1.ReasonDistributing, "The verification bundle is on its way")
}

// isDistributed says that a bundle is in place, and what it does not have.
func isDistributed(b render.Bundle) condition {
	message := "The verification bundle is where the API's own workloads need it"
	if left := b.LeftOut(); len(left) > 0 {
		message += ", without " + strings.Join(left, ", ") + ", which could not check spec.verification.audience"
	}
	return isTrue(v1alpha1.ConditionDistributed, v1alpha1.ReasonDistributed, message)
}

// namespacesThatVerify returns the namespaces with pods or workloads that are
// annotated for an APIResource.
func namespacesThatVerify(ctx context.Context, c client.Reader, api types.NamespacedName) (sets.Set[string], error) {
	namespaces := sets.New[string]()
	for _, list := range verifierLists() {
		err := c.List(ctx, list, client.MatchingFields{byVerify: api.String()},
			client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
		if err != nil {
			return nil, fmt.Errorf("list workloads that verify: %w", err)
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			namespaces.Insert(o.(client.Object).GetNamespace())
			return nil
		})
	}
	return namespaces, nil
}

// namespacesWithBundle returns the namespaces that hold an APIResource's
// bundle.
func namespacesWithBundle(ctx context.Context, c client.Reader, api types.NamespacedName) (sets.Set[string], error) {
	bundles, err := bundlesOf(ctx, c, api)
	if err != nil {
		return nil, err
	}
	namespaces := sets.New[string]()
	for i := range bundles {
		namespaces.Insert(bundles[i].Namespace)
	}
	return namespaces, nil
}

// bundlesOf returns the ConfigMaps of an APIResource's bundle: those of its
// name, for anybody can write label and annotation. They are shared with the
// cache: read only.
func bundlesOf(ctx context.Context, c client.Reader, api types.NamespacedName) ([]corev1.ConfigMap, error) {
	var list corev1.ConfigMapList
	err := c.List(ctx, &list, client.MatchingFields{byAPIResource: api.String()}, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return nil, fmt.Errorf("list the bundles of %q: %w", api, err)
	}
	name := render.ConfigMapName(api.Namespace, api.Name)
	return slices.DeleteFunc(list.Items, func(m corev1.ConfigMap) bool { return m.Name != name }), nil
}

// SetupWithManager watches what decides whether an APIResource is accepted, and
// the bundles that it counts.
func (r *APIResourceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	ofServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return requestsFor(ctx, r.client, &v1alpha1.APIResourceList{}, client.MatchingFields{byServer: rules.ServerKeyOf(o).String()})
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.watched.watches(o.GetName()) {
			return nil
		}
		return requestsFor(ctx, r.client, &v1alpha1.APIResourceList{}, client.InNamespace(o.GetName()))
	})
	// Its claims bind every APIResource at the issuer, whatever server it names.
	ofClusterServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
		return requestsFor(ctx, r.client, &v1alpha1.APIResourceList{})
	})
	// An APIResource that goes, changes its server or is no longer accepted may
	// free its identifier.
	acceptedDiffers := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return isAccepted(e.ObjectOld) != isAccepted(e.ObjectNew) || heldAt(e.ObjectOld) != heldAt(e.ObjectNew)
	}}
	rivals := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return requestsFor(ctx, r.client, &v1alpha1.APIResourceList{},
			client.MatchingFields{byIdentifier: string(o.(*v1alpha1.APIResource).Spec.Identifier)})
	})
	b := ctrl.NewControllerManagedBy(mgr).
		Named("apiresource").
		For(&v1alpha1.APIResource{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, comparedAPI))).
		Watches(&v1alpha1.APIResource{}, rivals, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, acceptedDiffers))).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofClusterServer).
		WatchesMetadata(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&corev1.ConfigMap{}, settled(func(o client.Object) []types.NamespacedName {
			if api, ok := parseName(o.GetAnnotations()[v1alpha1.APIResourceAnnotation]); ok {
				return []types.NamespacedName{api}
			}
			return nil
		})).
		WatchesRawSource(sourceKind(r.foreign, "ConfigMap", settled(func(o client.Object) []types.NamespacedName {
			if api, ok := apiResourceOfConfigMap(o.GetName()); ok {
				return []types.NamespacedName{api}
			}
			return nil
		}))).
		WatchesRawSource(source.Channel(r.refusals.apis, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5, NewQueue: fairly(namespaceOf, nil)})
	for _, o := range verifiers() {
		b = b.Watches(o, settled(verifyRefs))
	}
	return b.Complete(untilStopped(r))
}

func isAccepted(o client.Object) bool {
	return meta.IsStatusConditionTrue(o.(*v1alpha1.APIResource).Status.Conditions, v1alpha1.ConditionAccepted)
}

// heldAt returns the issuer at which an APIResource has its identifier.
func heldAt(o client.Object) string { return o.(*v1alpha1.APIResource).Status.IdentifierHold.Issuer }

// settled enqueues what a function names, a little later, so that many events
// cost one reconcile.
func settled(names func(client.Object) []types.NamespacedName) handler.EventHandler {
	enqueue := func(q queue, os ...client.Object) {
		all := sets.New[types.NamespacedName]()
		for _, o := range os {
			all.Insert(names(o)...)
		}
		for name := range maps.Keys(all) {
			q.AddAfter(reconcile.Request{NamespacedName: name}, countDelay)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueue(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { enqueue(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { enqueue(q, e.Object) },
	}
}

func parseName(s string) (types.NamespacedName, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok
}

func apiResourceOfConfigMap(configMap string) (types.NamespacedName, bool) {
	namespace, name, ok := render.ParseConfigMapName(configMap)
	return types.NamespacedName{Namespace: namespace, Name: name}, ok
}
