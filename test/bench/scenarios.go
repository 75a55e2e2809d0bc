// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// lifetime is that of the tokens of the steady state.
func (b *bench) lifetime() time.Duration {
	switch {
	case b.spread() > 0:
		return 300 * time.Second
	case b.n > 250:
		return 60 * time.Second
	}
	return 30 * time.Second
}

// spread is by how much longer the first tokens live, at most, so that later
// refreshes are spread evenly. A few clients need no spread; between their rounds
// there is a pause, in which counts are exact.
func (b *bench) spread() time.Duration {
	if b.n > 500 {
		return 300 * time.Second
	}
	return 0
}

// firstLifetime is the lifetime of the first tokens. In a large fleet, the first
// one would otherwise come due before the last one is there and the operator has
// restarted.
func (b *bench) firstLifetime() time.Duration {
	if b.spread() > 0 {
		return b.lifetime() * 3 / 2
	}
	return b.lifetime()
}

// coldStart starts the operator with N clients that have no tokens. They exist
// before the operator starts, as in an initial list: creating them would keep the
// API server as busy as serving them.
func (b *bench) coldStart(ctx context.Context) error {
	if err := b.takeFloor(ctx); err != nil {
		return err
	}
	b.fleet = fleet{prefix: "bench", n: b.n, server: fast}
	if err := b.createCredentials(ctx, b.fleet, b.issuer, b.firstLifetime(), b.spread()); err != nil {
		return err
	}
	if err := b.createClients(ctx, b.fleet); err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	before, err := b.apiRequests(ctx)
	if err != nil {
		return err
	}
	o, err := b.startOperator(ctx)
	if err != nil {
		return err
	}
	if err := b.ready(ctx, b.fleet); err != nil {
		return err
	}
	took := time.Since(o.leading)
	used, err1 := o.usage()
	minted, err2 := b.issuer.counted(ctx)
	after, err3 := b.apiRequests(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	delta, n := after.since(before), float64(b.n)
	const s = "cold start"
	b.report.ratio(s, "time until all are Ready", "s", took.Seconds(), b.floor.Create.Seconds, atMost(1.25))
	b.report.value(s, "tokens minted per client", "tokens", float64(minted.Issued)/n, exactly(1))
	b.report.value(s, "most tokens minted for one client", "tokens", float64(minted.Most), exactly(1))
	b.report.value(s, "writes of Secrets per client", "requests", delta.sum(writesOf("secrets"))/n, exactly(1))
	b.report.value(s, "writes of statuses per client", "requests", delta.sum(writesOf("m2mclients"))/n, exactly(1))
	b.report.value(s, "events per client", "requests", delta.sum(writesOf("events"))/n, none)
	b.report.value(s, "reads of credentials per client", "requests", delta.sum(func(k request) bool { return k.verb == "GET" && k.resource == "secrets" })/n, none)
	b.report.value(s, "the operator's CPU per 1,000 clients", "s", used.cpu.Seconds()/n*1000, none)
	return nil
}

func writesOf(resource string) func(request) bool {
	return func(k request) bool {
		return k.resource == resource && (k.verb == "POST" || k.verb == "PUT" || k.verb == "PATCH" || k.verb == "APPLY" || k.verb == "DELETE")
	}
}

// steadyState watches the operator refresh the tokens.
func (b *bench) steadyState(ctx context.Context) error {
	o := b.leader()
	if o == nil {
		return errNoFleet
	}
	if err := b.issuer.tell(ctx, order{Prefix: b.fleet.prefix, Clients: b.fleet.n, Lifetime: b.lifetime(), Reset: true}); err != nil {
		return err
	}
	watched := 2 * b.lifetime()
	if b.full() {
		watched = 15 * time.Minute
	}
	if b.small() {
		// It begins and ends while nothing is due, so that the counts are exact.
		if err := b.renew(ctx); err != nil {
			return err
		}
	} else if err := sleep(ctx, (b.firstLifetime()+b.spread())*7/10); err != nil { // the first tokens' refresh is the warm-up
		return err
	}
	b.watch.reset()
	start, err := b.snapshot(ctx, o)
	if err != nil {
		return err
	}
	profiled := make(chan error, 1)
	go func() {
		profiled <- o.saveProfile(ctx, fmt.Sprintf("profile?seconds=%.0f", min(60, watched.Seconds()/3)), "bench-steady-cpu.pprof")
	}()
	if err := sleep(ctx, watched); err != nil {
		return err
	}
	if b.small() {
		if err := b.comeToRest(ctx); err != nil {
			return err
		}
	}
	seen, err1 := b.watch.take()
	end, err2 := b.snapshot(ctx, o)
	if err := errors.Join(err1, err2, <-profiled, o.saveProfile(ctx, "heap?gc=1", "bench-steady-heap.pprof")); err != nil {
		return err
	}
	b.judgeSteady(seen, start, end)
	return nil
}

// small reports whether there are moments when nothing is due.
func (b *bench) small() bool { return b.spread() == 0 }

// renew deletes the tokens of a small fleet and waits for new ones, so that
// nothing is due for a while, and the operator knows all credentials.
func (b *bench) renew(ctx context.Context) error {
	ours := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	if err := inParallel(b.fleet.namespaces(), func(i int) error {
		return b.cluster.Client.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(fmt.Sprintf("%s-%d", b.fleet.prefix, i)), ours)
	}); err != nil {
		return err
	}
	if err := local.Until(ctx, time.Minute, func() error {
		minted, err := b.issuer.counted(ctx)
		if err == nil && minted.Issued < b.n {
			err = fmt.Errorf("%d tokens were issued anew", minted.Issued)
		}
		return err
	}); err != nil {
		return err
	}
	if err := b.ready(ctx, b.fleet); err != nil {
		return err
	}
	return b.calm(ctx)
}

// comeToRest makes the next token of every client of a small fleet live so long
// that nothing comes due any more.
func (b *bench) comeToRest(ctx context.Context) error {
	const long = time.Hour
	if err := b.issuer.tell(ctx, order{Prefix: b.fleet.prefix, Clients: b.fleet.n, Lifetime: long}); err != nil {
		return err
	}
	if err := local.Until(ctx, 2*b.lifetime(), func() error {
		short := b.watch.count(func(s sighting) bool { return s.expiresAt.Sub(s.issuedAt) < long })
		if short > 0 {
			return fmt.Errorf("%d tokens will fall due", short)
		}
		return nil
	}); err != nil {
		return err
	}
	return b.calm(ctx)
}

// snapshot is what can be seen from outside at a moment.
type snapshot struct {
	operator, apiserver, etcd usage
	requests                  requests
	minted                    tally
	goroutines                float64
	at                        time.Time
}

func (b *bench) snapshot(ctx context.Context, o *operator) (s snapshot, err error) {
	apiserver, err1 := childNamed("kube-apiserver")
	etcd, err2 := childNamed("etcd")
	if err := errors.Join(err1, err2); err != nil {
		return s, err
	}
	var errs [6]error
	s.at = time.Now()
	s.operator, errs[0] = o.usage()
	s.apiserver, errs[1] = usageOf(apiserver)
	s.etcd, errs[2] = usageOf(etcd)
	s.requests, errs[3] = b.apiRequests(ctx)
	s.minted, errs[4] = b.issuer.counted(ctx)
	s.goroutines, errs[5] = o.metric(ctx, "go_goroutines")
	return s, errors.Join(errs[:]...)
}

func (b *bench) judgeSteady(seen observed, start, end snapshot) {
	const s = "steady state"
	n := float64(seen.refreshes)
	perThousand := func(from, to usage) float64 { return (to.cpu - from.cpu).Seconds() / n * 1000 }
	delta := end.requests.since(start.requests)
	// For refreshes in progress at either end of the period, one write may be
	// missing or extra.
	rounded := func(v float64) float64 { return math.Round(v*100) / 100 }
	b.report.value(s, "refreshes", "tokens", n, none)
	b.report.value(s, "lateness p50", "s", seen.quantile(.5), none)
	b.report.value(s, "lateness p99", "s", seen.quantile(.99), below(1))
	b.report.value(s, "lateness max", "s", seen.quantile(1), none)
	b.report.value(s, "seconds that Secrets held expired tokens", "s", seen.expired.Seconds(), exactly(0))
	b.report.value(s, "API writes per refresh", "requests", rounded(delta.writes()/n), exactly(2))
	b.report.value(s, "API reads per refresh", "requests", rounded(delta.reads()/n), exactly(0))
	b.report.value(s, "tokens minted per refresh", "tokens", rounded(float64(end.minted.Issued-start.minted.Issued)/n), exactly(1))
	b.report.value(s, "tokens minted twice within 2 s", "tokens", float64(end.minted.Twice-start.minted.Twice), exactly(0))
	b.report.ratio(s, "the operator's CPU per 1,000 refreshes", "s", perThousand(start.operator, end.operator),
		b.floor.Refresh.CPUSeconds/float64(b.n)*1000, atMost(2))
	b.report.value(s, "the API server's CPU per 1,000 refreshes", "s", perThousand(start.apiserver, end.apiserver), none)
	b.report.value(s, "etcd's CPU per 1,000 refreshes", "s", perThousand(start.etcd, end.etcd), none)
	// Only after a while is there nothing left to grow into.
	steady, flat := none, none
	if end.at.Sub(start.at) >= 10*time.Minute {
		steady, flat = atMost(5), atMost(1.05)
	}
	b.report.value(s, "goroutines more than after the warm-up", "goroutines", end.goroutines-start.goroutines, steady)
	b.report.ratio(s, "resident memory, beside after the warm-up", "MiB", end.operator.resident, start.operator.resident, flat)
}

// restart stops the operator and starts a new one right after the cold start,
// when all tokens are valid and none is due.
func (b *bench) restart(ctx context.Context) error {
	o := b.leader()
	if o == nil {
		return errNoFleet
	}
	if err := b.stopOperator(o); err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	listing, err := b.listEverything(ctx)
	if err != nil {
		return err
	}
	before, err := b.apiRequests(ctx)
	if err != nil {
		return err
	}
	if o, err = b.startOperator(ctx); err != nil {
		return err
	}
	ready := time.Since(o.started)
	if err := o.looked(ctx, "m2mclient", b.n); err != nil {
		return err
	}
	idle := time.Since(o.started)
	minted, err1 := b.issuer.counted(ctx)
	after, err2 := b.apiRequests(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	delta := after.since(before)
	const s = "restart"
	b.report.value(s, "tokens minted", "tokens", float64(minted.Issued), exactly(0))
	b.report.value(s, "token requests", "requests", float64(minted.TokenRequests), exactly(0))
	b.report.value(s, "API writes", "requests", delta.writes()-delta.sum(writesOf("events")), exactly(0))
	b.report.value(s, "events, of the leader's election", "requests", delta.sum(writesOf("events")), none)
	b.report.value(s, "API reads of single objects", "requests", delta.sum(func(k request) bool { return k.verb == "GET" && k.resource != "configmaps" }), exactly(0))
	b.report.ratio(s, "time until ready and leading", "s", ready.Seconds(), listing.Seconds(), none)
	b.report.value(s, "time until every client was looked at", "s", idle.Seconds(), none)
	return nil
}

// listEverything fetches once everything that the operator caches of the clients,
// and so measures how long that takes.
func (b *bench) listEverything(ctx context.Context) (time.Duration, error) {
	started := time.Now()
	metadata := &metav1.PartialObjectMetadataList{}
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := errors.Join(
		b.cluster.Client.List(ctx, &v1alpha1.M2MClientList{}),
		b.cluster.Client.List(ctx, &corev1.SecretList{}, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}),
		b.cluster.Client.List(ctx, metadata))
	return time.Since(started), err
}

var errNoFleet = errors.New("there is no fleet: run the scenario cold start as well")

// leader returns the running operator, nil for none.
func (b *bench) leader() *operator {
	for i := len(b.operators) - 1; i >= 0; i-- {
		if b.operators[i].process.Running() == nil {
			return b.operators[i]
		}
	}
	return nil
}

// calm waits until the API server has had no requests for a moment.
func (b *bench) calm(ctx context.Context) error {
	last, since := -1.0, time.Now()
	return local.Until(ctx, b.lifetime(), func() error {
		r, err := b.apiRequests(ctx)
		if err != nil {
			return err
		}
		if n := r.writes() + r.reads(); n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) < time.Second {
			return errors.New("the API server is being asked for something")
		}
		return nil
	})
}
