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

// Fairly returns a constructor for a controller's queue in which namespaces take turns.
// Within a namespace, the request with the lowest rank comes first, or the oldest if rank
// is nil.
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

// NamespaceOf returns the namespace of a request.
func NamespaceOf(req reconcile.Request) string { return req.Namespace }

// LastRank is the rank of a client without a token. It comes after all that have one.
const LastRank = math.MaxInt64
