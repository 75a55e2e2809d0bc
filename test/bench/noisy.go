// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	// shared is the name of the authorization server that everybody uses, and of its API.
	shared = "shared"
	// own is the name of the authorization servers that noisy namespaces have.
	own = "own"

	healthyNamespaces = 4
	healthyLifetime   = 2 * time.Minute
	listening         = healthyLifetime * 3 / 2
	newcomers         = 12 // healthy clients that appear while we listen

	drawl           = 9 * time.Second // of the noisy namespaces' own server
	drawledLifetime = time.Second
	drawledAccesses = 16
	credentialEvery = 3 * time.Second

	// The operator accepts this many refusals of a namespace at once, and then
	// one per interval.
	refusedAtOnce = 5
	refusedEvery  = 30 * time.Second
	// longestTrouble is by how much the failures of others may delay a request.
	longestTrouble = 30 * time.Second
)

// neighbourhood is who takes part. All namespaces share one server; the last of
// the healthy clients are the newcomers.
type neighbourhood struct {
	shared, slow *issuer
	budget       int32 // budget that the platform gives the shared server
	healthy      fleet
	residents    int // healthy clients that exist from the beginning

	drawled, refused, failing, garbled, postponed, rotating, flood fleet
}

func (h *neighbourhood) noisy() []fleet {
	return []fleet{h.drawled, h.refused, h.failing, h.garbled, h.postponed, h.rotating, h.flood}
}

// troubles are the shared server's answers to some of the noisy.
func (h *neighbourhood) troubles() []trouble {
	return []trouble{
		{Prefix: h.refused.prefix, Status: http.StatusUnauthorized, Error: "invalid_client"},
		{Prefix: h.failing.prefix, Status: http.StatusInternalServerError},
		{Prefix: h.garbled.prefix},
		{Prefix: h.postponed.prefix, Status: http.StatusTooManyRequests, RetryAfter: "600"},
	}
}

func (b *bench) newNeighbourhood() *neighbourhood {
	n := max(50, min(1000, b.n/10))
	all := n + 2*newcomers
	ownServer := func(_ int, c *v1alpha1.M2MClient) {
		c.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindAuthorizationServer, Name: own}
	}
	noise := func(prefix string, n int) fleet { return fleet{prefix: prefix, n: n, server: shared, per: n} }
	// If it did the same to two namespaces, the trouble might be the server's own.
	twice := func(prefix string, n int) fleet {
		f := noise(prefix, n)
		f.per = (n + 1) / 2
		return f
	}
	h := &neighbourhood{
		budget:    int32(max(20, n/10)),
		healthy:   fleet{prefix: "healthy", n: all, server: shared, per: (all + healthyNamespaces - 1) / healthyNamespaces},
		residents: n,
		drawled:   twice("drawled", 2*operatorWorkers), refused: noise("refused", b.n/4),
		failing: twice("failing", b.n/12), garbled: twice("garbled", b.n/12), postponed: twice("postponed", b.n/12),
		rotating: noise("rotating", b.n/4), flood: noise("flood", b.n),
	}
	h.drawled.change = func(i int, c *v1alpha1.M2MClient) {
		ownServer(i, c)
		c.Spec.Access = nil
		for k := range drawledAccesses {
			c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
				Key: v1alpha1.AccessKey(fmt.Sprintf("k-%d", k)), Resource: identifier, Scopes: []v1alpha1.ScopeName{scope},
			})
		}
	}
	h.rotating.shares, h.rotating.change = true, ownServer
	h.flood.shares = true
	return h
}

// noisyNeighbour compares how the healthy clients of some namespaces fare while the
// others are quiet, and while the others do all of this: have a slow server of their
// own and tokens that live for a second; have clients that the shared server refuses,
// fails for, answers with garbage or asks to stay away; have a server object of their
// own with a budget without bounds and a credential that changes every moment; and
// create ever more clients.
func (b *bench) noisyNeighbour(ctx context.Context) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	if _, err := b.startOperator(ctx); err != nil {
		return err
	}
	h, err := b.moveIn(ctx)
	if err != nil {
		return err
	}
	quiet, err := b.listen(ctx, h, h.residents)
	if err != nil {
		return err
	}
	noise, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- b.makeNoise(noise, h) }()
	loud, err := b.listen(ctx, h, h.residents+newcomers)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	drawled, err := h.slow.counted(ctx)
	if err != nil {
		return err
	}
	b.judgeNoise(h, quiet, loud, drawled)
	return errors.Join(b.clear(ctx), b.moveOut(ctx, h))
}

// moveIn makes everything that the scenario needs, except the noisy clients.
func (b *bench) moveIn(ctx context.Context) (*neighbourhood, error) {
	h := b.newNeighbourhood()
	for _, at := range []**issuer{&h.shared, &h.slow} {
		i, err := startIssuer()
		if err != nil {
			return nil, err
		}
		b.onCleanUp(i.process.Stop)
		*at = i
	}
	if err := b.declare(ctx, shared, h.shared, h.budget); err != nil {
		return nil, err
	}
	if err := b.createCredentials(ctx, h.healthy, h.shared, healthyLifetime, 0); err != nil {
		return nil, err
	}
	for _, f := range h.noisy() {
		at, lifetime := h.shared, time.Hour
		if f.prefix == h.drawled.prefix {
			at, lifetime = h.slow, drawledLifetime
		}
		if err := b.createCredentials(ctx, f, at, lifetime, 0); err != nil {
			return nil, err
		}
	}
	for i := range h.drawled.namespaces() {
		if err := b.declareOwn(ctx, h.drawled.key(i*h.drawled.per).Namespace, h.slow); err != nil {
			return nil, err
		}
	}
	residents := h.healthy
	residents.n = h.residents
	return h, errors.Join(
		b.declareOwn(ctx, h.rotating.key(0).Namespace, h.shared),
		h.slow.tell(ctx, order{Delay: drawl, Reset: true}),
		b.createClients(ctx, residents), b.ready(ctx, residents))
}

// declareOwn makes a namespace's own server, with a budget without bounds.
func (b *bench) declareOwn(ctx context.Context, namespace string, at *issuer) error {
	s := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: own}}
	s.Spec.Issuer, s.Spec.Requests.PerSecond = at.url, fastBudget
	return b.cluster.Client.Create(ctx, s)
}

// moveOut deletes the servers: the scenarios that follow must not meet them.
func (b *bench) moveOut(ctx context.Context, h *neighbourhood) error {
	objects := []client.Object{
		&v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: shared}},
		&v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: apiNamespace, Name: shared}},
	}
	namespaces := []string{h.rotating.key(0).Namespace}
	for i := range h.drawled.namespaces() {
		namespaces = append(namespaces, h.drawled.key(i*h.drawled.per).Namespace)
	}
	for _, n := range namespaces {
		objects = append(objects, &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: n, Name: own}})
	}
	return inParallel(len(objects), func(i int) error { return b.cluster.Client.Delete(ctx, objects[i]) })
}

// makeNoise goes on until the context ends.
func (b *bench) makeNoise(ctx context.Context, h *neighbourhood) error {
	var wait sync.WaitGroup
	all := make([]error, 3)
	for i, do := range []func(context.Context, *neighbourhood) error{b.createNoisy, b.changeCredential, b.pourIn} {
		wait.Go(func() { all[i] = do(ctx, h) })
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil // it was cut short, which is how it is meant to end
	}
	return errors.Join(all...)
}

// createNoisy makes all noisy clients but the flood.
func (b *bench) createNoisy(ctx context.Context, h *neighbourhood) error {
	fleets := h.noisy()
	return withWorkers(len(fleets), len(fleets), func(i int) error {
		if fleets[i].prefix == h.flood.prefix {
			return nil
		}
		return withWorkers(hands/len(fleets), fleets[i].n, func(k int) error { return b.cluster.Client.Create(ctx, fleets[i].object(k)) })
	})
}

// changeCredential changes the credential that many clients share, over and over.
// Each one works, so all of them get a new token each time.
func (b *bench) changeCredential(ctx context.Context, h *neighbourhood) error {
	ids := [2]*corev1.Secret{h.rotating.credential(0), h.rotating.credential(1)}
	for round := 1; ; round++ {
		if err := sleep(ctx, credentialEvery); err != nil {
			return nil
		}
		next := ids[round%2]
		next.Name, next.ResourceVersion = ids[0].Name, ""
		if err := b.cluster.Client.Update(ctx, next); err != nil {
			return err
		}
	}
}

// pourIn makes half of the flood at once, and the rest for as long as the noise lasts.
func (b *bench) pourIn(ctx context.Context, h *neighbourhood) error {
	f := h.flood
	half := f.n / 2
	if err := withWorkers(hands/2, half, func(i int) error { return b.cluster.Client.Create(ctx, f.object(i)) }); err != nil {
		return err
	}
	for i := half; i < f.n; i++ {
		if err := b.cluster.Client.Create(ctx, f.object(i)); err != nil {
			return err
		}
		if err := sleep(ctx, listening/time.Duration(f.n-half)); err != nil {
			return nil
		}
	}
	return nil
}

// heard is how the healthy fared over a period.
type heard struct {
	observed
	first   []time.Duration // time until the newcomers had a token, sorted
	starved int             // newcomers that had none at the end
	minted  tally           // requests at the shared server
	while   time.Duration
}

// listen watches the healthy clients for a period. Meanwhile it creates the
// newcomers, whose numbers in the fleet begin at from.
func (b *bench) listen(ctx context.Context, h *neighbourhood, from int) (r heard, err error) {
	if err := h.shared.tell(ctx, order{Troubles: h.troubles(), Reset: true}); err != nil {
		return r, err
	}
	f, started := h.healthy, time.Now()
	over := started.Add(listening)
	b.watch.reset()
	r.first = make([]time.Duration, newcomers)
	arrived := make([]bool, newcomers)
	if err := withWorkers(newcomers+1, newcomers+1, func(i int) (err error) {
		if i == newcomers {
			return b.askWhy(ctx, f, over)
		}
		if err := sleep(ctx, time.Duration(i)*listening/(newcomers+1)); err != nil {
			return err
		}
		r.first[i], arrived[i], err = b.firstToken(ctx, f.object(from+i), over)
		return err
	}); err != nil {
		return r, err
	}
	if err := sleep(ctx, time.Until(over)); err != nil {
		return r, err
	}
	var err1, err2 error
	r.observed, err1 = b.watch.takeOf(func(namespace string) bool { return isOf(f, namespace) })
	r.while = time.Since(started)
	r.minted, err2 = h.shared.counted(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return r, err
	}
	if r.refreshes < h.residents {
		return r, fmt.Errorf("only %d tokens were refreshed", r.refreshes)
	}
	for _, there := range arrived {
		if !there {
			r.starved++
		}
	}
	slices.Sort(r.first)
	return r, nil
}

func isOf(f fleet, namespace string) bool { return fleetOf(namespace) == f.prefix }

// firstToken makes a client and returns how long it waited for its token, or for
// how long in vain.
func (b *bench) firstToken(ctx context.Context, c *v1alpha1.M2MClient, over time.Time) (took time.Duration, arrived bool, err error) {
	secret := client.ObjectKey{Namespace: c.Namespace, Name: c.SecretName()}
	started := time.Now()
	if err := b.cluster.Client.Create(ctx, c); err != nil {
		return 0, false, err
	}
	for !b.watch.holds(secret) {
		if time.Now().After(over) {
			return time.Since(started), false, nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, false, err
		}
	}
	return time.Since(started), true, nil
}

// askWhy looks now and then at what the clients of a fleet wait for, and reports it at the end.
func (b *bench) askWhy(ctx context.Context, f fleet, over time.Time) error {
	waits, looks := map[string]int{}, 0
	for ; time.Now().Before(over.Add(-5 * time.Second)); looks++ {
		if err := sleep(ctx, 5*time.Second); err != nil {
			return err
		}
		for i := range f.namespaces() {
			var list v1alpha1.M2MClientList
			if err := b.cluster.Client.List(ctx, &list, client.InNamespace(f.key(i*f.perNamespace()).Namespace)); err != nil {
				return err
			}
			for k := range list.Items {
				if c := meta.FindStatusCondition(list.Items[k].Status.Conditions, v1alpha1.ConditionFresh); c != nil && c.Status != metav1.ConditionTrue {
					waits[c.Reason+": "+c.Message]++
				}
			}
		}
	}
	for _, why := range slices.Sorted(maps.Keys(waits)) {
		b.say("  seen of %s clients %d times in %d looks: %s", f.prefix, waits[why], looks, why)
	}
	return nil
}

func (b *bench) judgeNoise(h *neighbourhood, quiet, loud heard, drawled tally) {
	const s = "noisy neighbour"
	noisy := 0
	for _, f := range h.noisy() {
		noisy += f.n
	}
	b.report.value(s, "healthy clients", "clients", float64(h.residents), none)
	b.report.value(s, "noisy clients", "clients", float64(noisy), none)
	b.report.value(s, "refreshes of healthy clients, quiet", "tokens", float64(quiet.refreshes), none)
	b.report.value(s, "refreshes of healthy clients, noisy", "tokens", float64(loud.refreshes), none)
	for _, q := range []struct {
		name  string
		share float64
		more  aim
	}{{"p50", .5, atMost(.25)}, {"p99", .99, atMost(1)}, {"max", 1, atMost(longestTrouble.Seconds())}} {
		b.report.value(s, "lateness "+q.name+", quiet", "s", quiet.quantile(q.share), none)
		b.report.value(s, "lateness "+q.name+" more, noisy", "s", loud.quantile(q.share)-quiet.quantile(q.share), q.more)
	}
	b.report.value(s, "seconds that healthy Secrets held expired tokens", "s", loud.expired.Seconds(), atMost(0))
	for _, q := range []struct {
		name  string
		share float64
		more  aim
	}{{"p50", .5, atMost(1)}, {"max", 1, atMost(longestTrouble.Seconds())}} {
		b.report.value(s, "first token of a healthy client after, "+q.name+", quiet", "s", quantile(quiet.first, q.share), none)
		b.report.value(s, "first token of a healthy client after, "+q.name+" more, noisy", "s", quantile(loud.first, q.share)-quantile(quiet.first, q.share), q.more)
	}
	b.report.value(s, "new healthy clients without a token in the end", "clients", float64(loud.starved), atMost(0))

	budget, while := float64(h.budget), loud.while.Seconds()
	b.report.value(s, "requests per second at the shared server, quiet", "", float64(quiet.minted.TokenRequests)/quiet.while.Seconds(), none)
	b.report.value(s, "requests per second at the shared server, noisy", "", float64(loud.minted.TokenRequests)/while, none)
	b.report.value(s, "the platform's budget per second", "", budget, none)
	b.report.value(s, "requests ÷ budget and burst", "", float64(loud.minted.TokenRequests)/(budget*(while+1)), atMost(1))
	b.report.value(s, "most requests in ten seconds ÷ budget and burst", "", float64(loud.minted.PeakTen)/(11*budget), atMost(1))
	b.report.value(s, "refused requests", "requests", float64(loud.minted.Requests[h.refused.prefix]),
		atMost(float64(operatorWorkers/2+refusedAtOnce+int(loud.while/refusedEvery))))
	for _, f := range []fleet{h.failing, h.garbled, h.postponed, h.rotating, h.flood} {
		b.report.value(s, "requests of the "+f.prefix, "requests", float64(loud.minted.Requests[f.prefix]), none)
	}
	b.report.value(s, "requests to the slow server", "requests", float64(drawled.TokenRequests), none)
}
