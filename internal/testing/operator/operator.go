// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// Operator is the operator under test.
type Operator struct {
	T *testing.T
	// Client is the operator's own client: it reads from the cache, and it sees its own
	// writes.
	Client   client.Client
	Requests *Requests
	// Reconcilers are those of a stepped operator, nil for one that runs by itself.
	*controller.Reconcilers
	// Clock is the clock of a stepped operator.
	Clock *clocktesting.FakePassiveClock
	// Lagging names the resources, such as "secrets", whose caches CatchUp does not wait for.
	Lagging map[string]bool
	// Stop stops the operator before the test ends.
	Stop func()

	mgr  ctrl.Manager
	seen map[resource]int // the writes that the caches have seen
}

// running is the number of operators that run.
var running atomic.Int32

// DefaultOptions returns options that allow what the tests' authorization servers
// need.
func DefaultOptions() controller.Options {
	return controller.Options{Egress: egress.Policy{AllowHTTP: true, AllowLoopback: true}, OperatorNamespace: Namespace, PromptDelivery: true}
}

// Watching limits an operator to some namespaces.
func Watching(namespaces ...string) func(*controller.Options) {
	return func(o *controller.Options) { o.WatchNamespaces = namespaces }
}

// OfShard makes an operator one of three instances: a shard, or the main instance for
// "".
func OfShard(name string) func(*controller.Options) {
	return func(o *controller.Options) { o.Shard, o.Shards = name, 3 }
}

// Start runs the operator as in production, on the real clock, until the test ends or
// Stop is called.
func Start(t *testing.T, change ...func(*controller.Options)) *Operator {
	t.Helper()
	return StartOver(t, rest.CopyConfig(RESTConfig), change...)
}

// StartOver is Start with another connection.
func StartOver(t *testing.T, cfg *rest.Config, change ...func(*controller.Options)) *Operator {
	t.Helper()
	op, o := newOperator(t, cfg, change...)
	if err := controller.Setup(op.mgr, o); err != nil {
		t.Fatal(err)
	}
	op.run(op.mgr.GetCache())
	return op
}

// StartStepped runs only the operator's caches. The test calls the reconcilers, for
// instance with Settle, and moves the clock: nothing happens by itself.
func StartStepped(t *testing.T, change ...func(*controller.Options)) *Operator {
	t.Helper()
	return StartSteppedOver(t, rest.CopyConfig(RESTConfig), change...)
}

// StartSteppedOver is StartStepped with another connection.
func StartSteppedOver(t *testing.T, cfg *rest.Config, change ...func(*controller.Options)) *Operator {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
	op, o := newOperator(t, cfg, append([]func(*controller.Options){func(o *controller.Options) { o.Clock = clock }}, change...)...)
	op.Clock = clock
	var err error
	if op.Reconcilers, err = controller.New(op.mgr, o); err != nil {
		t.Fatal(err)
	}
	op.fill()
	op.run(op.mgr.GetCache(), op.Shared.Foreign)
	return op
}

func newOperator(t *testing.T, cfg *rest.Config, change ...func(*controller.Options)) (*Operator, controller.Options) {
	t.Helper()
	o := DefaultOptions()
	for _, f := range change {
		f(&o)
	}
	if running.Load() == 0 {
		noteAbandoned(t)
	}
	op := &Operator{T: t, Requests: &Requests{}, seen: map[resource]int{}}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		op.Requests.next = next
		return op.Requests
	})
	mo := controller.ManagerOptions(o)
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	mo.Controller.SkipNameValidation = new(true)
	var err error
	if op.mgr, err = ctrl.NewManager(cfg, mo); err != nil {
		t.Fatal(err)
	}
	op.Client = op.mgr.GetClient()
	return op, o
}

// run runs the manager until the test ends, and waits until caches are filled.
func (op *Operator) run(caches ...interface{ WaitForCacheSync(context.Context) bool }) {
	op.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- op.mgr.Start(ctx) }()
	running.Add(1)
	op.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			op.T.Errorf("the operator stopped: %v", err)
		}
		running.Add(-1)
	})
	op.T.Cleanup(op.Stop)
	for _, c := range caches {
		if !c.WaitForCacheSync(ctx) {
			op.T.Fatal("the caches did not fill")
		}
	}
}

// Advance moves a stepped operator's clock.
func (op *Operator) Advance(d time.Duration) { op.Clock.SetTime(op.Clock.Now().Add(d)) }

// ReconcileClient reconciles one client of a stepped operator.
func (op *Operator) ReconcileClient(c *v1alpha1.M2MClient) error {
	_, err := op.M2MClients.Reconcile(op.T.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c)})
	return err
}

// ReconcilePod reconciles one pod of a stepped operator, and returns the time until
// its next reconcile.
func (op *Operator) ReconcilePod(pod client.Object) (time.Duration, error) {
	result, err := op.Pods.Reconcile(op.T.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
	return result.RequeueAfter, err
}

// RequestOf returns the request that a watch would queue.
func RequestOf(n types.NamespacedName) reconcile.Request { return reconcile.Request{NamespacedName: n} }
