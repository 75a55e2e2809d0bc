// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	// fast is the name of the authorization server of most scenarios, and of its
	// API. Its budget is the largest that a spec can state, so that no budget
	// hides what is slow.
	fast       = "fast"
	fastBudget = 10_000
)

// prepare starts the control plane and the issuer, and installs what the operator needs.
func (b *bench) prepare(ctx context.Context) (err error) {
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "m2m-bench-"); err != nil {
		return err
	}
	b.onCleanUp(func() error { return os.RemoveAll(b.dir) })
	b.cluster, err = local.StartCluster(b.dir)
	if b.cluster != nil {
		b.onCleanUp(b.cluster.Stop)
	}
	if err != nil {
		return err
	}
	if b.issuer, err = startIssuer(); err != nil {
		return err
	}
	b.onCleanUp(b.issuer.process.Stop)
	if _, err := b.cluster.InstallOperator(ctx); err != nil {
		return err
	}
	if err := b.declare(ctx, fast, b.issuer, fastBudget); err != nil {
		return err
	}
	b.watch = newObserver(b.cluster.Client)
	watching, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { b.watch.run(watching); close(watched) }()
	b.onCleanUp(func() error { cancel(); <-watched; return nil })

	if err := b.takeSample(ctx); err != nil {
		return fmt.Errorf("take a sample of what the operator writes: %w", err)
	}
	return nil
}

func (b *bench) samplePath() string { return filepath.Join(b.dir, "sample.json") }

// takeSample lets the operator serve one client, and keeps what it wrote.
func (b *bench) takeSample(ctx context.Context) error {
	one := fleet{prefix: "sample", n: 1, server: fast}
	if err := b.createCredentials(ctx, one, b.issuer, 5*time.Minute, 0); err != nil {
		return err
	}
	if err := b.createClients(ctx, one); err != nil {
		return err
	}
	o, err := b.startOperator(ctx)
	if err != nil {
		return err
	}
	if err := b.ready(ctx, one); err != nil {
		return err
	}
	var s sample
	if err := b.cluster.Client.Get(ctx, one.key(0), &s.Client); err != nil {
		return err
	}
	key := client.ObjectKey{Namespace: one.key(0).Namespace, Name: s.Client.SecretName()}
	if err := b.cluster.Client.Get(ctx, key, &s.Secret); err != nil {
		return err
	}
	var events eventsv1.EventList
	if err := local.Until(ctx, 10*time.Second, func() error {
		err := b.cluster.Client.List(ctx, &events, client.InNamespace(one.key(0).Namespace))
		if err == nil && len(events.Items) == 0 {
			err = errors.New("there is no event yet")
		}
		return err
	}); err != nil {
		return err
	}
	s.Events = events.Items
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.samplePath(), content, 0o600); err != nil {
		return err
	}
	return errors.Join(b.stopOperator(o), b.remove(ctx, one))
}

// takeFloor measures the floor for a fleet of the size that is measured next, while
// no operator runs. A second call changes nothing.
func (b *bench) takeFloor(ctx context.Context) error {
	if b.floor != (yardstick{}) {
		return nil
	}
	f := fleet{prefix: "floor", n: b.n, server: fast}
	if err := b.createCredentials(ctx, f, b.issuer, 5*time.Minute, 0); err != nil {
		return err
	}
	if err := b.createClients(ctx, f); err != nil {
		return err
	}
	y, err := b.measureFloor(ctx, f, b.issuer)
	if err != nil {
		return err
	}
	b.floor = y
	b.say("the floor: first tokens of %d clients in %.1f s, refreshed in %.1f s with %.2f s of CPU", b.n, y.Create.Seconds, y.Refresh.Seconds, y.Refresh.CPUSeconds)
	return b.remove(ctx, f)
}

// ready waits until every client of a fleet is ready.
func (b *bench) ready(ctx context.Context, f fleet) error {
	mine := map[string]bool{}
	for i := range f.namespaces() {
		mine[fmt.Sprintf("%s-%d", f.prefix, i)] = true
	}
	if err := local.Until(ctx, 15*time.Minute, func() error {
		if n := b.watch.count(func(s sighting) bool { return mine[s.client.Namespace] }); n < f.n {
			return fmt.Errorf("%d of %d clients have a token", n, f.n)
		}
		return nil
	}); err != nil {
		return err
	}
	return local.Until(ctx, time.Minute, func() error {
		var clients v1alpha1.M2MClientList
		if err := b.cluster.Client.List(ctx, &clients); err != nil {
			return err
		}
		n := 0
		for i := range clients.Items {
			c := &clients.Items[i]
			if mine[c.Namespace] && meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
				n++
			}
		}
		if n < f.n {
			return fmt.Errorf("%d of %d clients are ready", n, f.n)
		}
		return nil
	})
}

// machine describes the machine that the benchmark runs on.
func machine() string {
	model := "an unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s/%s, %s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format(time.DateOnly))
}

func writeAll(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
