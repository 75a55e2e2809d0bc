// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// Each test uses one place at a time: namespaces that nothing else uses meanwhile.
type place struct {
	shop, payments string
	more           []string // for pods that verify
}

func (p *place) all() []string { return append([]string{p.shop, p.payments}, p.more...) }

// run is one run of a scenario, with at most one fault.
type run struct {
	*place
	t     *testing.T
	wire  *Wire
	clock *clocktesting.FakePassiveClock
	log   *ledger

	AS    *oidc.Server
	Logto *logto.Server
	World *operator.World

	options []func(*controller.Options)
	sharded bool
	urgent  bool
	ctx     context.Context // the life of the operator
	main    *operator.Operator
	shard   *operator.Operator // nil without shards
	// connect, if not nil, changes how an operator calls the API server.
	connect func(*rest.Config)
	// launch is a command that runs a replica's program. If empty, the program runs directly.
	launch []string
	// impatient operators wait only briefly for an authorization server.
	impatient bool

	lag      *lag                 // nil: no watch lags behind
	due      map[string]time.Time // by object: its next reconcile
	failures map[string]failure
	known    []types.NamespacedName // APIs, also deleted ones
	said     []string               // the errors of all reconciles
	retained map[string]bool        // registrations that stay at the server when their client is gone
}

// failure counts the failed reconciles in a row of an object.
type failure struct {
	name   types.NamespacedName
	inARow int
	err    error
}

// newRun returns a run without an operator and without objects.
func newRun(t *testing.T, p *place, s *scenario) *run {
	t.Helper()
	r := &run{
		place: &place{p.shop, p.payments, p.more[:s.more]}, t: t, wire: &Wire{}, options: s.options, sharded: s.sharded, urgent: s.urgent,
		clock: clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second)),
		due:   map[string]time.Time{}, failures: map[string]failure{}, retained: map[string]bool{},
	}
	r.log = newLedger(r)
	r.wire.Rename, r.wire.Observe = r.rename, r.log.observe
	proxy, listener, err := NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	var behind http.RoundTripper
	if s.logto {
		r.Logto, err = logto.New(logto.WithHTTP(), logto.WithEndpoint(proxy.URL), logto.WithSecretPrefix(operator.Sentinel),
			logto.WithClock(r.clock.Now), logto.WithCheapKey())
		if err == nil {
			behind = r.Logto.Transport()
		}
	} else {
		r.AS, err = oidc.Start(oidc.Options{
			URL: proxy.URL, Now: func() time.Time { return r.clock.Now().Add(s.ahead) }, TokenLifetime: lifetime, DynamicRegistration: s.registration,
		})
		if err == nil {
			t.Cleanup(r.AS.Close)
			behind = r.AS.Transport()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.Serve(listener, to, r.wire.Through(AuthorizationServer, behind))
	t.Cleanup(proxy.Close)
	r.World = &operator.World{T: t, AS: r.AS, Shop: p.shop, Payments: p.payments}
	return r
}

// lifetime is how long tokens live. Between two requests of a scenario passes less.
const lifetime = 4 * time.Hour

// start starts an operator, which knows nothing of a former one.
func (r *run) start() {
	r.t.Helper()
	r.ctx = r.wire.Live()
	r.main = r.instance("")
	if r.sharded {
		r.shard = r.instance("a")
	}
	clear(r.due)
	clear(r.failures)
}

func (r *run) instance(shard string) *operator.Operator {
	r.t.Helper()
	cfg := rest.CopyConfig(operator.RESTConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return r.wire.Through(APIServer, next) })
	if r.connect != nil {
		r.connect(cfg)
	}
	options := append(slices.Clone(r.options), func(o *controller.Options) {
		o.Clock = r.clock
		o.DeletionTimeout = 24 * time.Hour // the API server says by the real clock when an object was deleted
	})
	if r.sharded {
		options = append(options, operator.OfShard(shard))
	}
	op := operator.StartSteppedOver(r.t, cfg, options...)
	op.Clock = r.clock
	return op
}

// restart replaces an operator that was killed.
func (r *run) restart() {
	r.t.Helper()
	r.log.died()
	r.stop()
	r.start()
}

func (r *run) stop() {
	r.main.Stop()
	if r.shard != nil {
		r.shard.Stop()
	}
}

// settle lets the operator do what is due within some time, and moves the clock to its end. A killed
// operator is replaced.
func (r *run) settle(within time.Duration) {
	r.t.Helper()
	end := r.clock.Now().Add(within)
	for range 500 {
		r.catchUp()
		r.hurry()
		writes := r.wire.Writes()
		r.round()
		switch {
		case r.ctx.Err() != nil:
			r.restart()
			continue
		case r.wire.Writes() != writes || r.woken():
			continue
		}
		next, ok := r.earliest()
		if !ok || next.After(end) {
			r.clock.SetTime(end)
			return
		}
		if next.After(r.clock.Now()) {
			r.clock.SetTime(next)
		}
	}
	r.t.Fatalf("the operator does not settle: %v; the last requests are %v", r.failures, last(r.wire.Calls(), 12))
}

func last[T any](all []T, n int) []T { return all[max(0, len(all)-n):] }

// earliest returns when the next object is due after the present.
func (r *run) earliest() (next time.Time, ok bool) {
	for _, at := range r.due {
		if at.After(r.clock.Now()) && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return next, ok
}

// woken reports whether a server's keys were requested, and forgets it.
func (r *run) woken() (woken bool) {
	for _, op := range r.instances() {
		for _, wakes := range op.Shared.Wakes {
			for len(wakes) > 0 {
				<-wakes
				woken = true
			}
		}
	}
	return woken
}

func (r *run) instances() []*operator.Operator {
	if r.shard == nil {
		return []*operator.Operator{r.main}
	}
	return []*operator.Operator{r.main, r.shard}
}

// visit reconciles one object, and records when it is due again: when it says so, or as the queue
// would try again after a failure.
func (r *run) visit(controller string, name types.NamespacedName, reconcile func(context.Context) (ctrl.Result, error)) {
	if r.ctx.Err() != nil {
		return
	}
	what := fmt.Sprintf("%s %v", controller, name)
	if r.lag != nil {
		r.lag.visit(r, what, name, reconcile)
		return
	}
	result, err := reconcile(r.ctx)
	r.visited(what, name, result, err)
}

// visited notes how a reconcile ended.
func (r *run) visited(what string, name types.NamespacedName, result ctrl.Result, err error) {
	delete(r.due, what)
	if err != nil {
		r.said = append(r.said, fmt.Sprintf("%s: %v", what, err))
		f := failure{name, r.failures[what].inARow + 1, err}
		r.failures[what] = f
		r.due[what] = r.clock.Now().Add(min(time.Second<<min(f.inARow, 10), 5*time.Minute))
		return
	}
	delete(r.failures, what)
	if result.RequeueAfter > 0 {
		r.due[what] = r.clock.Now().Add(result.RequeueAfter)
	}
}

// failing returns the objects whose last reconcile failed.
func (r *run) failing() (all []string) {
	for what, f := range r.failures {
		all = append(all, fmt.Sprintf("%s, %d times in a row: %v", what, f.inARow, f.err))
	}
	slices.Sort(all)
	return all
}

// rename replaces what differs between two runs in a path.
func (r *run) rename(s string) string {
	names := []string{r.shop, "shop", r.payments, "payments", operator.Namespace, "operator"}
	for i, ns := range r.more {
		names = append(names, ns, fmt.Sprintf("more-%d", i))
	}
	s = strings.NewReplacer(names...).Replace(s)
	return identifiers.ReplaceAllString(s, "ID")
}

// server returns the AuthorizationServer, whose keys are fetched only when somebody asks.
func (r *run) server(namespace string) *v1alpha1.AuthorizationServer {
	s := r.World.Server(namespace)
	s.Spec.JWKS.RefreshInterval = "24h"
	return s
}

// hurry makes an impatient operator.
func (r *run) hurry() {
	r.t.Helper()
	if !r.impatient {
		return
	}
	for _, ns := range r.all()[:2] {
		var list v1alpha1.AuthorizationServerList
		if err := operator.Kube.List(r.t.Context(), &list, client.InNamespace(ns)); err != nil {
			r.t.Fatal(err)
		}
		for i := range list.Items {
			hc, err := operator.DefaultOptions().Egress.NewClient(nil)
			if err != nil {
				r.t.Fatal(err)
			}
			hc.Timeout = time.Second
			for _, op := range r.instances() {
				op.Shared.Connections.To.Get(&list.Items[i]).HTTP = hc
			}
		}
	}
}
