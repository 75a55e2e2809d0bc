// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestFollower(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	object := func(namespace, name, value string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"key": value}}
	}
	after := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	f := newFollower()
	f.saw(watch.Added, object("a", "bundle", "old"), after(0))

	f.begin("bundle", func(c *corev1.ConfigMap) bool { return c.Data["key"] == "new" })
	f.saw(watch.Modified, object("a", "bundle", "new"), after(1))
	f.saw(watch.Modified, object("b", "bundle", "half"), after(2))
	f.saw(watch.Modified, object("b", "bundle", "new"), after(3))
	f.saw(watch.Modified, object("a", "bundle", "new"), after(4)) // a repetition, to be ignored
	f.saw(watch.Modified, object("c", "bundle", "half"), after(5))
	f.saw(watch.Modified, object("a", "another", "new"), after(6))
	f.saw(watch.Deleted, object("c", "bundle", "new"), after(7))
	got, err := f.seen()
	if want := (arrival{holding: 2, last: after(3), writes: 5, most: 2}); got != want || err != nil {
		t.Errorf("seen is %+v (%v), want %+v", got, err, want)
	}
	if c := f.get(client.ObjectKey{Namespace: "a", Name: "bundle"}); c == nil || c.Data["key"] != "new" {
		t.Errorf("the bundle in a is %v", c)
	}
	if c := f.get(client.ObjectKey{Namespace: "c", Name: "bundle"}); c != nil {
		t.Errorf("the bundle in c is deleted, and seen as %v", c)
	}

	f.begin("bundle", func(*corev1.ConfigMap) bool { return true })
	if got, _ := f.seen(); got != (arrival{}) {
		t.Errorf("begun anew, it has seen %+v", got)
	}
	f.failed = errors.New("the watch has ended")
	if err := f.await(t.Context(), 0, 0); err == nil {
		t.Error("nobody is told that the watch has ended")
	}
}
