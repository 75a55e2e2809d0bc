// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	crowd         = "crowd"  // prefix of the namespaces of objects that do not concern the operator
	foreignSecret = 10 << 10 // bytes

	// calmFor is how long memory must not grow to count as settled.
	calmFor = 20 * time.Second
)

// memory compares the operator's memory with the fleet alone and with three times
// as many foreign Secrets and as many foreign pods beside it. Each figure is that
// of a fresh process.
func (b *bench) memory(ctx context.Context) error {
	if b.leader() == nil {
		return errNoFleet
	}
	alone, err := b.freshUsage(ctx)
	if err != nil {
		return err
	}
	if err := b.createCrowd(ctx, 3*b.n, b.n); err != nil {
		return err
	}
	there, err := b.leader().usage()
	if err != nil {
		return err
	}
	crowded, err := b.freshUsage(ctx)
	if err != nil {
		return err
	}
	const s = "memory"
	b.report.value(s, "resident memory", "MiB", alone.resident, below(150))
	b.report.value(s, "its peak", "MiB", alone.peak, none)
	b.report.ratio(s, "resident memory beside foreign Secrets and pods", "MiB", crowded.resident, alone.resident, below(1.1))
	b.report.value(s, "its peak beside them", "MiB", crowded.peak, none)
	b.report.ratio(s, "resident memory while they were created", "MiB", there.resident, alone.resident, none)
	return b.removeCrowd(ctx)
}

// freshUsage starts a new operator and returns its usage once it has settled.
func (b *bench) freshUsage(ctx context.Context) (u usage, err error) {
	if err := b.stopOperator(b.leader()); err != nil {
		return u, err
	}
	o, err := b.startOperator(ctx)
	if err != nil {
		return u, err
	}
	if u, err = settled(ctx, o, calmFor); err != nil {
		return u, err
	}
	return u, o.saveProfile(ctx, "heap?gc=1", "bench-memory-heap.pprof")
}

func (b *bench) crowdNamespaces() int { return max(1, b.n/perNamespace) }

// createCrowd makes Secrets and pods like those that fill a cluster.
func (b *bench) createCrowd(ctx context.Context, secrets, pods int) error {
	if err := b.createNamespaces(ctx, crowd, b.crowdNamespaces()); err != nil {
		return err
	}
	namespace := func(i int) string { return fmt.Sprintf("%s-%d", crowd, i%b.crowdNamespaces()) }
	content := []byte(strings.Repeat("x", foreignSecret))
	labels := map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/instance": "shop-1", "app.kubernetes.io/managed-by": "Helm"}
	return errors.Join(
		inParallel(secrets, func(i int) error {
			return b.cluster.Client.Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: fmt.Sprintf("foreign-%05d", i), Labels: labels},
				Data:       map[string][]byte{"content": content},
			})
		}),
		inParallel(pods, func(i int) error {
			return b.cluster.Client.Create(ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: fmt.Sprintf("foreign-7d9c6b5f4-%05d", i), Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example.com/shop:1"}}},
			})
		}))
}

func (b *bench) removeCrowd(ctx context.Context) error {
	return inParallel(b.crowdNamespaces(), func(i int) error {
		in := client.InNamespace(fmt.Sprintf("%s-%d", crowd, i))
		return errors.Join(
			b.cluster.Client.DeleteAllOf(ctx, &corev1.Secret{}, in),
			b.cluster.Client.DeleteAllOf(ctx, &corev1.Pod{}, in, client.GracePeriodSeconds(0)),
		)
	})
}
