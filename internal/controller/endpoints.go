// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"net/url"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// endpoints returns the endpoints of a server that credentials may be sent to and
// keys fetched from. The status alone is not believed: others may be able to write it,
// and an endpoint of theirs would be sent every client's secret.
func (s *servers) endpoints(obj client.Object) v1alpha1.AuthorizationServerEndpoints {
	rt := s.runtime(obj)
	rt.mu.Lock()
	found := rt.fetchState.endpoints
	rt.mu.Unlock()
	return usableEndpoints(specOf(obj), found, statusOf(obj).Endpoints)
}

// usableEndpoints chooses for each endpoint what the spec names, else what this process
// discovered itself, else what the status tells if that is where the issuer is: so a
// restart costs nothing while the server's metadata cannot be read.
func usableEndpoints(spec *v1alpha1.AuthorizationServerSpec, found, told v1alpha1.AuthorizationServerEndpoints) v1alpha1.AuthorizationServerEndpoints {
	told.Token, told.JWKS, told.Registration = nearby(spec.Issuer, told.Token), nearby(spec.Issuer, told.JWKS), nearby(spec.Issuer, told.Registration)
	return firstEndpoints(spec.Endpoints, found, told)
}

// firstEndpoints takes each endpoint from the first that has it.
func firstEndpoints(from ...v1alpha1.AuthorizationServerEndpoints) (all v1alpha1.AuthorizationServerEndpoints) {
	for _, e := range from {
		all.Token, all.JWKS, all.Registration = cmp.Or(all.Token, e.Token), cmp.Or(all.JWKS, e.JWKS), cmp.Or(all.Registration, e.Registration)
	}
	return all
}

// nearby returns an endpoint that has the issuer's scheme, host and port, "" for any other.
func nearby(issuer string, endpoint v1alpha1.EndpointURL) v1alpha1.EndpointURL {
	a, errA := url.Parse(issuer)
	b, errB := url.Parse(string(endpoint))
	if errA != nil || errB != nil || a.Scheme != b.Scheme || a.Host != b.Host {
		return ""
	}
	return endpoint
}

// trustedStatus returns a server's status with the endpoints that may be used. Of the
// JWKS a bundle tells where it is; that is not fetched, and stays as it was until it
// is discovered.
func (s *servers) trustedStatus(obj client.Object) *v1alpha1.AuthorizationServerStatus {
	status, usable := *statusOf(obj), s.endpoints(obj)
	usable.JWKS = cmp.Or(usable.JWKS, status.Endpoints.JWKS)
	status.Endpoints = usable
	return &status
}

// endpointsEdited passes the updates that leave other endpoints in a server's status
// than the spec and this process' own discovery say.
func (s *servers) endpointsEdited() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return statusOf(e.ObjectOld).Endpoints != statusOf(e.ObjectNew).Endpoints && statusOf(e.ObjectNew).Endpoints != s.endpoints(e.ObjectNew)
		},
	}
}

// learnt are channels of servers whose endpoints became usable, or other ones, without
// their object telling so: one for each controller that sends something to them.
type learnt struct{ clients, provisioning chan event.GenericEvent }

func newLearnt() learnt {
	return learnt{make(chan event.GenericEvent, 1024), make(chan event.GenericEvent, 1024)}
}

func (l learnt) tell(ctx context.Context, obj client.Object) {
	for _, c := range []chan event.GenericEvent{l.clients, l.provisioning} {
		select {
		case c <- event.GenericEvent{Object: obj}:
		case <-ctx.Done():
		}
	}
}

// EndpointReconciler discovers in a shard the endpoints that only a server's status
// tells and that cannot be believed by their address. What else there is to do for a
// server the instance without a shard does.
type EndpointReconciler struct {
	kind    v1alpha1.AuthorizationServerKind
	client  client.Client
	servers *servers

	mu       sync.Mutex
	failures map[serverKey]int
}

// Reconcile discovers a server's endpoints unless the usable ones are those of its status.
func (r *EndpointReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	key := serverKey{r.kind, req.Namespace, req.Name}
	obj := key.object()
	if err := r.client.Get(ctx, req.NamespacedName, obj); err != nil {
		r.failed(key, false)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	spec := specOf(obj)
	before := r.servers.endpoints(obj)
	if before == statusOf(obj).Endpoints {
		return ctrl.Result{}, nil
	}
	hc, _, unusable, err := r.servers.httpClient(ctx, obj)
	if unusable != nil || err != nil {
		return ctrl.Result{RequeueAfter: discoveryInterval}, err
	}
	metadata, err := jwks.Discover(ctx, hc, spec.Issuer)
	if err != nil {
		return ctrl.Result{RequeueAfter: refresh.RetryBackoff.Next(r.failed(key, true), retryAfter(err), spec.Issuer)}, nil
	}
	r.failed(key, false)
	rt := r.servers.runtime(obj)
	rt.mu.Lock()
	rt.fetchState.endpoints = firstEndpoints(endpointsOf(metadata), rt.fetchState.endpoints)
	rt.mu.Unlock()
	if r.servers.endpoints(obj) != before {
		r.servers.learnt.tell(ctx, obj)
	}
	return ctrl.Result{}, nil
}

// failed counts a failed discovery, or forgets those before, and returns how many there
// were in a row.
func (r *EndpointReconciler) failed(key serverKey, failed bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !failed {
		delete(r.failures, key)
		return 0
	}
	r.failures[key]++
	return r.failures[key]
}

func endpointsOf(m *jwks.Metadata) v1alpha1.AuthorizationServerEndpoints {
	return v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(m.TokenEndpoint), JWKS: v1alpha1.EndpointURL(m.JWKSURI), Registration: v1alpha1.EndpointURL(m.RegistrationEndpoint),
	}
}

// SetupWithManager watches the servers' specs and endpoints.
func (r *EndpointReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("m2m-endpoints-"+string(r.kind)).
		For(serverKey{kind: r.kind}.object(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, r.servers.endpointsEdited()))).
		WithOptions(controller.Options{MaxConcurrentReconciles: serverWorkers, NewQueue: fairly(namespaceOf, nil)}).
		Complete(untilStopped(r))
}
