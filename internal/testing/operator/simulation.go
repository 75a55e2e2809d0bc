// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// Settle reconciles everything in the namespaces repeatedly, until a round writes
// nothing.
func (op *Operator) Settle(namespaces ...string) {
	op.T.Helper()
	op.CatchUp(namespaces...)
	for range 10 {
		before := len(op.Requests.Writes())
		op.Round(namespaces...)
		if len(op.Requests.Writes()) == before {
			return
		}
	}
	op.T.Fatal("the operator does not settle")
}

// SettleServers settles the story's servers and APIs, but no client.
func (op *Operator) SettleServers(w *World) {
	op.T.Helper()
	for _, ns := range []string{w.Payments, w.Shop} {
		name := types.NamespacedName{Namespace: ns, Name: "auth"}
		if _, err := op.AuthorizationServers[0].Reconcile(op.T.Context(), reconcile.Request{NamespacedName: name}); err != nil {
			op.T.Fatal(err)
		}
	}
	api := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: w.Payments, Name: "payment-api"}}
	if _, err := op.APIResources.Reconcile(op.T.Context(), api); err != nil {
		op.T.Fatal(err)
	}
}

// Round reconciles everything in the namespaces once: servers, APIs, bundles, clients,
// pods.
func (op *Operator) Round(namespaces ...string) {
	op.T.Helper()
	ctx := op.T.Context()
	// The bundles' list of the clients does not wait for recent writes of their
	// statuses, which a watch would report.
	if err := op.Client.List(ctx, &v1alpha1.M2MClientList{}); err != nil {
		op.T.Fatal(err)
	}
	each := func(list client.ObjectList, reconcileOne func(types.NamespacedName) (ctrl.Result, error)) {
		op.T.Helper()
		if err := op.Client.List(ctx, list); err != nil {
			op.T.Fatal(err)
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			op.T.Fatal(err)
		}
		for _, o := range objects {
			name := client.ObjectKeyFromObject(o.(client.Object))
			if name.Namespace != "" && !slices.Contains(namespaces, name.Namespace) {
				continue
			}
			if _, err := reconcileOne(name); err != nil {
				op.T.Fatalf("reconcile %T %q: %v", o, name, err)
			}
		}
	}
	request := func(n types.NamespacedName) reconcile.Request { return reconcile.Request{NamespacedName: n} }
	each(&v1alpha1.AuthorizationServerList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.AuthorizationServers[0].Reconcile(ctx, request(n))
	})
	each(&v1alpha1.ClusterAuthorizationServerList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.AuthorizationServers[1].Reconcile(ctx, request(n))
	})
	each(&v1alpha1.APIResourceList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		result, err := op.APIResources.Reconcile(ctx, request(n))
		for _, b := range op.Bundles.Bundles(ctx, n) {
			if _, err := op.Bundles.Reconcile(ctx, b); err != nil {
				return result, err
			}
		}
		if _, err := op.Enforcement.Reconcile(ctx, request(n)); err != nil {
			return result, err
		}
		op.AwaitBundles()
		return result, err
	})
	each(&v1alpha1.APIResourceList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.APIProvisioning.Reconcile(ctx, request(n))
	})
	each(&v1alpha1.M2MClientList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.ClientProvisioning.Reconcile(ctx, request(n))
	})
	each(&v1alpha1.M2MClientList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.M2MClients.Reconcile(ctx, request(n))
	})
	op.awaitClients()
	each(watch.VerifierLists()[0], func(n types.NamespacedName) (ctrl.Result, error) {
		return op.Pods.Reconcile(ctx, request(n))
	})
}

// Until settles repeatedly, as watches would, until a condition holds. The clock
// stands still.
func (op *Operator) Until(w *World, so func() bool) {
	op.T.Helper()
	Eventually(op.T, func() error {
		op.Settle(w.Payments, w.Shop)
		if !so() {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

// live simulates a stepped operator for some time. It reconciles everything in the
// namespaces, and then each object at the time that it asks for; the clock jumps from
// one time to the next. A write of a server or an API wakes the others, as their
// watches would.
func (op *Operator) live(t *testing.T, d time.Duration, namespaces ...string) {
	t.Helper()
	end := op.Clock.Now().Add(d)
	objects := op.objectsOf(t, namespaces)
	for range 100_000 {
		var next *simulated
		for _, o := range objects {
			if !o.at.IsZero() && (next == nil || o.at.Before(next.at)) {
				next = o
			}
		}
		if next == nil || next.at.After(end) {
			op.Clock.SetTime(end)
			return
		}
		if next.at.After(op.Clock.Now()) {
			op.Clock.SetTime(next.at)
		}
		before := op.versionOf(t, next)
		result, err := next.reconcile()
		if err != nil {
			t.Fatalf("reconcile %s: %v", next.name, err)
		}
		next.at = time.Time{}
		if result.RequeueAfter > 0 {
			next.at = op.Clock.Now().Add(result.RequeueAfter)
		}
		if op.versionOf(t, next) != before {
			for _, o := range objects {
				if o != next {
					o.at = op.Clock.Now()
				}
			}
		}
		op.wakeServers(objects)
	}
	t.Fatal("a hot loop: there is always something to reconcile")
}

// simulated is an object with the time of its next reconcile.
type simulated struct {
	name      string
	reconcile func() (ctrl.Result, error)
	at        time.Time
	watched   client.Object // kind and name, if others watch it
}

// versionOf returns the version of an object that others watch.
func (op *Operator) versionOf(t *testing.T, o *simulated) string {
	t.Helper()
	if o.watched == nil {
		return ""
	}
	if err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(o.watched), o.watched); err != nil {
		t.Fatal(err)
	}
	return o.watched.GetResourceVersion()
}

func (op *Operator) objectsOf(t *testing.T, namespaces []string) []*simulated {
	t.Helper()
	var objects []*simulated
	add := func(list client.ObjectList, watched bool, reconcileOne func(types.NamespacedName) (ctrl.Result, error)) {
		for _, namespace := range namespaces {
			if err := op.Client.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
				t.Fatal(err)
			}
			items, err := meta.ExtractList(list)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				name := client.ObjectKeyFromObject(item.(client.Object))
				o := &simulated{
					name: fmt.Sprintf("%T %s", item, name), at: op.Clock.Now(),
					reconcile: func() (ctrl.Result, error) { return reconcileOne(name) },
				}
				if watched {
					o.watched = item.(client.Object)
				}
				objects = append(objects, o)
			}
		}
	}
	add(&v1alpha1.AuthorizationServerList{}, true, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.AuthorizationServers[0].Reconcile(t.Context(), RequestOf(n))
	})
	add(&v1alpha1.APIResourceList{}, true, func(n types.NamespacedName) (ctrl.Result, error) {
		for _, b := range op.Bundles.Bundles(t.Context(), n) {
			if _, err := op.Bundles.Reconcile(t.Context(), b); err != nil {
				return ctrl.Result{}, err
			}
		}
		if _, err := op.Enforcement.Reconcile(t.Context(), RequestOf(n)); err != nil {
			return ctrl.Result{}, err
		}
		op.AwaitBundles()
		return op.APIResources.Reconcile(t.Context(), RequestOf(n))
	})
	add(&v1alpha1.M2MClientList{}, false, func(n types.NamespacedName) (ctrl.Result, error) {
		defer op.awaitClients()
		return op.M2MClients.Reconcile(t.Context(), RequestOf(n))
	})
	return objects
}

// wakeServers reconciles the servers whose keys a client needs at once.
func (op *Operator) wakeServers(objects []*simulated) {
	for {
		select {
		case e := <-op.Shared.Wakes[v1alpha1.KindAuthorizationServer]:
			for _, o := range objects {
				if o.name == fmt.Sprintf("%T %s", e.Object, client.ObjectKeyFromObject(e.Object)) {
					o.at = op.Clock.Now()
				}
			}
		default:
			return
		}
	}
}
