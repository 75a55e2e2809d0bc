// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// startOperatorOver is startOperator over a connection of its own.
func startOperatorOver(t *testing.T, cfg *rest.Config, change ...func(*Options)) *operator {
	t.Helper()
	return newOperatorOver(t, cfg, func(mgr ctrl.Manager, o Options) (*reconcilers, error) { return nil, Setup(mgr, o) }, change...)
}

// startSteppedOver is startStepped over a connection of its own.
func startSteppedOver(t *testing.T, cfg *rest.Config, change ...func(*Options)) *operator {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
	op := newOperatorOver(t, cfg, newReconcilers, append([]func(*Options){func(o *Options) { o.Clock = clock }}, change...)...)
	op.clock = clock
	return op
}

// agrees waits until a cache has the objects that the API server lists.
func (op *operator) agrees(cache client.Reader, list client.ObjectList, opts ...client.ListOption) {
	op.t.Helper()
	versions := func(from client.Reader) map[string]string {
		op.t.Helper()
		list := list.DeepCopyObject().(client.ObjectList)
		if err := from.List(op.t.Context(), list, opts...); err != nil {
			op.t.Fatal(err)
		}
		found := map[string]string{}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			found[o.(client.Object).GetName()] = o.(client.Object).GetResourceVersion()
			return nil
		})
		return found
	}
	want := versions(kube)
	eventually(op.t, func() error {
		if got := versions(cache); !maps.Equal(want, got) {
			return fmt.Errorf("the cache of %T has the versions %v, not %v", list, got, want)
		}
		return nil
	})
}

// catchUp waits until the operator's caches have seen what the test has done.
func (op *operator) catchUp(namespaces ...string) {
	op.t.Helper()
	metadata := func(kind string) client.ObjectList {
		l := &metav1.PartialObjectMetadataList{}
		l.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
		return l
	}
	op.agrees(op.client, &v1alpha1.ClusterAuthorizationServerList{})
	op.agrees(op.client, metadata("Namespace"))
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	requirement, err := labels.NewRequirement(v1alpha1.ManagedByLabel, selection.NotEquals, []string{v1alpha1.ManagedByValue})
	if err != nil {
		op.t.Fatal(err)
	}
	anothers := client.MatchingLabelsSelector{Selector: labels.NewSelector().Add(*requirement)}
	for _, ns := range namespaces {
		in := client.InNamespace(ns)
		for _, list := range append(watch.VerifierLists(), &v1alpha1.AuthorizationServerList{}, &v1alpha1.APIResourceList{}, &v1alpha1.M2MClientList{}) {
			op.agrees(op.client, list, in)
		}
		for _, kind := range []string{"Secret", "ConfigMap"} {
			op.agrees(versionsOf{op.servers.foreign.OfKind(kind), ns}, metadata(kind), in, anothers)
		}
		op.agrees(op.client, &corev1.SecretList{}, in, own)
		op.agrees(op.client, &corev1.ConfigMapList{}, in, own)
	}
}

// awaitBundles waits until the cache has the bundles that the operator has just
// written. Its own lists do not wait for them, and the clock of a test must not
// run ahead of the caches.
func (op *operator) awaitBundles() { op.t.Helper(); op.await(&corev1.ConfigMapList{}) }

// awaitClients is awaitBundles for the statuses of clients.
func (op *operator) awaitClients() { op.t.Helper(); op.await(&v1alpha1.M2MClientList{}) }

func (op *operator) await(written client.ObjectList) {
	op.t.Helper()
	if err := op.client.List(op.t.Context(), written); err != nil {
		op.t.Fatal(err)
	}
}

// until settles again and again, as watches would have it, until something is
// so. The clock stands still.
func (op *operator) until(w *world, so func() bool) {
	op.t.Helper()
	eventually(op.t, func() error {
		op.settle(w.payments, w.shop)
		if !so() {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

// hasToken reports whether a client is ready by its status.
func hasToken(c *v1alpha1.M2MClient) bool {
	for _, cond := range c.Status.Conditions {
		if cond.Type == v1alpha1.ConditionReady {
			return cond.Status == "True" && cond.ObservedGeneration == c.Generation
		}
	}
	return false
}

func conditionIs(obj client.Object, conditionType string, status metav1.ConditionStatus) bool {
	for _, c := range conditionsOf(obj) {
		if c.Type == conditionType {
			return c.Status == status
		}
	}
	return false
}

var metricOf = kubetest.Metric

// reconciled returns how often a controller has reconciled since the suite
// started.
func reconciled(t *testing.T, controller string) int {
	t.Helper()
	n, _ := metricOf(t, "controller_runtime_reconcile_total", map[string]string{"controller": controller})
	return int(n)
}

// abandoned is what operators that were stopped in the middle of something have
// left in the metrics of their queues, by controller.
var abandoned = map[string]float64{}

// noteAbandoned is called while no operator runs.
func noteAbandoned(t *testing.T) {
	t.Helper()
	for _, c := range everyController {
		waiting, active := busy(t, c)
		abandoned[c] = waiting + active
	}
}

func busy(t *testing.T, controller string) (waiting, active float64) {
	t.Helper()
	waiting, _ = metricOf(t, "workqueue_depth", map[string]string{"name": controller})
	active, _ = metricOf(t, "controller_runtime_active_workers", map[string]string{"controller": controller})
	return waiting, active
}

// idle reports whether a running operator has nothing to do at this moment.
func idle(t *testing.T, controllers ...string) error {
	t.Helper()
	for _, c := range controllers {
		if waiting, active := busy(t, c); waiting+active > abandoned[c] {
			return fmt.Errorf("controller %s has %v requests waiting and %v under way", c, waiting, active)
		}
	}
	return nil
}

var everyController = []string{"authorizationserver", "clusterauthorizationserver", "apiresource", "verificationbundle", "m2mclient", "shardedclient", "pod",
	"apiresource-provisioning", "m2mclient-provisioning"}

// versionsOf lists what is known of the objects of a namespace.
type versionsOf struct {
	*foreign.Identities
	namespace string
}

func (v versionsOf) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	v.Mu.RLock()
	defer v.Mu.RUnlock()
	for name, id := range v.Of[v.namespace] {
		all := list.(*metav1.PartialObjectMetadataList)
		all.Items = append(all.Items, *v.Object(v.namespace, name, id))
	}
	return nil
}

func (v versionsOf) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	panic("nobody asks for one")
}
