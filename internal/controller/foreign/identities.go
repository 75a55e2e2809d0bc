// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// Identities knows which objects of a kind match a selector, and their versions. Clusters
// hold tens of thousands of Secrets that do not concern the operator, and an informer would
// keep five times as much of each.
type Identities struct {
	kind       string // Secret or ConfigMap
	reflectors []*toolscache.Reflector
	pending    sync.WaitGroup // reflectors that have not listed yet
	synced     chan struct{}  // closed when all reflectors have listed

	Mu       sync.RWMutex
	Of       map[string]map[string]identity // by namespace and name
	handlers []func(is, was *metav1.PartialObjectMetadata)

	// changed is called for each known object that has changed or is gone.
	changed func(types.NamespacedName)
}

// identity is the UID and the resourceVersion of an object.
type identity struct {
	uid     [16]byte
	version uint64
}

// newIdentities follows the objects of a kind in the given namespaces, or in all if there
// are none.
func newIdentities(config *rest.Config, hc *http.Client, kind string, namespaces []string, selector string) (*Identities, error) {
	c, err := metadata.NewForConfigAndClient(config, hc)
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	all := &Identities{kind: kind, synced: make(chan struct{}), Of: map[string]map[string]identity{}}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	resource := c.Resource(corev1.SchemeGroupVersion.WithResource(strings.ToLower(kind) + "s"))
	for _, ns := range namespaces {
		lw := &toolscache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				return resource.Namespace(ns).List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return resource.Namespace(ns).Watch(ctx, o)
			},
		}
		all.pending.Add(1)
		store := &identityStore{all: all, namespace: ns}
		all.reflectors = append(all.reflectors, toolscache.NewReflectorWithOptions(
			&cached.PagedLister{ListerWatcherWithContext: lw, Transform: store.Transformer()}, cached.Metadata(kind), store,
			toolscache.ReflectorOptions{Name: "identities of " + kind, TypeDescription: kind + " metadata"}))
	}
	return all, nil
}

// Start follows the objects until the context ends.
func (i *Identities) Start(ctx context.Context) error {
	go func() {
		i.pending.Wait()
		close(i.synced)
	}()
	var running sync.WaitGroup
	for _, r := range i.reflectors {
		running.Go(func() { r.RunWithContext(ctx) })
	}
	running.Wait()
	return nil
}

// NeedLeaderElection returns false: every replica follows the objects, so that it can take
// over at once.
func (i *Identities) NeedLeaderElection() bool { return false }

// WaitForCacheSync waits until all objects have been listed once.
func (i *Identities) WaitForCacheSync(ctx context.Context) bool {
	select {
	case <-i.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// version identifies the present version of an object, "" if it does not exist.
func (i *Identities) version(ctx context.Context, name types.NamespacedName) (string, error) {
	if !i.WaitForCacheSync(ctx) {
		return "", ctx.Err()
	}
	i.Mu.RLock()
	defer i.Mu.RUnlock()
	id, ok := i.Of[name.Namespace][name.Name]
	if !ok {
		return "", nil
	}
	return id.String(), nil
}

// String returns UID and resourceVersion.
func (id identity) String() string { return id.uuid() + "/" + strconv.FormatUint(id.version, 10) }

func (id identity) uuid() string {
	h := hex.EncodeToString(id.uid[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// identityOf reads UID and resourceVersion, which tell the versions of an object apart.
// Kubernetes uses a UUID and a number. If one of them has another form, the part that can be
// read counts.
func identityOf(o client.Object) (id identity) {
	_, _ = hex.Decode(id.uid[:], []byte(strings.ReplaceAll(string(o.GetUID()), "-", "")))
	id.version, _ = strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return id
}

// Object makes an object with an identity, for the handlers.
func (i *Identities) Object(namespace, name string, id identity) *metav1.PartialObjectMetadata {
	o := cached.Metadata(i.kind)
	o.Namespace, o.Name, o.UID, o.ResourceVersion = namespace, name, types.UID(id.uuid()), strconv.FormatUint(id.version, 10)
	return o
}

// set records the identity of an object, or that it is gone if is is nil, and tells the
// handlers about a change.
func (i *Identities) set(namespace, name string, is *identity) {
	i.Mu.Lock()
	was, existed := i.Of[namespace][name]
	switch {
	case is == nil:
		delete(i.Of[namespace], name)
		if len(i.Of[namespace]) == 0 {
			delete(i.Of, namespace)
		}
	case i.Of[namespace] == nil:
		i.Of[namespace] = map[string]identity{name: *is}
	default:
		i.Of[namespace][name] = *is
	}
	handlers := i.handlers
	i.Mu.Unlock()

	if is == nil && !existed || is != nil && existed && *is == was {
		return
	}
	if existed && i.changed != nil {
		i.changed(types.NamespacedName{Namespace: namespace, Name: name})
	}
	if len(handlers) == 0 {
		return
	}
	var before, after *metav1.PartialObjectMetadata
	if existed {
		before = i.Object(namespace, name, was)
	}
	if is != nil {
		after = i.Object(namespace, name, *is)
	}
	for _, tell := range handlers {
		tell(after, before)
	}
}

// identityStore is the store that a reflector writes to.
type identityStore struct {
	all       *Identities
	namespace string // the one that the reflector follows; empty: all
	listed    sync.Once
}

// Transformer implements cache.TransformingStore. The first list is in memory as a whole, so
// each object is reduced to what is read here.
func (s *identityStore) Transformer() toolscache.TransformFunc {
	return func(in any) (any, error) {
		if o, ok := in.(*metav1.PartialObjectMetadata); ok {
			o.ObjectMeta = metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
			cached.Share(&o.Namespace)
		}
		return in, nil
	}
}

// Add implements cache.ReflectorStore.
func (s *identityStore) Add(obj any) error {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("got a %T from the API server, want metadata", obj)
	}
	id := identityOf(o)
	s.all.set(o.Namespace, o.Name, &id)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *identityStore) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *identityStore) Delete(obj any) error {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("got a %T from the API server, want metadata", obj)
	}
	s.all.set(o.Namespace, o.Name, nil)
	return nil
}

// Replace implements cache.ReflectorStore. Objects that are not in the list are gone.
func (s *identityStore) Replace(list []any, _ string) error {
	there := make(map[types.NamespacedName]bool, len(list))
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
		there[client.ObjectKeyFromObject(obj.(client.Object))] = true
	}
	var gone []types.NamespacedName
	s.all.Mu.RLock()
	for namespace, names := range s.all.Of {
		if s.namespace != "" && s.namespace != namespace {
			continue
		}
		for name := range names {
			if key := (types.NamespacedName{Namespace: namespace, Name: name}); !there[key] {
				gone = append(gone, key)
			}
		}
	}
	s.all.Mu.RUnlock()
	for _, key := range gone {
		s.all.set(key.Namespace, key.Name, nil)
	}
	s.listed.Do(s.all.pending.Done)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *identityStore) Resync() error { return nil }

// identitySource calls a handler for changes from now on. It does not repeat the objects
// that exist already: a controller that starts looks at everything it serves anyway.
type identitySource[request comparable] struct {
	of      *Identities
	handler handler.TypedEventHandler[client.Object, request]
}

// Start implements source.TypedSource.
func (s identitySource[request]) Start(ctx context.Context, q workqueue.TypedRateLimitingInterface[request]) error {
	s.of.Mu.Lock()
	defer s.of.Mu.Unlock()
	s.of.handlers = append(s.of.handlers, func(is, was *metav1.PartialObjectMetadata) {
		switch {
		case ctx.Err() != nil: // the controller has stopped
		case was == nil:
			s.handler.Create(ctx, event.CreateEvent{Object: is}, q)
		case is == nil:
			s.handler.Delete(ctx, event.DeleteEvent{Object: was}, q)
		default:
			s.handler.Update(ctx, event.UpdateEvent{ObjectOld: was, ObjectNew: is}, q)
		}
	})
	return nil
}

// WaitForSync implements source.TypedSyncingSource.
func (s identitySource[request]) WaitForSync(ctx context.Context) error {
	if !s.of.WaitForCacheSync(ctx) {
		return fmt.Errorf("the metadata of %ss was not listed in time: %w", s.of.kind, ctx.Err())
	}
	return nil
}
