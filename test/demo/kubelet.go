// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// kubelet stands in for the kubelets of the nodes, of which this control plane
// has none: it shows Secrets and ConfigMaps of the API server as files, the way
// pods see them.
//
// It differs from a real one in when: a change is shown within milliseconds, and
// ConfigMaps before any Secret that was written after them. A real kubelet shows
// a change after 60 to 90 seconds, and each node for itself. The operator's part
// is to have the new key in every ConfigMap before it writes a token that needs
// it, and to replace a token long before it expires; the wait in between is the
// node's, and tokens that live for less than a few minutes are too short for it.
type kubelet struct {
	api    volumes
	mounts []mount
	shown  func(m mount, files map[string][]byte) // called after each pass, for each mount
}

// mount is a Secret or ConfigMap that pods see as files below dir.
type mount struct {
	kind            string // Secret or ConfigMap
	namespace, name string
	dir             string
}

func (m mount) String() string { return fmt.Sprintf("%s %s/%s", m.kind, m.namespace, m.name) }

// volumes is what the kubelet needs of the API server.
type volumes interface {
	// Read returns the object's present data, nil if it does not exist.
	Read(context.Context, mount) (map[string][]byte, error)
	// Watch returns a stream that delivers something for each change from now
	// on. It may end at any time.
	Watch(context.Context, mount) (watch.Interface, error)
}

// run shows the mounts and follows their changes until ctx ends, or until an
// error, which it sends to failed.
func (k *kubelet) run(ctx context.Context, failed func(error)) {
	changed := make(chan struct{}, 1)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	for _, m := range k.mounts {
		watchers.Go(func() { k.follow(ctx, m, changed) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if err := k.sync(ctx); err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("show the mounted files: %w", err))
			return
		}
	}
}

// follow signals when a mount may have changed: at the beginning, at every
// event, and when a watch had to be started again.
func (k *kubelet) follow(ctx context.Context, m mount, changed chan<- struct{}) {
	notify := func() {
		select {
		case changed <- struct{}{}:
		default: // a pass is due anyway, and it reads everything
		}
	}
	for ctx.Err() == nil {
		w, err := k.api.Watch(ctx, m)
		notify()
		if err == nil {
			listen(ctx, w.ResultChan(), notify)
			w.Stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// listen calls notify for each event until the stream ends.
func listen(ctx context.Context, events <-chan watch.Event, notify func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				return
			}
			notify()
		}
	}
}

// sync makes one pass. It reads Secrets before ConfigMaps and shows them after:
// if a ConfigMap was written before a Secret, it also shows up before the
// Secret.
func (k *kubelet) sync(ctx context.Context) error {
	content := map[mount]map[string][]byte{}
	for _, kind := range []string{"Secret", "ConfigMap"} {
		for _, m := range k.mounts {
			if m.kind != kind {
				continue
			}
			files, err := k.api.Read(ctx, m)
			if err != nil {
				return err
			}
			content[m] = files
		}
	}
	for _, kind := range []string{"ConfigMap", "Secret"} {
		for _, m := range k.mounts {
			// A pod does not start without its volumes, but keeps what it has if
			// the object goes.
			if m.kind != kind || content[m] == nil {
				continue
			}
			if err := showFiles(m.dir, content[m]); err != nil {
				return err
			}
			k.shown(m, content[m])
		}
	}
	return nil
}

// mountsOf returns what the first container of a pod mounts below a path, as
// directories below root.
func mountsOf(pod *corev1.Pod, path, root string) (all []mount) {
	for _, vm := range pod.Spec.Containers[0].VolumeMounts {
		below, err := filepath.Rel(path, vm.MountPath)
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == vm.Name })
		if err != nil || i < 0 || !filepath.IsLocal(below) {
			continue
		}
		m := mount{namespace: pod.Namespace, dir: filepath.Join(root, below)}
		switch v := pod.Spec.Volumes[i]; {
		case v.Secret != nil:
			m.kind, m.name = "Secret", v.Secret.SecretName
		case v.ConfigMap != nil:
			m.kind, m.name = "ConfigMap", v.ConfigMap.Name
		default:
			continue
		}
		all = append(all, m)
	}
	return all
}

// apiServer reads volumes from a Kubernetes API server.
type apiServer struct{ kubernetes.Interface }

func (a apiServer) Read(ctx context.Context, m mount) (map[string][]byte, error) {
	files := map[string][]byte{}
	var err error
	if m.kind == "Secret" {
		var s *corev1.Secret
		if s, err = a.CoreV1().Secrets(m.namespace).Get(ctx, m.name, metav1.GetOptions{}); err == nil {
			files = s.Data
		}
	} else {
		var c *corev1.ConfigMap
		if c, err = a.CoreV1().ConfigMaps(m.namespace).Get(ctx, m.name, metav1.GetOptions{}); err == nil {
			for name, content := range c.Data {
				files[name] = []byte(content)
			}
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m, err)
	}
	if files == nil {
		files = map[string][]byte{} // it exists and is empty
	}
	return files, nil
}

func (a apiServer) Watch(ctx context.Context, m mount) (watch.Interface, error) {
	only := metav1.ListOptions{FieldSelector: "metadata.name=" + m.name}
	if m.kind == "Secret" {
		return a.CoreV1().Secrets(m.namespace).Watch(ctx, only)
	}
	return a.CoreV1().ConfigMaps(m.namespace).Watch(ctx, only)
}
