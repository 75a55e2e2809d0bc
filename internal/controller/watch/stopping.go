// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// UntilStopped has a reconciler not call it an error that it was interrupted
// because the operator is being stopped: whoever takes over does the work.
func UntilStopped[request comparable](r reconcile.TypedReconciler[request]) reconcile.TypedReconciler[request] {
	return reconcile.TypedFunc[request](func(ctx context.Context, req request) (reconcile.Result, error) {
		result, err := r.Reconcile(ctx, req)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return reconcile.Result{}, nil
		}
		return result, err
	})
}
