// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
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
	loop
}

// NewAPIReconciler returns a provisioner that was asked for nothing yet.
func NewAPIReconciler(c Config) *APIReconciler {
	return &APIReconciler{newLoop(c, "APIResource")}
}

// +kubebuilder:rbac:groups=m2m-operator.io,resources=apiresources,verbs=patch

// Reconcile compares an APIResource with its server where that is due.
func (r *APIReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	ctx = forNamespace(ctx, req.Namespace)
	var api v1alpha1.APIResource
	err := r.Client.Get(ctx, req.NamespacedName, &api)
	if apierrors.IsNotFound(err) {
		r.forget(req.NamespacedName) // without the finalizer, this is all that is seen of a deletion
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	wanted := api.DeletionTimestamp.IsZero()
	if wanted && !deletesAPI(&api) { // whatever its server is now
		if err := write.Release(ctx, r.Client, &api); err != nil {
			return ctrl.Result{}, err
		}
	}
	return r.pass(ctx, &apiSubject{r: r, api: &api}, wanted)
}

// apiSubject is an APIResource in one pass.
type apiSubject struct {
	r     *APIReconciler
	api   *v1alpha1.APIResource
	want  provision.API
	state *provision.APIState
}

func (s *apiSubject) object() client.Object { return s.api }

func (s *apiSubject) record() *v1alpha1.ProvisioningRecord {
	return &s.api.Status.Provisioning.ProvisioningRecord
}

func (s *apiSubject) find(ctx context.Context) (srv *rules.Server, at v1alpha1.ProvisioningServer, after time.Duration, err error) {
	srv, refused, err := s.r.Access.Accept(ctx, s.api)
	if refused != nil || err != nil {
		return nil, at, 0, err
	}
	return srv, s.record().Server, 0, nil
}

// hold adds the finalizer where a deleted APIResource takes its API along. Reconcile removes it elsewhere.
func (s *apiSubject) hold(ctx context.Context, srv *rules.Server) error {
	if !deletesAPI(s.api) {
		return nil
	}
	if err := write.HoldServer(ctx, s.r.Client, srv); err != nil {
		return err
	}
	return write.Hold(ctx, s.r.Client, s.api)
}

func deletesAPI(api *v1alpha1.APIResource) bool {
	return api.Spec.DeletionPolicy == v1alpha1.DeletionDelete && api.Spec.ManagementPolicy != v1alpha1.ManagementObserve
}

func (s *apiSubject) declare(ctx context.Context, srv *rules.Server) (bool, error) {
	owner, err := s.r.Servers.owner(ctx, s.r.kind, s.api)
	if err != nil {
		return false, err
	}
	s.want = provision.API{
		Owner: owner, Identifier: string(s.api.Spec.Identifier), TokenLifetime: s.api.Spec.AccessTokenLifetime.Or(0),
		Observe: s.api.Spec.ManagementPolicy == v1alpha1.ManagementObserve,
		Adopt:   rules.Adopts(srv.Spec, s.api),
	}
	for _, scope := range s.api.Spec.Scopes {
		s.want.Scopes = append(s.want.Scopes, provision.Scope{Name: string(scope.Name), Description: scope.Description})
	}
	s.state = record.APIState(&s.api.Status.Provisioning)
	return true, nil
}

func (s *apiSubject) plan(p *provision.Plan) { p.Wants = provision.Hash(s.want) }

// drive puts nothing back where it may only observe: there the status lists what differs.
// isCurrent returns true: all that is known of an API is in its status.
func (s *apiSubject) isCurrent(context.Context) (bool, error) { return true, nil }

func (s *apiSubject) drive(ctx context.Context, d provision.Driver, keep provision.Keep, _ time.Time) ([]provision.Drift, error) {
	drift, err := d.SyncAPI(ctx, s.want, s.state, keep)
	if err == nil {
		s.api.Status.Provisioning.Drift = nil
	}
	if !s.want.Observe {
		return drift, err
	}
	if err == nil {
		for _, d := range drift[:min(len(drift), 32)] {
			s.api.Status.Provisioning.Drift = append(s.api.Status.Provisioning.Drift, text.CutRunes(string(d), 512))
		}
	}
	return nil, err
}

func (s *apiSubject) keep(context.Context) error {
	record.ShowAPIState(&s.api.Status.Provisioning, s.state)
	return nil
}

// done lets an API rest for the whole interval after a comparison. Plan.Wait, which is
// up to a tenth shorter, spreads the comparisons after a restart.
func (s *apiSubject) done(next provision.Plan, now time.Time) time.Duration {
	if next.Agrees() {
		return next.Interval
	}
	return next.Wait(now)
}

func (s *apiSubject) remove(ctx context.Context) (time.Duration, error) {
	st := s.api.Status.Provisioning
	if !deletesAPI(s.api) || st.Server.Name == "" {
		return 0, nil
	}
	state := record.APIState(&st)
	return s.r.removeAs(ctx, s.api, removal{
		server: st.Server, what: describe("API", string(s.api.Spec.Identifier), "with ID", st.ResourceID),
		remove: func(ctx context.Context, d provision.Driver, owner provision.Owner) error {
			return d.RemoveAPI(ctx, provision.API{Owner: owner, Identifier: string(s.api.Spec.Identifier)}, state, keepNothing)
		},
	})
}

func (s *apiSubject) reset() { s.api.Status.Provisioning = v1alpha1.APIResourceProvisioning{} }

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
