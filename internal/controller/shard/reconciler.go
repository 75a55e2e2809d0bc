// SPDX-License-Identifier: Apache-2.0

// Package shard does for the M2MClients of shards what only the instance without a
// shard can do: if a client's status says that the client waits for it, the package
// requests a fetch of a server's keys, or a comparison of an API with its server. Package controller sets
// it up. It requests no token and writes no object.
package shard

import (
	"context"
	"fmt"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// Reconciler does for the clients of shards what only the instance without a shard can do.
// It requests a fetch of a server's keys if a token is signed with an unknown key, and a
// comparison of an API with its server if a token is refused. The shard says both in the
// client's status.
type Reconciler struct {
	Shard  watch.Shard
	Client client.Client
	Access rules.Resolver

	Watched watch.Namespaces

	// RequestKeys requests a fetch of a server's keys, and CompareAPI a comparison of an
	// API with its server.
	RequestKeys func(srv *rules.Server, keyID string) bool
	CompareAPI  func(client.Object)
}

// Reconcile requests what a client of another instance waits for.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	var c v1alpha1.M2MClient
	if err := r.Client.Get(ctx, req.NamespacedName, &c); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if r.Shard.Serves(&c) || !c.DeletionTimestamp.IsZero() || !waitsForOthers(&c) {
		return ctrl.Result{}, nil
	}
	found, err := r.Access.Client(ctx, &c)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("resolve the servers of a client: %w", err)
	}
	var again time.Duration
	for _, a := range found.Accesses {
		if a.Server == nil {
			continue
		}
		t := record.TokenStatusOf(&c, a.Key)
		if wantsKeys(&t, a.Server) && (!r.RequestKeys(a.Server, t.Pending.KeyID) || t.Failure.Reason == "") {
			again = servers.KeyRefetchInterval // too soon, or the server may not publish the key yet
		}
		if a.Spec != nil && rules.Registered(&c) && wantsComparison(&t) {
			r.CompareAPI(a.Spec)
		}
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// wantsKeys reports whether a token waits for its key to become known, or does not verify
// with the known keys. Each failed attempt asks again.
func wantsKeys(t *v1alpha1.TokenStatus, srv *rules.Server) bool {
	if slices.Contains(jwks.KeyReasons, t.Failure.Reason) {
		return true
	}
	isKnown := func(k v1alpha1.SigningKey) bool { return k.KeyID == t.Pending.KeyID }
	return t.Pending.KeyID != "" && !slices.ContainsFunc(srv.Status.Keys, isKnown) && !srv.Revoked(t.Pending.KeyID)
}

// wantsComparison reports whether somebody may have changed the API at its server.
func wantsComparison(t *v1alpha1.TokenStatus) bool {
	return t.Failure.Reason == v1alpha1.ReasonTokenRequestRefused || t.Failure.Reason == jwks.ReasonMissingScopes
}

// waitsForOthers reports whether a client may wait for another instance.
func waitsForOthers(c *v1alpha1.M2MClient) bool {
	return slices.ContainsFunc(c.Status.Tokens, func(t v1alpha1.TokenStatus) bool {
		return t.Pending.KeyID != "" || t.Failure.Reason != ""
	})
}

// SetupWithManager watches the statuses of other instances' clients.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	waits := func(o client.Object) bool {
		c := o.(*v1alpha1.M2MClient)
		return !r.Shard.Serves(c) && waitsForOthers(c)
	}
	changed := predicate.Funcs{
		DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			was, is := e.ObjectOld.(*v1alpha1.M2MClient).Status.Tokens, e.ObjectNew.(*v1alpha1.M2MClient).Status.Tokens
			return !slices.EqualFunc(was, is, func(a, b v1alpha1.TokenStatus) bool {
				return a.Pending.KeyID == b.Pending.KeyID && a.Failure.Reason == b.Failure.Reason && a.Failure.Attempts == b.Failure.Attempts
			})
		},
	}
	clients := &counts{n: map[string]int{}}
	metrics.ReadShards(clients.all)
	return ctrl.NewControllerManagedBy(mgr).
		Named("shardedclient").
		For(&v1alpha1.M2MClient{}, builder.WithPredicates(predicate.NewPredicateFuncs(waits), changed)).
		Watches(&v1alpha1.M2MClient{}, clients.follow()).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
