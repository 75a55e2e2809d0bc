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

// Shard selects the M2MClients that an instance of the operator serves: those whose
// ShardLabel has this value. The instance with the empty shard serves the clients without
// the label, and all objects that are not clients.
//
// A change of the label moves a client from one instance to another. The client's status
// and Secrets hold all its state. So the new instance goes on as after a restart, and the
// old one forgets the client as if it were deleted.
type Shard string

// Serves reports whether this instance serves a client.
func (s Shard) Serves(o client.Object) bool { return o.GetLabels()[v1alpha1.ShardLabel] == string(s) }

// StillServes reports whether, according to the cache, this instance serves a client. It is
// false for a client that the cache does not have.
func (s Shard) StillServes(ctx context.Context, c client.Reader, name types.NamespacedName) (bool, error) {
	var found v1alpha1.M2MClient
	// A changed label has its own event, so this need not wait for our own writes.
	err := c.Get(ctx, name, &found, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return s.Serves(&found), nil
}

// Clients lists the clients that this instance serves and returns a request for each.
func (s Shard) Clients(ctx context.Context, c client.Reader, opts ...client.ListOption) []reconcile.Request {
	return s.clientsThat(ctx, c, func(*v1alpha1.M2MClient) bool { return true }, opts...)
}

// ClientsNaming is Clients for those that read or write a Secret in their namespace.
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

// Of passes the events of this instance's clients that another predicate passes, and updates
// by which a client moves to or from this instance.
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

// OwnedBy passes objects whose controller is one of this instance's clients.
func (s Shard) OwnedBy(c client.Reader) predicate.Predicate {
	owns := func(o client.Object) bool {
		owner := metav1.GetControllerOf(o)
		if owner == nil || owner.Kind != "M2MClient" {
			return false
		}
		mine, err := s.StillServes(context.Background(), c, types.NamespacedName{Namespace: o.GetNamespace(), Name: owner.Name})
		return mine || err != nil // if it is unknown, Reconcile finds out
	}
	pass := predicate.NewPredicateFuncs(owns)
	pass.UpdateFunc = func(e event.UpdateEvent) bool { return owns(e.ObjectNew) || owns(e.ObjectOld) } // the update may remove the owner
	return pass
}

// Departures calls a function for each client that this instance no longer serves, because
// the client's label changed or the client was deleted.
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
