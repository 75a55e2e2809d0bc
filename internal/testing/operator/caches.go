// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// CatchUp waits until the operator's caches have seen everything written so far.
func (op *Operator) CatchUp(namespaces ...string) {
	op.T.Helper()
	for _, list := range clusterKinds() {
		op.catchUp("", list)
	}
	for _, ns := range namespaces {
		for _, list := range namespacedKinds() {
			op.catchUp(ns, list)
		}
	}
}

func clusterKinds() []client.ObjectList {
	return []client.ObjectList{&v1alpha1.ClusterAuthorizationServerList{}, metadata("Namespace")}
}

func namespacedKinds() []client.ObjectList {
	return append(watch.VerifierLists(), &v1alpha1.AuthorizationServerList{}, &v1alpha1.APIResourceList{}, &v1alpha1.M2MClientList{},
		&corev1.SecretList{}, &corev1.ConfigMapList{})
}

// fill starts the caches of a stepped operator all at once. Otherwise they would start
// one after the other, each at its first read.
func (op *Operator) fill() {
	op.T.Helper()
	for _, list := range append(clusterKinds(), namespacedKinds()...) {
		var one client.Object
		if m, ok := list.(*metav1.PartialObjectMetadataList); ok {
			o := &metav1.PartialObjectMetadata{}
			o.SetGroupVersionKind(m.GroupVersionKind().GroupVersion().WithKind(strings.TrimSuffix(m.Kind, "List")))
			one = o
		} else {
			gvk, err := apiutil.GVKForObject(list, op.mgr.GetScheme())
			if err != nil {
				op.T.Fatal(err)
			}
			o, err := op.mgr.GetScheme().New(gvk.GroupVersion().WithKind(strings.TrimSuffix(gvk.Kind, "List")))
			if err != nil {
				op.T.Fatal(err)
			}
			one = o.(client.Object)
		}
		if _, err := op.mgr.GetCache().GetInformer(context.Background(), one, cache.BlockUntilSynced(false)); err != nil {
			op.T.Fatal(err)
		}
	}
}

// catchUp waits until the operator's cache has the present state of a kind in a
// namespace. It returns at once if nothing was written since it last did.
func (op *Operator) catchUp(namespace string, list client.ObjectList) {
	op.T.Helper()
	kind := strings.TrimSuffix(reflect.TypeOf(list).Elem().Name(), "List")
	if m, ok := list.(*metav1.PartialObjectMetadataList); ok {
		kind = strings.TrimSuffix(m.Kind, "List")
	}
	r := resource{namespace, strings.ToLower(kind) + "s"}
	n := written.count(r)
	if op.seen[r] == n || op.Lagging[r.plural] {
		return
	}
	in := client.InNamespace(namespace)
	switch kind {
	case "Secret", "ConfigMap": // for foreign objects, the operator caches the metadata
		op.Agrees(both{op.Client, versionsOf{op.Shared.Foreign.OfKind(kind), namespace}, list}, metadata(kind), in)
	default:
		op.Agrees(op.Client, list, in)
	}
	op.seen[r] = n
}

func metadata(kind string) client.ObjectList {
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
	return l
}

// Agrees waits until a cache has the objects that the API server lists.
func (op *Operator) Agrees(cache client.Reader, list client.ObjectList, opts ...client.ListOption) {
	op.T.Helper()
	versions := func(from client.Reader) map[string]string {
		op.T.Helper()
		list := list.DeepCopyObject().(client.ObjectList)
		if err := from.List(op.T.Context(), list, opts...); err != nil {
			op.T.Fatal(err)
		}
		found := map[string]string{}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			found[o.(client.Object).GetName()] = o.(client.Object).GetResourceVersion()
			return nil
		})
		return found
	}
	want, since := versions(Kube), time.Now()
	Eventually(op.T, func() error {
		if got := versions(cache); !maps.Equal(want, got) {
			if time.Since(since) > time.Second { // a reconcile goes on meanwhile
				want, since = versions(Kube), time.Now()
			}
			return fmt.Errorf("the cache of %T has the versions %v, not %v", list, got, want)
		}
		return nil
	})
}

// versionsOf lists the resource versions of a namespace's objects.
type versionsOf struct {
	*foreign.Identities
	namespace string
}

// List implements client.Reader.
func (v versionsOf) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	v.Mu.RLock()
	defer v.Mu.RUnlock()
	for name, id := range v.Of[v.namespace] {
		all := list.(*metav1.PartialObjectMetadataList)
		all.Items = append(all.Items, *v.Object(v.namespace, name, id))
	}
	return nil
}

// Get implements client.Reader. Nothing calls it.
func (v versionsOf) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	panic("nobody asks for one")
}

// both lists what the caches have of one kind: the operator's own objects, and foreign ones.
type both struct {
	client.Reader
	foreign versionsOf
	own     client.ObjectList
}

// List implements client.Reader.
func (b both) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	own, all := b.own.DeepCopyObject().(client.ObjectList), list.(*metav1.PartialObjectMetadataList)
	if err := errors.Join(b.Reader.List(ctx, own, opts...), b.foreign.List(ctx, all)); err != nil {
		return err
	}
	return meta.EachListItem(own, func(o runtime.Object) error {
		name, version := o.(client.Object).GetName(), o.(client.Object).GetResourceVersion()
		if slices.ContainsFunc(all.Items, func(i metav1.PartialObjectMetadata) bool { return i.Name == name }) {
			version = "in both caches" // its label has just changed
		}
		all.Items = append(all.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}})
		return nil
	})
}

// AwaitBundles waits until the cache has the bundles that the operator has just
// written. The operator's lists do not wait for them, and the clock of a test must not
// run ahead of the caches.
func (op *Operator) AwaitBundles() { op.T.Helper(); op.await(&corev1.ConfigMapList{}) }

// awaitClients does the same for the statuses of clients.
func (op *Operator) awaitClients() { op.T.Helper(); op.await(&v1alpha1.M2MClientList{}) }

func (op *Operator) await(written client.ObjectList) {
	op.T.Helper()
	if err := op.Client.List(op.T.Context(), written); err != nil {
		op.T.Fatal(err)
	}
}

// ServedBy waits until an operator's cache says that it serves a client, or that it
// does not.
func (op *Operator) ServedBy(mine watch.Shard, c *v1alpha1.M2MClient, want bool) {
	op.T.Helper()
	Eventually(op.T, func() error {
		is, err := mine.StillServes(op.T.Context(), op.Client, client.ObjectKeyFromObject(c))
		if err == nil && is != want {
			err = fmt.Errorf("shard %q serves %q: %t", mine, c.Name, is)
		}
		return err
	})
}

// ErrNotCached means that a cache has not seen a change yet.
var ErrNotCached = errors.New("the cache is behind")

// FromCache waits until the operator's cache has the present state of an object.
func FromCache(t *testing.T, op *Operator, obj client.Object) {
	t.Helper()
	have := obj.DeepCopyObject().(client.Object)
	Eventually(t, func() error {
		if err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), have); err != nil {
			return err
		}
		if have.GetGeneration() != obj.GetGeneration() {
			return ErrNotCached
		}
		return nil
	})
}

// EventuallyCached waits until the operator's cache has an object.
func EventuallyCached(t *testing.T, op *Operator, obj client.Object) {
	t.Helper()
	Eventually(t, func() error {
		return op.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj.DeepCopyObject().(client.Object))
	})
}
