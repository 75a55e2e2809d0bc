// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/log"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// followed is a kind, and what is known of its objects.
type followed struct {
	policies *Policies
	kind     Kind

	mu       sync.Mutex // held while the kind is looked for
	stop     context.CancelFunc
	problem  *rules.Problem // why the kind is not followed
	lookedAt time.Time

	state   sync.RWMutex
	objects map[string]map[string]*Object // by namespace and name, as the API server reported them
	written map[types.NamespacedName]written
	applied map[types.NamespacedName]applied
}

// written is a write that the API server may not have reported yet.
type written struct {
	object *Object // nil: it was deleted
	uid    types.UID
}

// applied records what a spec became at the API server, which sets defaults.
type applied struct{ want, became cached.Digest }

func newFollowed(p *Policies, k Kind) *followed {
	return &followed{
		policies: p, kind: k, objects: map[string]map[string]*Object{}, written: map[types.NamespacedName]written{}, applied: map[types.NamespacedName]applied{},
	}
}

// ensure follows the kind if it is there. It looks at most once per LookAgain.
func (f *followed) ensure(ctx, running context.Context) (*rules.Problem, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		return nil, nil
	}
	now := f.policies.clock.Now()
	if f.problem != nil && !now.Before(f.lookedAt) && now.Before(f.lookedAt.Add(LookAgain)) {
		return f.problem, nil
	}
	for _, ns := range f.policies.namespaces {
		_, err := f.policies.api.Resource(f.kind.Resource).Namespace(ns).List(ctx, listOptions(metav1.ListOptions{Limit: 1}))
		if err == nil {
			continue
		}
		if f.problem = absent(f.kind, err); f.problem != nil {
			f.lookedAt = now
			return f.problem, nil
		}
		return nil, fmt.Errorf("list %s: %w", f.kind.Resource.Resource, err)
	}
	return nil, f.follow(ctx, running)
}

// follow starts to follow the kind, and waits for the first list.
func (f *followed) follow(ctx, running context.Context) error {
	following, stop := context.WithCancel(running)
	var failure sync.Once
	failed := func(err error) {
		if following.Err() != nil {
			return // it does not follow any more
		}
		failure.Do(func() {
			stop()
			go f.lost(err)
		})
	}
	listed := make(chan struct{}, len(f.policies.namespaces)) // buffered, because nothing receives after a failure
	for _, ns := range f.policies.namespaces {
		store := &store{f: f, namespace: ns, listed: sync.OnceFunc(func() { listed <- struct{}{} })}
		lister := &cached.PagedLister{ListerWatcherWithContext: f.policies.lister(f.kind, ns, failed), Transform: cut}
		r := toolscache.NewReflectorWithOptions(lister, &unstructured.Unstructured{}, store,
			toolscache.ReflectorOptions{Name: "policies of " + f.kind.Name, TypeDescription: f.kind.Name})
		go r.RunWithContext(following)
	}
	patience, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	for range f.policies.namespaces {
		select {
		case <-listed:
			continue
		case <-following.Done():
		case <-patience.Done():
		}
		stop()
		return fmt.Errorf("the objects of %s were not listed in time", f.kind.Resource.Resource)
	}
	f.stop, f.problem = stop, nil
	return nil
}

// lost ends the following of a kind that is gone, or not permitted any more.
func (f *followed) lost(err error) {
	f.mu.Lock()
	f.stop, f.problem, f.lookedAt = nil, absent(f.kind, err), f.policies.clock.Now()
	f.mu.Unlock()
	log.Log.WithName("gateways").Info("A kind of policy can no longer be read", "kind", f.kind.Name, "reason", err.Error())

	f.state.Lock()
	objects := f.objects
	f.objects = map[string]map[string]*Object{}
	clear(f.written)
	clear(f.applied)
	f.state.Unlock()
	for _, named := range objects {
		for o := range maps.Values(named) {
			f.tell(o)
		}
	}
}

// end does the same at once, if the kind is followed.
func (f *followed) end(err error) {
	f.mu.Lock()
	stop := f.stop
	f.mu.Unlock()
	if stop != nil {
		stop()
		f.lost(err)
	}
}

func (f *followed) tell(o *Object) {
	if o != nil && o.APIName != "" {
		f.policies.notify(types.NamespacedName{Namespace: o.Name.Namespace, Name: o.APIName})
	}
}

// get returns an object: as the API server reported it, or as it was written since.
func (f *followed) get(name types.NamespacedName) *Object {
	f.state.Lock()
	defer f.state.Unlock()
	return f.latest(name)
}

func (f *followed) latest(name types.NamespacedName) *Object {
	is := f.objects[name.Namespace][name.Name]
	w, ok := f.written[name]
	switch {
	case !ok:
		return is
	case w.object == nil && is != nil && is.UID == w.uid:
		return nil // its deletion has not been reported yet
	case w.object != nil && (is == nil || !overtakes(is.Version, w.object.Version)):
		return w.object
	}
	delete(f.written, name)
	return is
}

// ofAPI returns the objects that an APIResource controls.
func (f *followed) ofAPI(namespace string, api types.UID) (all []*Object) {
	f.state.Lock()
	defer f.state.Unlock()
	names := slices.Collect(maps.Keys(f.objects[namespace]))
	for name := range f.written {
		if name.Namespace == namespace && !slices.Contains(names, name.Name) {
			names = append(names, name.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if o := f.latest(types.NamespacedName{Namespace: namespace, Name: name}); o != nil && api != "" && o.API == api {
			all = append(all, o)
		}
	}
	return all
}

// set records an object as the API server reports it.
func (f *followed) set(is *Object) {
	f.state.Lock()
	was := f.objects[is.Name.Namespace][is.Name.Name]
	if f.objects[is.Name.Namespace] == nil {
		f.objects[is.Name.Namespace] = map[string]*Object{}
	}
	f.objects[is.Name.Namespace][is.Name.Name] = is
	f.state.Unlock()
	if was != nil && was.Version == is.Version {
		return
	}
	f.tell(is)
	if was != nil && was.APIName != is.APIName {
		f.tell(was)
	}
}

// drop records that an object is gone.
func (f *followed) drop(name types.NamespacedName, version string) {
	f.state.Lock()
	was := f.objects[name.Namespace][name.Name]
	delete(f.objects[name.Namespace], name.Name)
	if len(f.objects[name.Namespace]) == 0 {
		delete(f.objects, name.Namespace)
	}
	if w, ok := f.written[name]; !ok || w.object == nil || overtakes(version, w.object.Version) {
		if was == nil {
			was = w.object
		}
		delete(f.written, name)
		delete(f.applied, name)
	}
	f.state.Unlock()
	f.tell(was)
}

// store passes what a reflector reads to a followed kind.
type store struct {
	f         *followed
	namespace string // the one that the reflector follows; empty: all
	listed    func()
}

// Transformer implements cache.TransformingStore. The first list is in memory as a whole.
func (s *store) Transformer() toolscache.TransformFunc { return cut }

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("got a %T from the API server", obj)
	}
	s.f.set(objectOf(u))
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("got a %T from the API server", obj)
	}
	s.f.drop(types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}, u.GetResourceVersion())
	return nil
}

// Replace implements cache.ReflectorStore. Objects that are not in the list are gone.
func (s *store) Replace(list []any, version string) error {
	there := make(map[types.NamespacedName]bool, len(list))
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
		u := obj.(*unstructured.Unstructured)
		there[types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}] = true
	}
	var gone []types.NamespacedName
	s.f.state.RLock()
	for namespace, names := range s.f.objects {
		if s.namespace != "" && s.namespace != namespace {
			continue
		}
		for name := range names {
			if key := (types.NamespacedName{Namespace: namespace, Name: name}); !there[key] {
				gone = append(gone, key)
			}
		}
	}
	s.f.state.RUnlock()
	for _, name := range gone {
		s.f.drop(name, version)
	}
	s.listed()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *store) Resync() error { return nil }
