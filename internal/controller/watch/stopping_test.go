// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestBeingStoppedIsNoError(t *testing.T) {
	failed := errors.New("update Secret: interrupted")
	stopped, stop := context.WithCancel(t.Context())
	stop()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context
		err  error
		want error
	}{
		"a failure while the operator is being stopped": {stopped, failed, nil},
		"a failure while it runs":                       {t.Context(), failed, failed},
		"a reconcile that takes too long":               {late, failed, failed},
		"no failure":                                    {stopped, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := UntilStopped(reconcile.TypedFunc[string](func(context.Context, string) (reconcile.Result, error) {
				return reconcile.Result{RequeueAfter: time.Second}, tc.err
			}))
			if _, err := r.Reconcile(tc.ctx, "x"); !errors.Is(err, tc.want) || err != nil && tc.want == nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
