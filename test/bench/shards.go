// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// shardNames are the scenario's instances; "" is the one without a shard.
var shardNames = []string{"", "a", "b"}

// shards runs three instances that serve a third of the clients each, and then
// hands the clients of one shard over to another.
func (b *bench) shards(ctx context.Context) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	f := fleet{prefix: "sharded", n: max(90, b.n*3/10), server: fast, change: func(i int, c *v1alpha1.M2MClient) { label(c, shardNames[i%3]) }}
	lifetime, spread := 2*b.lifetime()/5, 2*b.spread()/5
	if err := b.createCredentials(ctx, f, b.issuer, lifetime, spread); err != nil {
		return err
	}
	if err := b.createClients(ctx, f); err != nil {
		return err
	}
	if err := b.allowShards(ctx); err != nil {
		return err
	}
	var instances []*operator
	for _, name := range shardNames {
		flags := []string{"--shards=3"}
		if name != "" {
			flags = append(flags, "--shard="+name)
		}
		o, err := b.startReplica(ctx, flags...)
		if err != nil {
			return err
		}
		instances = append(instances, o)
	}
	if err := b.ready(ctx, f); err != nil {
		return err
	}
	if err := b.issuer.tell(ctx, order{Prefix: f.prefix, Clients: f.n, Lifetime: lifetime, Reset: true}); err != nil {
		return err
	}
	if err := sleep(ctx, (lifetime+spread)*7/10); err != nil { // the first tokens' refresh is the warm-up
		return err
	}
	if err := b.measureShards(ctx, f, instances, lifetime); err != nil {
		return err
	}
	return errors.Join(b.handOver(ctx, f, instances[2], lifetime), b.remove(ctx, f))
}

// allowShards lets the operator hold the shards' leases, as config/components/shards
// does.
func (b *bench) allowShards(ctx context.Context) error {
	var role rbacv1.Role
	if err := b.cluster.Client.Get(ctx, client.ObjectKey{Namespace: local.OperatorNamespace, Name: "m2m-operator-leader-election"}, &role); err != nil {
		return err
	}
	for i, rule := range role.Rules {
		if !slices.Equal(rule.ResourceNames, []string{"m2m-operator"}) {
			continue
		}
		for _, name := range shardNames[1:] {
			role.Rules[i].ResourceNames = append(role.Rules[i].ResourceNames, "m2m-operator-"+name)
		}
		return b.cluster.Client.Update(ctx, &role)
	}
	return errors.New("no rule of the operator's Role is about its lease")
}

func label(c *v1alpha1.M2MClient, shard string) {
	if shard != "" {
		c.Labels = map[string]string{v1alpha1.ShardLabel: shard}
	}
}

// measureShards watches the instances refresh their tokens for a lifetime.
func (b *bench) measureShards(ctx context.Context, f fleet, instances []*operator, lifetime time.Duration) error {
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	var before, after []usage
	for _, o := range instances {
		u, err := o.usage()
		if err != nil {
			return err
		}
		before = append(before, u)
	}
	seen, err := b.lateness(ctx, f, lifetime)
	if err != nil {
		return err
	}
	for _, o := range instances {
		u, err := o.usage()
		if err != nil {
			return err
		}
		after = append(after, u)
	}
	minted, err := b.issuer.counted(ctx)
	if err != nil {
		return err
	}
	const s = "shards"
	for i, name := range shardNames {
		if name == "" {
			name = "none"
		}
		b.report.value(s, "CPU of shard "+name+" per 1,000 refreshes of its own", "s", (after[i].cpu-before[i].cpu).Seconds()/float64(seen.refreshes)*3*1000, none)
		b.report.value(s, "resident memory of shard "+name, "MiB", after[i].resident, none)
	}
	b.report.value(s, "refreshes", "tokens", float64(seen.refreshes), none)
	b.report.value(s, "lateness p99", "s", seen.quantile(.99), below(1))
	b.report.value(s, "tokens minted twice within 2 s", "tokens", float64(minted.Twice), exactly(0))
	return nil
}

// handOver gives the clients of the last shard to the one before it, and then
// stops the last one.
func (b *bench) handOver(ctx context.Context, f fleet, last *operator, lifetime time.Duration) error {
	if err := b.issuer.tell(ctx, order{Reset: true}); err != nil {
		return err
	}
	b.watch.reset()
	started := time.Now()
	from, to := shardNames[2], shardNames[1]
	if err := inParallel(f.n, func(i int) error {
		c := f.object(i)
		if c.Labels[v1alpha1.ShardLabel] != from {
			return nil
		}
		before := c.DeepCopy()
		label(c, to)
		return b.cluster.Client.Patch(ctx, c, client.MergeFrom(before))
	}); err != nil {
		return err
	}
	took := time.Since(started)
	if err := b.stopOperator(last); err != nil {
		return err
	}
	if err := sleep(ctx, lifetime); err != nil {
		return err
	}
	seen, err1 := b.watch.takeOf(func(namespace string) bool { return strings.HasPrefix(namespace, f.prefix+"-") })
	minted, err2 := b.issuer.counted(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	const s = "shards"
	b.report.value(s, fmt.Sprintf("hand-over of %d clients: labels changed in", f.n/3), "s", took.Seconds(), none)
	b.report.value(s, "hand-over: seconds that Secrets held expired tokens", "s", seen.expired.Seconds(), exactly(0))
	b.report.value(s, "hand-over: tokens minted twice within 2 s", "tokens", float64(minted.Twice), exactly(0))
	b.report.value(s, "hand-over: lateness p99", "s", seen.quantile(.99), below(1))
	return nil
}
