// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"context"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// EndpointReconciler discovers a server's endpoints in a shard, if only the server's status
// names them and their address does not make them trustworthy. The instance without a
// shard does everything else for a server.
type EndpointReconciler struct {
	Kind        v1alpha1.AuthorizationServerKind
	client      client.Client
	endpoints   *servers.Endpoints
	connections *servers.Connections
	watched     watch.Namespaces

	mu       sync.Mutex
	failures map[rules.ServerKey]int
}

// NewEndpointReconciler returns a reconciler that has discovered nothing yet.
func NewEndpointReconciler(kind v1alpha1.AuthorizationServerKind, c client.Client, e *servers.Endpoints, to *servers.Connections, watched watch.Namespaces) *EndpointReconciler {
	return &EndpointReconciler{Kind: kind, client: c, endpoints: e, connections: to, watched: watched, failures: map[rules.ServerKey]int{}}
}

// Reconcile discovers a server's endpoints, unless all those in its status are usable.
func (r *EndpointReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	key := rules.ServerKey{Kind: r.Kind, Namespace: req.Namespace, Name: req.Name}
	obj := key.Object()
	if err := r.client.Get(ctx, req.NamespacedName, obj); err != nil {
		r.failed(key, false)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	spec := record.SpecOf(obj)
	before := r.endpoints.Of(obj)
	if before == record.StatusOf(obj).Endpoints {
		return ctrl.Result{}, nil
	}
	hc, _, unusable, err := r.connections.HTTPClient(ctx, obj)
	if unusable != nil || err != nil {
		return ctrl.Result{RequeueAfter: DiscoveryInterval}, err
	}
	metadata, err := jwks.Discover(ctx, hc, spec.Issuer)
	if err != nil {
		return ctrl.Result{RequeueAfter: refresh.RetryBackoff.Next(r.failed(key, true), retryAfter(err), spec.Issuer)}, nil
	}
	r.failed(key, false)
	r.endpoints.Learn(obj, record.EndpointsOf(metadata))
	if r.endpoints.Of(obj) != before {
		r.endpoints.Tell(ctx, obj)
	}
	return ctrl.Result{}, nil
}

// failed counts a failed discovery, or resets the count after a successful one. It returns
// the number of failures in a row.
func (r *EndpointReconciler) failed(key rules.ServerKey, failed bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !failed {
		delete(r.failures, key)
		return 0
	}
	r.failures[key]++
	return r.failures[key]
}

// SetupWithManager watches the servers' specs and endpoints.
func (r *EndpointReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("m2m-endpoints-"+string(r.Kind)).
		For(rules.ServerKey{Kind: r.Kind}.Object(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, r.endpoints.Edited()))).
		WithOptions(controller.Options{MaxConcurrentReconciles: serverWorkers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.watched, watch.In))
}
