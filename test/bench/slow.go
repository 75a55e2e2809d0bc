// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// slowness is how long the slow authorization server takes per request.
const slowness = 5 * time.Second

// slowServer compares how late the tokens of one authorization server are, alone
// and beside a slow server with the same number of clients.
func (b *bench) slowServer(ctx context.Context) error {
	n := max(50, min(1000, b.n/10))
	lifetime := 2 * b.lifetime() / 5
	quick := fleet{prefix: "quick", n: n, server: fast}
	if err := b.clear(ctx); err != nil {
		return err
	}
	if _, err := b.startOperator(ctx); err != nil {
		return err
	}
	if err := b.createCredentials(ctx, quick, b.issuer, lifetime, 0); err != nil {
		return err
	}
	if err := b.createClients(ctx, quick); err != nil {
		return err
	}
	if err := b.ready(ctx, quick); err != nil {
		return err
	}
	alone, err := b.lateness(ctx, quick, lifetime)
	if err != nil {
		return err
	}

	late, err := startIssuer()
	if err != nil {
		return err
	}
	b.onCleanUp(late.process.Stop)
	if err := b.declare(ctx, "slow", late, fastBudget); err != nil {
		return err
	}
	patient := fleet{prefix: "patient", n: n, server: "slow"}
	if err := b.createCredentials(ctx, patient, late, lifetime, 0); err != nil {
		return err
	}
	if err := late.tell(ctx, order{Delay: slowness}); err != nil {
		return err
	}
	if err := b.createClients(ctx, patient); err != nil {
		return err
	}
	beside, err := b.lateness(ctx, quick, lifetime)
	if err != nil {
		return err
	}
	asked, err := late.counted(ctx)
	if err != nil {
		return err
	}
	const s = "slow server"
	b.report.value(s, "requests to the slow server meanwhile", "requests", float64(asked.TokenRequests), none)
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", .5}, {"p99", .99}, {"max", 1}} {
		b.report.value(s, "lateness "+q.name+" at the fast server, alone", "s", alone.quantile(q.share), none)
		// Tokens carry times in whole seconds; a few hundredths are the noise of a run.
		d := beside.quantile(q.share) - alone.quantile(q.share)
		a := atMost(.25)
		if q.share == 1 {
			a = none
		}
		b.report.value(s, "lateness "+q.name+" more beside the slow one", "s", d, a)
	}
	b.report.value(s, "seconds that Secrets of the fast server held expired tokens", "s", beside.expired.Seconds(), exactly(0))
	return errors.Join(b.remove(ctx, quick), b.remove(ctx, patient))
}

// lateness watches the refreshes of one fleet for a while.
func (b *bench) lateness(ctx context.Context, f fleet, while time.Duration) (observed, error) {
	b.watch.reset()
	if err := sleep(ctx, while); err != nil {
		return observed{}, err
	}
	seen, err := b.watch.takeOf(func(namespace string) bool { return strings.HasPrefix(namespace, f.prefix+"-") })
	if err == nil && seen.refreshes < f.n {
		err = fmt.Errorf("only %d tokens were refreshed", seen.refreshes)
	}
	return seen, err
}
