// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// APIReconciler makes a provisioned server have what an APIResource
// declares. Of the status it writes provisioning only; what that means for the
// conditions APIResourceReconciler says.
type APIReconciler struct {
	Config

	remover *Remover
	Wishes  *wishes
}

// NewAPIReconciler returns a provisioner that was asked for nothing yet.
func NewAPIReconciler(c Config) *APIReconciler {
	w := newWishes(c.Clock)
	return &APIReconciler{Config: c, remover: newRemover(c, w), Wishes: w}
}

// Compare has an API compared with its server, unless that was asked for a moment ago.
func (r *APIReconciler) Compare(o client.Object) { r.Wishes.compare(o) }

// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources,verbs=patch

// Reconcile compares an APIResource with its server where that is due.
func (r *APIReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	ctx = forNamespace(ctx, req.Namespace)
	var api v1alpha1.APIResource
	if err := r.Client.Get(ctx, req.NamespacedName, &api); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var after time.Duration
	var err error
	if api.DeletionTimestamp.IsZero() {
		after, err = r.sync(ctx, &api)
	} else {
		after, err = r.finish(ctx, &api)
	}
	return ctrl.Result{RequeueAfter: after}, client.IgnoreNotFound(err)
}

func (r *APIReconciler) sync(ctx context.Context, api *v1alpha1.APIResource) (time.Duration, error) {
	srv, refused, err := r.Access.Accept(ctx, api)
	if refused != nil || err != nil || rules.Driver(srv.Spec) == "" || !srv.Object.GetDeletionTimestamp().IsZero() {
		return 0, err
	}
	if at := api.Status.Provisioning.Server; at.Name != "" && !record.IsAt(at, srv) {
		if after, err := r.leave(ctx, api); after > 0 || err != nil {
			return after, err
		}
	}
	if err := r.holdWhereNeeded(ctx, api, srv); err != nil {
		return 0, err
	}
	driver, version, unusable, err := r.Servers.Driver(ctx, srv.Object)
	if unusable != nil || err != nil {
		return 0, err // the server's own condition says so, and its change wakes this
	}
	owner, err := r.Servers.owner(ctx, "APIResource", api)
	if err != nil {
		return 0, err
	}
	want := declaredAPI(api, owner, srv)
	plan := planOfAPI(api, want, version, srv)
	plan.Requested = r.Wishes.Wanted(client.ObjectKeyFromObject(api))
	now := r.Clock.Now()
	if wait := plan.Wait(now); wait > 0 {
		return wait, r.observe(ctx, api, plan)
	}
	leave, wait, busy := r.Servers.Enter(srv.Object, api, r.Wishes.wake)
	if busy != nil {
		return wait, nil
	}
	return r.apply(ctx, api, srv, driver, want, plan, now, leave)
}

// apply makes the server have the API, and writes down how it went.
func (r *APIReconciler) apply(ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server, driver provision.Driver, want provision.API, plan provision.Plan, now time.Time, leave func(context.Context, error)) (time.Duration, error) {
	written, st := api.DeepCopy(), &api.Status.Provisioning
	state := record.APIState(st)
	keep := func(ctx context.Context) error {
		st.Server = record.ServerOf(srv)
		record.ShowAPIState(st, state)
		if equality.Semantic.DeepEqual(written.Status, api.Status) {
			return nil
		}
		if err := r.Client.Status().Patch(ctx, api, client.MergeFrom(written)); err != nil {
			return err
		}
		written = api.DeepCopy()
		return nil
	}
	drift, failure := driver.SyncAPI(ctx, want, state, keep)
	leave(ctx, failure)
	if failure != nil && provision.KindOf(failure) == "" {
		return 0, failure
	}
	if len(drift) > 0 && !want.Observe {
		r.Servers.Drifted(srv, len(drift))
		r.Events.Eventf(api, nil, corev1.EventTypeWarning, v1alpha1.ReasonDriftCorrected, "Provision", "Put back at %s %q: %s", srv.Key().Kind, srv.Key().Name, driftText(drift))
	}
	if failure != nil {
		st.Failure = failed(plan, st.Failure, now, failure)
		return max(time.Millisecond, record.Moment(st.Failure.NextAttemptAt).Sub(now)), keep(ctx)
	}
	st.Failure, st.SyncedAt, st.Inputs, st.ObservedGeneration, st.Drift = v1alpha1.TokenFailure{}, record.Time(now), plan.Wants, api.Generation, nil
	if want.Observe {
		for _, d := range drift[:min(len(drift), 32)] {
			st.Drift = append(st.Drift, text.CutRunes(string(d), 512))
		}
	}
	if err := keep(ctx); err != nil {
		return 0, err
	}
	r.Wishes.granted(client.ObjectKeyFromObject(api))
	return resyncInterval(srv.Spec), nil
}

// observe notes that a changed spec says nothing else about the server.
func (r *APIReconciler) observe(ctx context.Context, api *v1alpha1.APIResource, plan provision.Plan) error {
	st := &api.Status.Provisioning
	if !plan.Agrees() || st.ObservedGeneration == api.Generation {
		return nil
	}
	before := api.DeepCopy()
	st.ObservedGeneration = api.Generation
	return r.Client.Status().Patch(ctx, api, client.MergeFrom(before))
}

// declaredAPI returns what an APIResource declares.
func declaredAPI(api *v1alpha1.APIResource, owner provision.Owner, srv *rules.Server) provision.API {
	want := provision.API{
		Owner: owner, Identifier: string(api.Spec.Identifier), TokenLifetime: api.Spec.AccessTokenLifetime.Or(0),
		Observe: api.Spec.ManagementPolicy == v1alpha1.ManagementObserve,
		Adopt:   rules.Adopts(srv.Spec, api),
	}
	for _, s := range api.Spec.Scopes {
		want.Scopes = append(want.Scopes, provision.Scope{Name: string(s.Name), Description: s.Description})
	}
	return want
}

func planOfAPI(api *v1alpha1.APIResource, want provision.API, version string, srv *rules.Server) provision.Plan {
	plan := planOf(&api.Status.Provisioning.ProvisioningRecord, api.UID, srv)
	plan.Wants = provision.Hash(want)
	plan.Tries = provision.Hash(plan.Wants, version)
	return plan
}

// holdWhereNeeded keeps the finalizer where a deleted APIResource takes its API
// along, and only there.
func (r *APIReconciler) holdWhereNeeded(ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server) error {
	if !deletesAPI(api) {
		return write.Release(ctx, r.Client, api)
	}
	if err := write.HoldServer(ctx, r.Client, srv); err != nil {
		return err
	}
	return write.Hold(ctx, r.Client, api)
}

func deletesAPI(api *v1alpha1.APIResource) bool {
	return api.Spec.DeletionPolicy == v1alpha1.DeletionDelete && api.Spec.ManagementPolicy != v1alpha1.ManagementObserve
}

// finish removes what a deleted APIResource has at its server, and lets it go.
func (r *APIReconciler) finish(ctx context.Context, api *v1alpha1.APIResource) (time.Duration, error) {
	r.Wishes.forget(client.ObjectKeyFromObject(api))
	if !controllerutil.ContainsFinalizer(api, v1alpha1.ProvisioningFinalizer) {
		return 0, nil
	}
	if after, err := r.remove(ctx, api); after > 0 || err != nil {
		return after, err
	}
	return 0, write.Release(ctx, r.Client, api)
}

// leave removes the API from a server that the APIResource no longer names.
func (r *APIReconciler) leave(ctx context.Context, api *v1alpha1.APIResource) (time.Duration, error) {
	if after, err := r.remove(ctx, api); after > 0 || err != nil {
		return after, err
	}
	before := api.DeepCopy()
	api.Status.Provisioning = v1alpha1.APIResourceProvisioning{}
	return 0, r.Client.Status().Patch(ctx, api, client.MergeFrom(before))
}

func (r *APIReconciler) remove(ctx context.Context, api *v1alpha1.APIResource) (time.Duration, error) {
	st := api.Status.Provisioning
	if !deletesAPI(api) || st.Server.Name == "" {
		return 0, nil
	}
	owner, err := r.Servers.owner(ctx, "APIResource", api)
	if err != nil {
		return 0, err
	}
	state := record.APIState(&st)
	return r.remover.run(ctx, removal{
		kind: "APIResource", object: api, server: st.Server, what: describe("API", string(api.Spec.Identifier), "with ID", st.ResourceID),
		remove: func(ctx context.Context, d provision.Driver) error {
			nothing := func(context.Context) error { return nil } // a second time finds what the first one left
			return d.RemoveAPI(ctx, provision.API{Owner: owner, Identifier: string(api.Spec.Identifier)}, state, nothing)
		},
	}, r.Clock.Now())
}

// driftText lists drifts in one line.
func driftText(drift []provision.Drift) string { return strings.Join(record.StringsOf(drift), "; ") }

// SetupWithManager watches what decides what a server should have.
func (r *APIReconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	ofServer := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return watch.Requests(ctx, r.Client, &v1alpha1.APIResourceList{}, client.MatchingFields{watch.ByServer: rules.ServerKeyOf(o).String()})
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("apiresource-provisioning").
		For(&v1alpha1.APIResource{}, builder.WithPredicates(predicate.Or(watch.ChangedOrDeleted, watch.AcceptedChanged))).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer, builder.WithPredicates(watch.ProvisioningChanged)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofServer, builder.WithPredicates(watch.ProvisioningChanged)).
		WatchesRawSource(source.Channel(r.Wishes.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
