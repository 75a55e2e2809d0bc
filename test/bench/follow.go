// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/test/local"
)

// writesCalm is how long nothing must be written before we assume that nothing more is to come.
const writesCalm = 2 * time.Second

// follower watches ConfigMaps from outside: it records when each one first holds
// the awaited content, and how often each is written meanwhile.
type follower struct {
	mu      sync.Mutex
	current map[client.ObjectKey]*corev1.ConfigMap
	failed  error

	// The fields below concern the ConfigMaps of one name, since begin.
	name    string
	holds   func(*corev1.ConfigMap) bool
	writes  map[client.ObjectKey]int
	arrived map[client.ObjectKey]time.Time
	latest  time.Time // write
}

// arrival is what a follower has seen.
type arrival struct {
	holding int       // ConfigMaps seen with the awaited content
	last    time.Time // when the last of them arrived
	writes  int
	most    int // most writes of one ConfigMap
}

func newFollower() *follower {
	return &follower{current: map[client.ObjectKey]*corev1.ConfigMap{}}
}

// follow starts watching the ConfigMaps that the options select, and goes on until
// it is stopped.
func (b *bench) follow(ctx context.Context, chosen ...client.ListOption) (f *follower, stop func(), err error) {
	var list corev1.ConfigMapList
	if err := b.cluster.Client.List(ctx, &list, chosen...); err != nil {
		return nil, nil, fmt.Errorf("list ConfigMaps: %w", err)
	}
	f = newFollower()
	for i := range list.Items {
		f.saw(watch.Added, &list.Items[i], time.Now())
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f.run(ctx, b.cluster.Client, list.ResourceVersion, chosen); err != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.failed = err
		}
	}()
	return f, func() { cancel(); <-ended }, nil
}

// run watches from a version on until the context ends. A busy API server ends
// watches; the next one begins where the last one ended, so that no write is missed.
func (f *follower) run(ctx context.Context, c client.WithWatch, version string, chosen []client.ListOption) error {
	for ctx.Err() == nil {
		from := &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: version}}
		w, err := c.Watch(ctx, &corev1.ConfigMapList{}, append(slices.Clone(chosen), from)...)
		if err != nil {
			return fmt.Errorf("watch ConfigMaps: %w", err)
		}
		for e := range w.ResultChan() {
			c, ok := e.Object.(*corev1.ConfigMap)
			if !ok {
				w.Stop()
				return fmt.Errorf("watch ConfigMaps: %w", apierrors.FromObject(e.Object))
			}
			version = c.ResourceVersion
			f.saw(e.Type, c, time.Now())
		}
	}
	return nil
}

// begin starts waiting for something in the ConfigMaps of a name, and forgets
// what the follower waited for before.
func (f *follower) begin(name string, holds func(*corev1.ConfigMap) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.holds, f.latest = name, holds, time.Time{}
	f.writes, f.arrived = map[client.ObjectKey]int{}, map[client.ObjectKey]time.Time{}
}

// saw records a change of a ConfigMap.
func (f *follower) saw(what watch.EventType, c *corev1.ConfigMap, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := client.ObjectKeyFromObject(c)
	if what == watch.Deleted {
		delete(f.current, key)
		return
	}
	f.current[key] = c
	if f.holds == nil || c.Name != f.name {
		return
	}
	f.writes[key]++
	f.latest = at
	if _, known := f.arrived[key]; !known && f.holds(c) {
		f.arrived[key] = at
	}
}

// seen sums up what was seen since begin.
func (f *follower) seen() (a arrival, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.holding = len(f.arrived)
	for _, at := range f.arrived {
		if at.After(a.last) {
			a.last = at
		}
	}
	for _, n := range f.writes {
		a.writes += n
		a.most = max(a.most, n)
	}
	return a, f.failed
}

// await waits until this many ConfigMaps hold the awaited content.
func (f *follower) await(ctx context.Context, n int, limit time.Duration) error {
	return local.Until(ctx, limit, func() error {
		a, err := f.seen()
		if err == nil && a.holding < n {
			err = fmt.Errorf("%d of %d ConfigMaps hold what they should", a.holding, n)
		}
		return err
	})
}

// calm waits until none has been written for a while.
func (f *follower) calm(ctx context.Context) error {
	return local.Until(ctx, time.Minute, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if time.Since(f.latest) < writesCalm {
			return errors.New("ConfigMaps are being written")
		}
		return nil
	})
}

// get returns a ConfigMap as it was last seen, nil for none.
func (f *follower) get(key client.ObjectKey) *corev1.ConfigMap {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current[key].DeepCopy()
}

// sizeOf returns the size of a ConfigMap's data in bytes.
func sizeOf(c *corev1.ConfigMap) (n int) {
	for key, value := range c.Data {
		n += len(key) + len(value)
	}
	return n
}
