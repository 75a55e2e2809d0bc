// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"math"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// Queue is the work queue of a controller.
type Queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Fairly makes the queue of a controller in which namespaces take turns. Within one
// of them the request of the lowest rank is first; without ranks, the oldest.
func Fairly[request comparable](namespace func(request) string, rank func(request) int64) func(string, workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
	if rank == nil {
		rank = func(request) int64 { return 0 }
	}
	return func(name string, limiter workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
		return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[request]{
			Name: name,
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[request]{
				Name: name,
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[request]{
					Name: name, Queue: traffic.NewQueue(namespace, rank),
				}),
			}),
		})
	}
}

// NamespaceOf returns whose request it is.
func NamespaceOf(req reconcile.Request) string { return req.Namespace }

// LastRank is the rank of what has no token: after all that have one.
const LastRank = math.MaxInt64
