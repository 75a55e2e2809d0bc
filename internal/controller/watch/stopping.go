// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Reconciler wraps the reconciler of every controller of the operator. It drops requests for
// objects in namespaces that the operator does not watch: an object in a watched namespace
// may name one in another namespace, for which the cache would return errors for ever. It
// also drops errors that occur because the operator is being stopped: the instance that
// takes over does the work.
func Reconciler[request comparable](r reconcile.TypedReconciler[request], watched Namespaces, in func(request) []string) reconcile.TypedReconciler[request] {
	return reconcile.TypedFunc[request](func(ctx context.Context, req request) (reconcile.Result, error) {
		if !watched.watchesAll(in(req)) {
			return reconcile.Result{}, nil
		}
		result, err := r.Reconcile(ctx, req)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return reconcile.Result{}, nil
		}
		return result, err
	})
}
