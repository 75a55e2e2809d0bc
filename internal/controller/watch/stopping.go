// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Reconciler wraps what a controller calls, for every controller of the operator. It
// drops requests for objects in namespaces that the operator does not watch: an object
// of a watched namespace may name one of another, and the cache would answer with an
// error for ever. It does not call it an error that the operator is being stopped:
// whoever takes over does the work.
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
