// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// ClientsOfServer maps a server to the clients of a shard that name the server or one of its
// APIs.
func ClientsOfServer(c client.Reader, mine Shard) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		server := client.MatchingFields{ByServer: rules.ServerKeyOf(o).String()}
		all := sets.New(mine.Clients(ctx, c, server)...)
		for _, api := range Requests(ctx, c, &v1alpha1.APIResourceList{}, server) {
			all.Insert(mine.Clients(ctx, c, client.MatchingFields{ByAPIResource: api.String()})...)
		}
		return all.UnsortedList()
	})
}

// Requests lists objects from the cache and returns a request for each.
func Requests(ctx context.Context, c client.Reader, list client.ObjectList, opts ...client.ListOption) []reconcile.Request {
	// A list need not wait for our own writes: an object that it misses has its own event.
	opts = append(opts, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err := c.List(ctx, list, opts...); err != nil {
		log.FromContext(ctx).Error(err, "Failed to list from the cache")
		return nil
	}
	var requests []reconcile.Request
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		m := o.(client.Object)
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}})
		return nil
	})
	return requests
}
