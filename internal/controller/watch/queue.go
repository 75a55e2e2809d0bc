// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// Queue is the work queue of a controller.
type Queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Fairly returns a constructor for a controller's queue in which namespaces take turns.
// Within a namespace, the request with the greatest need comes first, or the oldest if need
// is nil.
func Fairly[request comparable](namespace func(request) string, need func(request) traffic.Need) func(string, workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
	return func(name string, limiter workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
		return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[request]{
			Name: name,
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[request]{
				Name: name,
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[request]{
					Name: name, Queue: traffic.NewQueue(namespace, need),
				}),
			}),
		})
	}
}

// NamespaceOf returns the namespace of a request.
func NamespaceOf(req reconcile.Request) string { return req.Namespace }
