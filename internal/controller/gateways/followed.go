// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/pace"
)

// followed is a kind, and what is known of its objects.
type followed struct {
	policies *Policies
	kind     Kind

	mu       sync.Mutex // never held during a request
	look     *look      // is under way; nil: none
	stop     context.CancelCauseFunc
	problem  *rules.Problem // why the kind is not followed
	lookedAt time.Time

	state   sync.RWMutex
	objects map[string]map[string]*Object    // by namespace and name, as the API server reported their metadata
	whole   map[types.NamespacedName]*Object // as they were read or written; they may be newer
	deleted map[types.NamespacedName]types.UID
	applied map[types.NamespacedName]applied

	reads *pace.Buckets[types.NamespacedName]
}

// look is an attempt to follow a kind. Those who need the kind wait for it together, until
// their patience is over. The look itself goes on, however long the first list takes.
type look struct {
	patience context.Context
	done     chan struct{}
	err      error // set before done is closed
}

// applied records what a spec became at the API server, which sets defaults.
type applied struct{ want, became cached.Digest }

func newFollowed(p *Policies, k Kind) *followed {
	return &followed{
		policies: p, kind: k, objects: map[string]map[string]*Object{}, whole: map[types.NamespacedName]*Object{},
		deleted: map[types.NamespacedName]types.UID{}, applied: map[types.NamespacedName]applied{},
		reads: pace.New[types.NamespacedName](readRate),
	}
}

// ensure follows the kind if it is there. It looks at most once per LookAgain.
func (f *followed) ensure(ctx, running context.Context) (*rules.Problem, error) {
	now := f.policies.clock.Now()
	f.mu.Lock()
	if f.stop != nil {
		f.mu.Unlock()
		return nil, nil
	}
	if f.look == nil {
		if f.problem != nil && !now.Before(f.lookedAt) && now.Before(f.lookedAt.Add(LookAgain)) {
			defer f.mu.Unlock()
			return f.problem, nil
		}
		waiting, cancel := context.WithTimeout(running, f.policies.Patience)
		f.look = &look{patience: waiting, done: make(chan struct{})}
		go func(l *look) {
			defer cancel()
			f.run(running, l)
		}(f.look)
	}
	l := f.look
	f.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.patience.Done():
		select {
		case <-l.done: // at the same time
		default:
			return &rules.Problem{Reason: v1alpha1.ReasonEnforcing, Message: fmt.Sprintf("The policies of %s are still being read", f.kind.Gateway.Name())}, nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		return nil, nil
	}
	return f.problem, l.err
}

// run looks for the kind and follows it, until it is gone or the manager stops.
func (f *followed) run(running context.Context, l *look) {
	following, stop := context.WithCancelCause(running)
	defer stop(nil)
	err := f.probe(following)
	if err == nil {
		err = f.follow(following, stop)
	}
	f.mu.Lock()
	f.look, f.problem, f.lookedAt = nil, absent(f.kind, err), f.policies.clock.Now()
	switch {
	case err == nil:
		f.stop = stop
	case f.problem == nil:
		l.err = err
	}
	close(l.done)
	f.mu.Unlock()
	if err != nil {
		return
	}
	<-following.Done()
	if running.Err() == nil {
		f.lost(context.Cause(following))
	}
}

// probe returns an error unless the kind can be listed.
func (f *followed) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, ns := range f.policies.namespaces {
		if _, err := f.policies.metadata.Resource(f.kind.Resource).Namespace(ns).List(ctx, listOptions(metav1.ListOptions{Limit: 1})); err != nil {
			return fmt.Errorf("list %s: %w", f.kind.Resource.Resource, err)
		}
	}
	return nil
}

// follow starts to follow the kind, and waits for the first list. It follows metadata only:
// anybody can write policies with the operator's label, thousands of them of a megabyte each.
func (f *followed) follow(following context.Context, stop context.CancelCauseFunc) error {
	listed := make(chan struct{}, len(f.policies.namespaces)) // buffered, because nothing receives after a failure
	for _, ns := range f.policies.namespaces {
		store := &store{f: f, namespace: ns, listed: sync.OnceFunc(func() { listed <- struct{}{} })}
		lister := &cached.PagedLister{ListerWatcherWithContext: f.policies.lister(f.kind, ns, stop), Transform: cut}
		r := toolscache.NewReflectorWithOptions(lister, &metav1.PartialObjectMetadata{}, store,
			toolscache.ReflectorOptions{Name: "policies of " + f.kind.Name, TypeDescription: f.kind.Name})
		go r.RunWithContext(following)
	}
	for range f.policies.namespaces {
		select {
		case <-listed:
		case <-following.Done():
			return context.Cause(following)
		}
	}
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
	clear(f.whole)
	clear(f.deleted)
	clear(f.applied)
	f.state.Unlock()
	for _, named := range objects {
		for o := range maps.Values(named) {
			f.tell(o.Name)
		}
	}
}

// end ends the following of a kind that turned out to be gone.
func (f *followed) end(err error) {
	f.mu.Lock()
	stop := f.stop
	f.mu.Unlock()
	if stop != nil {
		stop(err)
	}
}

// tell tells the APIResource whose policy has a name.
func (f *followed) tell(name types.NamespacedName) {
	for _, api := range enforcement.APIsOf(name.Name) {
		f.policies.notify(types.NamespacedName{Namespace: name.Namespace, Name: api})
	}
}

// get returns an object, nil if there is none. Of an object that was neither read nor
// written in its present version, only the metadata is known.
func (f *followed) get(name types.NamespacedName) *Object {
	f.state.Lock()
	defer f.state.Unlock()
	return f.latest(name)
}

func (f *followed) latest(name types.NamespacedName) *Object {
	is, whole := f.objects[name.Namespace][name.Name], f.whole[name]
	if uid, gone := f.deleted[name]; gone {
		if is != nil && is.UID == uid && whole == nil {
			return nil // its deletion has not been reported yet
		}
		delete(f.deleted, name)
	}
	switch {
	case whole == nil:
		return is
	case is == nil || overtakes(whole.Version, is.Version):
		return whole
	}
	delete(f.whole, name)
	return is
}

// readRate bounds how often a policy is read: somebody may change it as often as they like.
var readRate = pace.Rate{Every: time.Second, Burst: 64}

// TooOften is the error of a policy that changes too often to be read each time.
type TooOften struct {
	Wait time.Duration
	name types.NamespacedName
}

// Error implements error.
func (e *TooOften) Error() string { return fmt.Sprintf("policy %q changes too often", e.name) }

// read returns a whole object, nil if there is none. It reads an object once per version.
func (f *followed) read(ctx context.Context, name types.NamespacedName) (*Object, error) {
	o := f.get(name)
	if o == nil || o.Whole {
		return o, nil
	}
	if wait := f.reads.Take(name, 1, f.policies.clock.Now()); wait > 0 {
		return nil, &TooOften{Wait: wait, name: name}
	}
	u, err := f.policies.api.Resource(f.kind.Resource).Namespace(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && u.GetLabels()[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue {
		return nil, nil // the event of that is on its way
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", f.kind.Name, name, err)
	}
	o = objectOf(u)
	f.state.Lock()
	defer f.state.Unlock()
	if is := f.objects[name.Namespace][name.Name]; is != nil && is.UID == o.UID {
		if was := f.whole[name]; was == nil || overtakes(o.Version, was.Version) {
			f.whole[name] = o
		}
	}
	return o, nil
}

// ofAPI returns the objects that are an APIResource's.
func (f *followed) ofAPI(api metav1.Object) (all []*Object) {
	namespace := api.GetNamespace()
	f.state.Lock()
	defer f.state.Unlock()
	names := slices.Collect(maps.Keys(f.objects[namespace]))
	for name := range f.whole {
		if name.Namespace == namespace && !slices.Contains(names, name.Name) {
			names = append(names, name.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if o := f.latest(types.NamespacedName{Namespace: namespace, Name: name}); o.Belongs(api) {
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
	if was == nil || was.Version != is.Version {
		f.tell(is.Name)
	}
}

// drop records that an object is gone. It may have been an object of another one: whoever
// owns the name can have it now.
func (f *followed) drop(name types.NamespacedName, version string) {
	f.state.Lock()
	delete(f.objects[name.Namespace], name.Name)
	if len(f.objects[name.Namespace]) == 0 {
		delete(f.objects, name.Namespace)
	}
	delete(f.deleted, name)
	if w, ok := f.whole[name]; !ok || overtakes(version, w.Version) {
		delete(f.whole, name)
		delete(f.applied, name)
	}
	f.state.Unlock()
	f.tell(name)
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
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("got a %T from the API server, want metadata", obj)
	}
	if len(enforcement.APIsOf(m.Name)) > 0 {
		s.f.set(seen(m))
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("got a %T from the API server, want metadata", obj)
	}
	s.f.drop(types.NamespacedName{Namespace: m.Namespace, Name: m.Name}, m.ResourceVersion)
	return nil
}

// Replace implements cache.ReflectorStore. Objects that are not in the list are gone.
func (s *store) Replace(list []any, version string) error {
	there := make(map[types.NamespacedName]bool, len(list))
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
		m := obj.(*metav1.PartialObjectMetadata)
		there[types.NamespacedName{Namespace: m.Namespace, Name: m.Name}] = true
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
