// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"context"
	"maps"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// counts is how many clients each shard has, so that a shard that nobody serves can be
// noticed. The main instance serves those without a shard, and does not count them.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

// add counts a client, or takes it out if by is negative.
func (c *counts) add(o client.Object, by int) {
	shard := o.GetLabels()[v1alpha1.ShardLabel]
	if shard == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[shard] += by; c.n[shard] == 0 {
		delete(c.n, shard)
	}
}

// all returns the number of clients by shard.
func (c *counts) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// follow counts by the events of clients. It requests no reconcile.
func (c *counts) follow() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ watch.Queue) { c.add(e.Object, 1) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ watch.Queue) {
			c.add(e.ObjectOld, -1)
			c.add(e.ObjectNew, 1)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ watch.Queue) { c.add(e.Object, -1) },
	}
}
