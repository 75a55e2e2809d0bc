// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Grace is how long a reconcile may go on when the operator is told to end. A token that an
// authorization server has just issued, or a client that it has just registered, can still be
// stored. The lease is held until then. It is much shorter than what a pod has to end.
const Grace = 5 * time.Second

// Reconciler wraps the reconciler of every controller of the operator. It drops requests for
// objects in namespaces that the operator does not watch: an object in a watched namespace
// may name one in another namespace, for which the cache would return errors for ever. It
// also drops errors that occur because the operator is being stopped: the instance that
// takes over does the work that cannot be finished within Grace.
func Reconciler[request comparable](r reconcile.TypedReconciler[request], watched Namespaces, in func(request) []string) reconcile.TypedReconciler[request] {
	return reconcile.TypedFunc[request](func(ctx context.Context, req request) (reconcile.Result, error) {
		if !watched.watchesAll(in(req)) {
			return reconcile.Result{}, nil
		}
		finishing, done := outlive(ctx)
		defer done()
		result, err := r.Reconcile(finishing, req)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return reconcile.Result{}, nil
		}
		return result, err
	})
}

// outlive returns a context that ends as another one does, but goes on for Grace when that is
// canceled.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() != nil {
		return ctx, func() {}
	}
	longer := context.WithoutCancel(ctx)
	free := func() {}
	if deadline, ok := ctx.Deadline(); ok {
		longer, free = context.WithDeadline(longer, deadline)
	}
	longer, cancel := context.WithCancel(longer)
	stop := context.AfterFunc(ctx, func() {
		grace, done := context.WithTimeout(longer, Grace)
		defer done()
		<-grace.Done()
		cancel()
	})
	return longer, func() { stop(); cancel(); free() }
}
