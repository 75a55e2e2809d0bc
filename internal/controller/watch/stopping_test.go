// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
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
		"a failure while the operator stops": {stopped, failed, nil},
		"a failure while it runs":            {t.Context(), failed, failed},
		"a reconcile that takes too long":    {late, failed, failed},
		"no failure":                         {stopped, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := Reconciler(reconcile.TypedFunc[string](func(context.Context, string) (reconcile.Result, error) {
				return reconcile.Result{RequeueAfter: time.Second}, tc.err
			}), nil, func(string) []string { return nil })
			if _, err := r.Reconcile(tc.ctx, "x"); !errors.Is(err, tc.want) || err != nil && tc.want == nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAReconcileMayFinishWhenTheOperatorIsStopped(t *testing.T) {
	for name, tc := range map[string]struct {
		stopAfter, takes time.Duration
		want             error         // what the reconcile sees
		wantAfter        time.Duration // when it has ended
	}{
		"it takes less than the grace":    {time.Second, 4 * time.Second, nil, 4 * time.Second},
		"it takes longer":                 {time.Second, time.Minute, context.Canceled, time.Second + Grace},
		"it begins when all has ended":    {0, time.Second, context.Canceled, 0},
		"nothing ends":                    {time.Hour, 4 * time.Second, nil, 4 * time.Second},
		"its own time is over":            {time.Hour, 3 * time.Minute, context.DeadlineExceeded, 2 * time.Minute},
		"its own time is over meanwhile":  {119 * time.Second, 3 * time.Minute, context.DeadlineExceeded, 2 * time.Minute},
		"it ends at the moment of a stop": {4 * time.Second, 4 * time.Second, nil, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				running, stop := context.WithCancel(t.Context())
				defer stop()
				ctx, cancel := context.WithTimeout(running, 2*time.Minute)
				defer cancel()
				if tc.stopAfter == 0 {
					stop()
				} else {
					defer time.AfterFunc(tc.stopAfter, stop).Stop()
				}
				start := time.Now()
				var saw error
				r := Reconciler(reconcile.TypedFunc[string](func(ctx context.Context, _ string) (reconcile.Result, error) {
					select {
					case <-time.After(tc.takes):
					case <-ctx.Done():
						saw = ctx.Err()
					}
					return reconcile.Result{}, saw
				}), nil, func(string) []string { return nil })
				_, _ = r.Reconcile(ctx, "x")
				if !errors.Is(saw, tc.want) || saw != nil && tc.want == nil || time.Since(start) != tc.wantAfter {
					t.Errorf("it saw %v and ended after %s, want %v after %s", saw, time.Since(start), tc.want, tc.wantAfter)
				}
			})
		})
	}
}

func TestWhatIsNotWatchedIsDropped(t *testing.T) {
	for name, tc := range map[string]struct {
		watched    Namespaces
		namespaces []string
		want       bool
	}{
		"every namespace is watched":    {nil, []string{"payments"}, true},
		"it is watched":                 {Namespaces{"shop", "payments"}, []string{"payments"}, true},
		"it is not watched":             {Namespaces{"shop"}, []string{"payments"}, false},
		"one of two is not watched":     {Namespaces{"shop"}, []string{"shop", "payments"}, false},
		"an object without a namespace": {Namespaces{"shop"}, []string{""}, true},
	} {
		t.Run(name, func(t *testing.T) {
			called := false
			r := Reconciler(reconcile.TypedFunc[string](func(context.Context, string) (reconcile.Result, error) {
				called = true
				return reconcile.Result{}, errors.New("unknown namespace for the cache")
			}), tc.watched, func(string) []string { return tc.namespaces })
			if _, err := r.Reconcile(t.Context(), "x"); called != tc.want || (err != nil) != tc.want {
				t.Errorf("called: %t, want %t (%v)", called, tc.want, err)
			}
		})
	}
}
