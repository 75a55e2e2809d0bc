// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// leaderKilled kills the leader while a second replica runs, and watches until
// every token has come due.
func (b *bench) leaderKilled(ctx context.Context) error {
	leader := b.leader()
	if leader == nil {
		return errNoFleet
	}
	if b.small() {
		if err := b.issuer.tell(ctx, order{Prefix: b.fleet.prefix, Clients: b.fleet.n, Lifetime: b.lifetime(), Reset: true}); err != nil {
			return err
		}
		if err := b.renew(ctx); err != nil {
			return err
		}
	}
	// The webhook's address is the leader's.
	if _, err := b.startReplica(ctx, "--webhook=false"); err != nil {
		return err
	}
	before, err := b.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	b.watch.reset()
	killed := time.Now()
	leader.process.Kill()
	if err := local.Until(ctx, time.Minute, func() error {
		after, err := b.cluster.Leader(ctx)
		if err == nil && after == before {
			err = errors.New("the lease is the killed leader's")
		}
		return err
	}); err != nil {
		return err
	}
	takenOver := time.Since(killed)
	if err := sleep(ctx, b.lifetime()*7/10); err != nil {
		return err
	}
	seen, err1 := b.watch.take()
	minted, err2 := b.issuer.counted(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	const s = "leader killed"
	b.report.value(s, "time until another one leads", "s", takenOver.Seconds(), none)
	b.report.value(s, "seconds that Secrets held expired tokens", "s", seen.expired.Seconds(), exactly(0))
	b.report.value(s, "refreshes", "tokens", float64(seen.refreshes), none)
	b.report.value(s, "lateness max", "s", seen.quantile(1), none)
	// A token issued as the leader died is lost with it, and issued again.
	b.report.value(s, "tokens minted in addition", "tokens", float64(minted.Issued-seen.refreshes), atMost(operatorWorkers))
	return nil
}

// earlyPercent is the refresh percentage of the outage's clients that follow the
// advice for outages; the others keep the default.
const earlyPercent = 50

// outageBudget is the server's budget while it returns: the operator's default.
const outageBudget = 100

// outage makes the authorization server fail for two fifths of the tokens'
// lifetime. Every second client refreshes its token at half of its lifetime: with
// the default, a token that comes due as the outage begins expires before the
// outage ends.
func (b *bench) outage(ctx context.Context) error {
	if b.leader() == nil {
		return errNoFleet
	}
	lifetime := 2 * b.lifetime()
	down := lifetime * 2 / 5
	if err := b.prepareOutage(ctx, lifetime); err != nil {
		return err
	}
	b.watch.reset()
	if err := b.issuer.tell(ctx, order{Reset: true, Down: true}); err != nil {
		return err
	}
	if err := sleep(ctx, down); err != nil {
		return err
	}
	during, err := b.issuer.counted(ctx)
	if err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	returned := time.Now()
	if err := local.Until(ctx, lifetime, func() error {
		late := b.watch.count(func(s sighting) bool { return time.Since(s.refreshAt) > 2*time.Second })
		if late > 0 {
			return fmt.Errorf("%d tokens are late", late)
		}
		return nil
	}); err != nil {
		return err
	}
	drained := time.Since(returned)
	after, err1 := b.issuer.counted(ctx)
	byDefault, early := b.watch.expiredBy(func(k client.ObjectKey) bool { return !isEarly(k.Name) }), b.watch.expiredBy(func(k client.ObjectKey) bool { return isEarly(k.Name) })
	_, err2 := b.watch.take()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	const s = "outage"
	// Closed, the breaker lets five requests fail, and those in flight; open, one a
	// minute, and more at first.
	b.report.value(s, "token requests during the outage", "requests", float64(during.TokenRequests), atMost(operatorWorkers+5+down.Minutes()+6))
	b.report.value(s, "most requests in a second after it ÷ budget and burst", "", float64(after.PeakSecond)/(2*outageBudget), atMost(1))
	b.report.value(s, "most requests in ten seconds after it ÷ budget and burst", "", float64(after.PeakTen)/(11*outageBudget), atMost(1))
	b.report.value(s, "time until no token is late", "s", drained.Seconds(), none)
	b.report.value(s, fmt.Sprintf("seconds that Secrets held expired tokens, refreshed at %d %%", earlyPercent), "s", early.Seconds(), atMost(0))
	b.report.value(s, fmt.Sprintf("seconds that Secrets held expired tokens, refreshed at %d %% (the default)", refresh.DefaultAtPercent), "s", byDefault.Seconds(), atMost(0))
	return b.budget(ctx, fast, fastBudget)
}

// isEarly reports whether a client follows the advice for outages.
func isEarly(name string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "c-"))
	return err == nil && n%2 == 0
}

// prepareOutage gives all tokens the lifetime, and waits until they come due.
func (b *bench) prepareOutage(ctx context.Context, lifetime time.Duration) error {
	b.watch.setPolicy(func(k client.ObjectKey) refresh.Policy {
		if isEarly(k.Name) && strings.HasPrefix(k.Namespace, b.fleet.prefix+"-") {
			return refresh.Policy{AtPercent: earlyPercent}
		}
		return refresh.Policy{}
	})
	if err := inParallel(b.fleet.n, func(i int) error {
		c := b.fleet.object(i)
		if !isEarly(c.Name) {
			return nil
		}
		before := c.DeepCopy()
		c.Spec.Refresh.AtPercent = earlyPercent
		return b.cluster.Client.Patch(ctx, c, client.MergeFrom(before))
	}); err != nil {
		return err
	}
	if err := b.budget(ctx, fast, outageBudget); err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Prefix: b.fleet.prefix, Clients: b.fleet.n, Lifetime: lifetime}); err != nil {
		return err
	}
	if err := local.Until(ctx, 3*lifetime, func() error {
		short := b.watch.count(func(s sighting) bool { return s.expiresAt.Sub(s.issuedAt) < lifetime })
		if short > 0 {
			return fmt.Errorf("%d tokens live for less than %s", short, lifetime)
		}
		return nil
	}); err != nil {
		return err
	}
	// The outage begins when the first of them comes due by default.
	var first time.Time
	for _, s := range b.watch.all() {
		if !isEarly(s.client.Name) && (first.IsZero() || s.refreshAt.Before(first)) {
			first = s.refreshAt
		}
	}
	return sleep(ctx, max(0, time.Until(first)))
}

// budget changes the budget of an authorization server.
func (b *bench) budget(ctx context.Context, server string, perSecond int32) error {
	var s v1alpha1.ClusterAuthorizationServer
	if err := b.cluster.Client.Get(ctx, client.ObjectKey{Name: server}, &s); err != nil {
		return err
	}
	before := s.DeepCopy()
	s.Spec.Requests.PerSecond = perSecond
	return b.cluster.Client.Patch(ctx, &s, client.MergeFrom(before))
}
