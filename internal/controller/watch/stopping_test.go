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
