// SPDX-License-Identifier: Apache-2.0

// Package watch decides which objects a change concerns: indexes of the cache,
// mappings, predicates, the shard and the namespaces that an instance serves, and
// the queue in which namespaces take turns. All reconcilers use it in
// SetupWithManager. It only reads from the cache; what happens with an object is
// for its reconciler to decide.
package watch

import (
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// Shard is whose M2MClients an instance of the operator serves: those with this
// value of ShardLabel. The empty one serves those without, and everything that
// is no client.
//
// The label moves a client from one instance to another. What there is to know
// about it is in its status and its Secrets, so the new one goes on as after a
// restart, and the old one forgets it as if it were deleted.
type Shard string

// Serves reports whether a client is this instance's.
func (s Shard) Serves(o client.Object) bool { return o.GetLabels()[v1alpha1.ShardLabel] == string(s) }

// StillServes says by the cache whether a client is this instance's. What is not
// known is nobody's.
func (s Shard) StillServes(ctx context.Context, c client.Reader, name types.NamespacedName) (bool, error) {
	var found v1alpha1.M2MClient
	// A label that changes has its own event: this need not wait for our writes.
	err := c.Get(ctx, name, &found, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return s.Serves(&found), nil
}

// Clients lists the clients that this instance serves and returns a request for
// each.
func (s Shard) Clients(ctx context.Context, c client.Reader, opts ...client.ListOption) []reconcile.Request {
	return s.clientsThat(ctx, c, func(*v1alpha1.M2MClient) bool { return true }, opts...)
}

// ClientsNaming is clients for those to whom a Secret of their namespace matters.
func (s Shard) ClientsNaming(ctx context.Context, c client.Reader, secret types.NamespacedName) []reconcile.Request {
	names := func(c *v1alpha1.M2MClient) bool { return slices.Contains(secretsOf(c), secret.Name) }
	return s.clientsThat(ctx, c, names, client.InNamespace(secret.Namespace), client.MatchingFields{bySecretGroup: secretGroup(secret.Name)})
}

func (s Shard) clientsThat(ctx context.Context, c client.Reader, which func(*v1alpha1.M2MClient) bool, opts ...client.ListOption) []reconcile.Request {
	var list v1alpha1.M2MClientList
	opts = append(opts, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err := c.List(ctx, &list, opts...); err != nil {
		log.FromContext(ctx).Error(err, "Failed to list from the cache")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if s.Serves(&list.Items[i]) && which(&list.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

// Of passes the events of this instance's clients that another predicate passes,
// and the updates by which a client comes or goes.
func (s Shard) Of(pass predicate.Predicate) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return s.Serves(e.Object) && pass.Create(e) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return s.Serves(e.Object) && pass.Delete(e) },
		GenericFunc: func(e event.GenericEvent) bool { return s.Serves(e.Object) && pass.Generic(e) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			was, is := s.Serves(e.ObjectOld), s.Serves(e.ObjectNew)
			return was != is || is && pass.Update(e)
		},
	}
}

// OwnedBy passes what belongs to one of this instance's clients.
func (s Shard) OwnedBy(c client.Reader) predicate.Predicate {
	owns := func(o client.Object) bool {
		owner := metav1.GetControllerOf(o)
		if owner == nil || owner.Kind != "M2MClient" {
			return false
		}
		mine, err := s.StillServes(context.Background(), c, types.NamespacedName{Namespace: o.GetNamespace(), Name: owner.Name})
		return mine || err != nil // what cannot be told now, Reconcile finds out
	}
	pass := predicate.NewPredicateFuncs(owns)
	pass.UpdateFunc = func(e event.UpdateEvent) bool { return owns(e.ObjectNew) || owns(e.ObjectOld) } // an owner may be taken away
	return pass
}

// Departures calls a function for each client that this instance served and does
// not any more: it has another label, or is gone.
func (s Shard) Departures(forget func(client.Object)) handler.EventHandler {
	return handler.Funcs{
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ Queue) {
			if s.Serves(e.ObjectOld) && (!s.Serves(e.ObjectNew) || e.ObjectOld.GetUID() != e.ObjectNew.GetUID()) {
				forget(e.ObjectOld)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ Queue) {
			if s.Serves(e.Object) {
				forget(e.Object)
			}
		},
	}
}
