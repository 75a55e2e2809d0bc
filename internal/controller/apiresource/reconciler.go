// SPDX-License-Identifier: Apache-2.0

// Package apiresource judges each APIResource and writes its status: whether it may
// describe its API (Accepted), whether its authorization server has the API as
// declared (Provisioned), and whether the API's own namespace has the verification
// bundle (Distributed). Package controller sets it up. It writes nothing but that
// status: package bundle writes the ConfigMaps, and package provisioning speaks to
// the servers.
package apiresource

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/lasting"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// countDelay is how long bundles may settle before an APIResource counts them,
// so that a rotation which writes a thousand of them costs a few status writes.
const countDelay = time.Second

// Reconciler reports on each APIResource whether it may describe its API and where its
// verification bundle is. It writes only the status; bundle.Reconciler writes the bundles.
type Reconciler struct {
	Client  client.Client
	Access  rules.Resolver
	Watched watch.Namespaces
	Clock   clock.PassiveClock
	Foreign *foreign.Objects
	Events  recorder.EventRecorder

	Failures *lasting.Failures
	Rendered *verification.Rendered // shared with bundle.Reconciler
	Refusals *verification.Refusals // written by bundle.Reconciler

	// Enforced judges whether gateways check tokens as the spec says, and returns when to
	// look again.
	Enforced        func(context.Context, *v1alpha1.APIResource) (conditions.Condition, time.Duration, error)
	Policies        source.Source             // APIResources of which a gateway's policy has changed
	PoliciesRefused <-chan event.GenericEvent // APIResources of which a policy was refused, or is taken again
}

// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources/status,verbs=patch
// +kubebuilder:rbac:groups="",roleName=manager-cluster-role,resources=namespaces,verbs=list;watch

// Reconcile judges an APIResource and writes its status.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	var api v1alpha1.APIResource
	if err := r.Client.Get(ctx, req.NamespacedName, &api); err != nil || !api.DeletionTimestamp.IsZero() {
		if client.IgnoreNotFound(err) == nil {
			metrics.ForgetAPI(req.NamespacedName)
			r.Failures.Forget(&v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: req.Namespace, Name: req.Name}})
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := api.DeepCopy()
	look, err := r.reconcile(ctx, &api)
	if err != nil {
		return ctrl.Result{}, err
	}
	metrics.ObserveAPI(&api)
	if !equality.Semantic.DeepEqual(before.Status, api.Status) {
		if err := r.Client.Status().Patch(ctx, &api, client.MergeFrom(before)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		conditions.RecordTransitions(r.Events, &api, "Reconcile", before.Status.Conditions, api.Status.Conditions)
	}
	again := r.Failures.Look(ctx, r.Events, &api, before.Status.Conditions, api.Status.Conditions, v1alpha1.ConditionProvisioned, v1alpha1.ConditionDistributed, v1alpha1.ConditionEnforced)
	return ctrl.Result{RequeueAfter: refresh.Soonest(0, look, again)}, nil
}

func (r *Reconciler) reconcile(ctx context.Context, api *v1alpha1.APIResource) (time.Duration, error) {
	srv, refused, err := r.Access.Accept(ctx, api)
	if err != nil {
		return 0, err
	}
	accepted := conditions.True(v1alpha1.ConditionAccepted, v1alpha1.ReasonAccepted, "The APIResource describes its API")
	if refused != nil {
		accepted = conditions.Of(v1alpha1.ConditionAccepted, refused)
	}
	r.hold(api, srv, refused)
	provisioned := apiProvisioned(api, srv, refused)
	held, needed, err := r.delivery(ctx, client.ObjectKeyFromObject(api))
	if err != nil {
		return 0, err
	}
	distributed, err := r.distribution(ctx, api, srv, refused, needed.Has(api.Namespace), held.Has(api.Namespace))
	if err != nil {
		return 0, err
	}
	conditions.SetOrRemove(&api.Status.Conditions, api.Generation, v1alpha1.ConditionProvisioned, provisioned)
	// Enforced depends on what the status says now of Accepted.
	conditions.Set(&api.Status.Conditions, api.Generation, accepted)
	enforced, again, err := r.Enforced(ctx, api)
	if err != nil {
		return 0, err
	}
	ready := conditions.True(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "The APIResource is accepted, and its own workloads have the verification bundle that they need")
	for _, c := range []conditions.Condition{enforced, distributed, provisioned, accepted} {
		// An API that is only observed may differ from its server.
		if c.Type != "" && c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.ReasonDrifted {
			ready = c.AsReady()
		}
	}
	conditions.SetOrRemove(&api.Status.Conditions, api.Generation, v1alpha1.ConditionEnforced, enforced)
	conditions.Set(&api.Status.Conditions, api.Generation, distributed, ready)
	api.Status.ObservedGeneration = api.Generation
	api.Status.Bundle = v1alpha1.VerificationBundle{
		ConfigMapName: v1alpha1.ObjectName(render.ConfigMapName(api.Namespace, api.Name)),
		Namespaces:    ptr.To(numberOf(held)),
		Undelivered:   numberOf(r.undelivered(client.ObjectKeyFromObject(api), held, needed)),
	}
	return again, nil
}

// undelivered returns the other namespaces that need the bundle and do not have it in
// its present form.
func (r *Reconciler) undelivered(api types.NamespacedName, held, needed sets.Set[string]) sets.Set[string] {
	lacking := needed.Difference(held)
	for namespace := range needed {
		if said, _ := r.Refusals.Of(verification.Request{Namespace: namespace, API: api}); said != "" {
			lacking.Insert(namespace)
		}
	}
	return lacking.Delete(api.Namespace)
}

// numberOf counts namespaces.
func numberOf(namespaces sets.Set[string]) int32 {
	return int32(min(len(namespaces), 1<<30))
}

// hold records in the status that an APIResource has its identifier, or has lost it. A
// problem that may be temporary changes nothing.
func (r *Reconciler) hold(api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem) {
	switch {
	case refused != nil && rules.Decided(refused.Reason):
		api.Status.IdentifierHold = v1alpha1.IdentifierHold{}
	case refused == nil && !rules.Holds(api, srv.Spec.Issuer):
		api.Status.IdentifierHold = v1alpha1.IdentifierHold{Issuer: srv.Spec.Issuer, Since: record.Time(r.Clock.Now())}
	}
}

// delivery returns the namespaces that have an API's bundle, and those that need it.
func (r *Reconciler) delivery(ctx context.Context, api types.NamespacedName) (held, needed sets.Set[string], err error) {
	if needed, err = verification.NamespacesThatVerify(ctx, r.Client, api); err != nil {
		return nil, nil, err
	}
	held, err = verification.NamespacesWithBundle(ctx, r.Client, api)
	return held, needed, err
}

// distribution reports whether the API's own namespace has the bundle. Obstacles in other
// namespaces are reported there and do not count here: otherwise anyone who can write to
// another namespace could make the API fail.
func (r *Reconciler) distribution(
	ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem, needed, held bool,
) (conditions.Condition, error) {
	no := func(reason, message string) (conditions.Condition, error) {
		return conditions.False(v1alpha1.ConditionDistributed, reason, message), nil
	}
	if refused != nil {
		return no(v1alpha1.ReasonNotAccepted, "The APIResource is not accepted")
	}
	if srv.Opaque() {
		message := fmt.Sprintf("The tokens of %s %q are opaque, so there is no verification bundle", srv.Key().Kind, srv.Key().Name)
		if needed && !held {
			return no(v1alpha1.ReasonOpaqueToken, message+"; remove the annotation "+v1alpha1.VerifyAnnotation+" from the API's workloads")
		}
		return conditions.True(v1alpha1.ConditionDistributed, v1alpha1.ReasonOpaqueToken, message), nil
	}
	if !srv.KeysKnown() {
		return no(v1alpha1.ReasonNoKeys, fmt.Sprintf("No signing key of %s %q is known yet", srv.Key().Kind, srv.Key().Name))
	}
	bundle := verification.BundleOf(api, srv)
	if _, err := r.Rendered.Files(client.ObjectKeyFromObject(api), bundle, verification.ExtraFiles(api)); err != nil {
		return no(v1alpha1.ReasonInvalidTemplate, "A part of the verification bundle cannot be rendered: "+err.Error())
	}
	if invalid := verification.InvalidBundleMetadata(api); invalid != nil {
		return no(invalid.Reason, invalid.Message)
	}
	name := types.NamespacedName{Namespace: api.Namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}
	if needed {
		said, judged := r.Refusals.Of(verification.Request{Namespace: api.Namespace, API: client.ObjectKeyFromObject(api)})
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
	// The operator's own ConfigMap may exist without having reached this cache yet.
	anothers, err := r.Foreign.ExistsForeign(ctx, "ConfigMap", name)
	if err != nil {
		return conditions.Condition{}, err
	}
	if anothers {
		return no(v1alpha1.ReasonConfigMapNotOwned, fmt.Sprintf(
			"ConfigMap %q exists in namespace %q and is not the operator's; delete or rename it", name.Name, name.Namespace))
	}
	return no(v1alpha1.ReasonDistributing, "The verification bundle is being written")
}

// isDistributed returns the condition of a bundle that is in place, and names what it
// lacks.
func isDistributed(b render.Bundle) conditions.Condition {
	message := "The API's own workloads have the verification bundle that they need"
	if left := b.LeftOut(); len(left) > 0 {
		message += ", without " + strings.Join(left, ", ") + ", which cannot express spec.verification.audience"
	}
	if closed := b.Closed(); len(closed) > 0 {
		message += "; for the same reason " + strings.Join(closed, " and ") + " refuse every request"
	}
	return conditions.True(v1alpha1.ConditionDistributed, v1alpha1.ReasonDistributed, message)
}

// SetupWithManager watches what decides whether an APIResource is accepted, and the
// bundles that the status counts.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	ofServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{}, client.MatchingFields{watch.ByServer: rules.ServerKeyOf(o).String()})
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.Watched.Watches(o.GetName()) {
			return nil
		}
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{}, client.InNamespace(o.GetName()))
	})
	// A cluster server's claims bind every APIResource at its issuer, whatever server that
	// APIResource names.
	ofClusterServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{})
	})
	// An APIResource that is deleted, changes its server or is no longer accepted may free
	// its identifier.
	acceptedDiffers := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return watch.IsAccepted(e.ObjectOld) != watch.IsAccepted(e.ObjectNew) || heldAt(e.ObjectOld) != heldAt(e.ObjectNew)
	}}
	rivals := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{},
			client.MatchingFields{watch.ByIdentifier: string(o.(*v1alpha1.APIResource).Spec.Identifier)})
	})
	b := ctrl.NewControllerManagedBy(mgr).
		Named("apiresource").
		For(&v1alpha1.APIResource{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, watch.ComparedAPI))).
		Watches(&v1alpha1.APIResource{}, rivals, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, acceptedDiffers))).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofClusterServer, builder.WithPredicates(watch.NotJustAsked)).
		WatchesMetadata(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&corev1.ConfigMap{}, settled(func(o client.Object) []types.NamespacedName {
			if api, ok := record.ParseName(o.GetAnnotations()[v1alpha1.APIResourceAnnotation]); ok {
				return []types.NamespacedName{api}
			}
			// Enforced depends on what a gateway reads: the keys are written after the server has changed.
			if api, ok := verification.APIResourceOfKeys(o); ok {
				return []types.NamespacedName{api}
			}
			return nil
		})).
		WatchesRawSource(foreign.Source(r.Foreign, "ConfigMap", settled(func(o client.Object) []types.NamespacedName {
			if api, ok := verification.APIResourceOf(o.GetName()); ok {
				return []types.NamespacedName{api}
			}
			return nil
		}))).
		WatchesRawSource(source.Channel(r.Refusals.Apis, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.PoliciesRefused, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(r.Policies).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5, NewQueue: watch.Fairly(watch.NamespaceOf, nil)})
	for _, o := range watch.Verifiers() {
		b = b.Watches(o, settled(watch.VerifyRefs))
	}
	return b.Complete(watch.Reconciler(r, r.Watched, watch.In))
}

// heldAt returns the issuer at which an APIResource holds its identifier.
func heldAt(o client.Object) string { return o.(*v1alpha1.APIResource).Status.IdentifierHold.Issuer }

// settled enqueues the APIResources that a function names after a short delay, so that
// many events cost one reconcile.
func settled(names func(client.Object) []types.NamespacedName) handler.EventHandler {
	enqueue := func(q watch.Queue, os ...client.Object) {
		all := sets.New[types.NamespacedName]()
		for _, o := range os {
			all.Insert(names(o)...)
		}
		for name := range maps.Keys(all) {
			q.AddAfter(reconcile.Request{NamespacedName: name}, countDelay)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q watch.Queue) { enqueue(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q watch.Queue) { enqueue(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q watch.Queue) { enqueue(q, e.Object) },
	}
}
