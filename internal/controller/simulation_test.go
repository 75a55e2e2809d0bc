// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// stage is a story that plays by a stepped operator's clock, the authorization
// server included.
type stage struct {
	*world
	op   *operator
	api  *v1alpha1.APIResource
	cart *v1alpha1.M2MClient
}

// newStage creates a story and brings it to rest.
func newStage(t *testing.T, op *operator, change ...func(*oidc.Options)) *stage {
	t.Helper()
	byClock := func(o *oidc.Options) { o.Now = op.clock.Now }
	s := &stage{world: newWorld(t, append([]func(*oidc.Options){byClock}, change...)...), op: op}
	s.api, s.cart = s.story()
	s.settle()
	isReady(t, s.cart)
	s.as.ResetRequests()
	return s
}

func lifetime(d time.Duration) func(*oidc.Options) {
	return func(o *oidc.Options) { o.TokenLifetime = d }
}

func (s *stage) settle() { s.t.Helper(); s.op.settle(s.payments, s.shop) }

func (s *stage) token() string { return tokenIn(s.t, s.shop, "cart-token", "payment-api") }

// status returns what the cart's status says of its token now.
func (s *stage) status() v1alpha1.TokenStatus {
	s.t.Helper()
	if err := kube.Get(s.t.Context(), client.ObjectKeyFromObject(s.cart), s.cart); err != nil {
		s.t.Fatal(err)
	}
	if len(s.cart.Status.Tokens) != 1 {
		s.t.Fatalf("the status tells of %d tokens", len(s.cart.Status.Tokens))
	}
	return s.cart.Status.Tokens[0]
}

// due moves the clock to the moment when the cart's token is due.
func (s *stage) due() { s.op.clock.SetTime(s.status().RefreshAt.Time) }

// renew brings a stage on which something has been played before to where a new
// one begins: everything works, and the cart has just got its token.
func (s *stage) renew() {
	s.t.Helper()
	s.as.ClearFaults()
	s.op.requests.reset()
	s.due()
	s.settle()
	isReady(s.t, s.cart)
	hasCondition(s.t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	s.as.ResetRequests()
}

// until lets the stage's objects live to a moment.
func (s *stage) until(at time.Time) {
	s.t.Helper()
	s.op.live(s.t, at.Sub(s.op.clock.Now()), s.payments, s.shop)
}

// impatient lets the operator wait for the stage's server only so long.
func (s *stage) impatient(d time.Duration) {
	s.t.Helper()
	for _, namespace := range []string{s.payments, s.shop} {
		server := s.server(namespace)
		if err := kube.Get(s.t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			s.t.Fatal(err)
		}
		hc, err := testOptions().Egress.NewClient(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		hc.Timeout = d
		s.op.servers.connections.To.Get(server).HTTP = hc
	}
}

// live has a stepped operator live for a time: it reconciles everything in the
// namespaces, and again what asks for it, at the moment that it asks for, with
// the clock jumping from one to the next. What a server or an API writes wakes
// the others, as their watches would.
func (op *operator) live(t *testing.T, d time.Duration, namespaces ...string) {
	t.Helper()
	end := op.clock.Now().Add(d)
	objects := op.objectsOf(t, namespaces)
	for range 100_000 {
		var next *simulated
		for _, o := range objects {
			if !o.at.IsZero() && (next == nil || o.at.Before(next.at)) {
				next = o
			}
		}
		if next == nil || next.at.After(end) {
			op.clock.SetTime(end)
			return
		}
		if next.at.After(op.clock.Now()) {
			op.clock.SetTime(next.at)
		}
		before := op.versionOf(t, next)
		result, err := next.reconcile()
		if err != nil {
			t.Fatalf("reconcile %s: %v", next.name, err)
		}
		next.at = time.Time{}
		if result.RequeueAfter > 0 {
			next.at = op.clock.Now().Add(result.RequeueAfter)
		}
		if op.versionOf(t, next) != before {
			for _, o := range objects {
				if o != next {
					o.at = op.clock.Now()
				}
			}
		}
		op.wakeServers(objects)
	}
	t.Fatal("a hot loop: there is always something to reconcile")
}

// simulated is an object with the moment of its next reconcile.
type simulated struct {
	name      string
	reconcile func() (ctrl.Result, error)
	at        time.Time
	watched   client.Object // of its kind and name, if others watch it
}

// versionOf returns the version of an object that others watch.
func (op *operator) versionOf(t *testing.T, o *simulated) string {
	t.Helper()
	if o.watched == nil {
		return ""
	}
	if err := op.client.Get(t.Context(), client.ObjectKeyFromObject(o.watched), o.watched); err != nil {
		t.Fatal(err)
	}
	return o.watched.GetResourceVersion()
}

func (op *operator) objectsOf(t *testing.T, namespaces []string) []*simulated {
	t.Helper()
	var objects []*simulated
	add := func(list client.ObjectList, watched bool, reconcileOne func(types.NamespacedName) (ctrl.Result, error)) {
		for _, namespace := range namespaces {
			if err := op.client.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
				t.Fatal(err)
			}
			items, err := meta.ExtractList(list)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				name := client.ObjectKeyFromObject(item.(client.Object))
				o := &simulated{
					name: fmt.Sprintf("%T %s", item, name), at: op.clock.Now(),
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
		return op.server[0].Reconcile(t.Context(), requestOf(n))
	})
	add(&v1alpha1.APIResourceList{}, true, func(n types.NamespacedName) (ctrl.Result, error) {
		for _, b := range op.bundle.Bundles(t.Context(), n) {
			if _, err := op.bundle.Reconcile(t.Context(), b); err != nil {
				return ctrl.Result{}, err
			}
		}
		op.awaitBundles()
		return op.resource.Reconcile(t.Context(), requestOf(n))
	})
	add(&v1alpha1.M2MClientList{}, false, func(n types.NamespacedName) (ctrl.Result, error) {
		defer op.awaitClients()
		return op.reconcilers.client.Reconcile(t.Context(), requestOf(n))
	})
	return objects
}

func requestOf(n types.NamespacedName) reconcile.Request { return reconcile.Request{NamespacedName: n} }

// wakeServers has the servers reconciled now whose keys are wanted.
func (op *operator) wakeServers(objects []*simulated) {
	for {
		select {
		case e := <-op.servers.wakes[v1alpha1.KindAuthorizationServer]:
			for _, o := range objects {
				if o.name == fmt.Sprintf("%T %s", e.Object, client.ObjectKeyFromObject(e.Object)) {
					o.at = op.clock.Now()
				}
			}
		default:
			return
		}
	}
}

// metric returns the value of one of the operator's counters or gauges.
func metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for i, l := range m.GetLabel() { // sorted by name
				if l.GetValue() != labels[i] {
					continue metrics
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// answer is a fault that answers with a status and a body.
func answer(status int, body string) *oidc.Fault {
	return &oidc.Fault{Status: status, Body: body}
}

// askLater is a fault that answers 429 with Retry-After.
func askLater(value string) *oidc.Fault {
	return &oidc.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {value}}}
}
