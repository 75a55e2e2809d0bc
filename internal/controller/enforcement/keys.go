// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// keysNow returns the ConfigMap with an entry's keys as the cache has it, nil if there is
// none with the operator's label.
func (r *Reconciler) keysNow(ctx context.Context, name types.NamespacedName) (*corev1.ConfigMap, error) {
	var m corev1.ConfigMap
	err := r.Client.Get(ctx, name, &m)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get ConfigMap %q: %w", name, err)
	}
	return &m, nil
}

// keysWanted returns the ConfigMap with an entry's keys as it should be.
func (r *Reconciler) keysWanted(b basis, w wanted, o *unstructured.Unstructured, is *corev1.ConfigMap) (want *corev1.ConfigMap, before, next render.Contents) {
	var object *gateways.Object
	if is != nil {
		object = &gateways.Object{Contents: is.Annotations[v1alpha1.ContentsAnnotation]}
	}
	next, before = w.contentsOf("ConfigMap", object, r.Clock.Now())
	data, _, _ := unstructured.NestedStringMap(o.Object, "data")
	want = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName()}}
	if is != nil {
		want = is.DeepCopy()
	}
	want.Data, want.BinaryData, want.Immutable = data, nil, nil
	gateways.Dress(want, b.api, encode(next))
	return want, before, next
}

// writeKeys creates or updates the ConfigMap with an entry's keys if it is not as wanted.
func (r *Reconciler) writeKeys(ctx context.Context, b basis, w wanted, o *unstructured.Unstructured) (time.Duration, error) {
	key := w.keyOf(o)
	is, err := r.keysNow(ctx, key.name)
	if err != nil {
		return 0, err
	}
	want, before, next := r.keysWanted(b, w, o, is)
	urgent := r.urgent(b, key, o, before, next)
	f := failure{what: digestOf(o.Object, want.Annotations[v1alpha1.ContentsAnnotation])}
	theirs, err := r.areOthers(ctx, b.api, key, is)
	switch {
	case err != nil:
		return 0, err
	case theirs:
		return r.failed(ctx, key, b.api, f, gateways.ErrNotOurs)
	case is != nil && sameKeys(is, want):
		r.taken(key, b.api)
		return 0, nil
	}
	if last, failed := r.failure(key); failed && last.reason == v1alpha1.ReasonObjectNotOwned {
		r.failures.Remove(key) // nothing is in the way any more
		r.tell(b.api)
	}
	if wait, err := r.awaitTokens(ctx, b, w, before, next); !urgent && (wait > 0 || err != nil) {
		return wait, err
	}
	if wait := r.mayWrite(key, f, urgent, weight(before, next)); wait > 0 {
		return wait, nil
	}
	switch {
	case is == nil:
		if err = r.Client.Create(ctx, want); apierrors.IsAlreadyExists(err) {
			err = gateways.ErrNotOurs
		}
	case ptr.Deref(is.Immutable, false):
		return 0, r.Client.Delete(ctx, is, write.Preconditions(is)) // the deletion event leads to a new one
	default:
		err = r.Client.Update(ctx, want)
	}
	if urgent && is != nil && write.Refused(err) {
		if err := r.withdrawKeys(ctx, b, w, is); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return r.failed(ctx, key, b.api, f, fmt.Errorf("write ConfigMap %q: %w", key.name, err))
	}
	r.wrote(key, o, next, cached.ContentDigest(want))
	r.taken(key, b.api)
	return 0, nil
}

// areOthers reports whether a ConfigMap with the name of an entry's keys is not the
// APIResource's. It costs no request.
func (r *Reconciler) areOthers(ctx context.Context, api *v1alpha1.APIResource, key objectKey, is *corev1.ConfigMap) (bool, error) {
	if is != nil {
		return !gateways.Belongs(is, api), nil
	}
	return r.Foreign.ExistsForeign(ctx, "ConfigMap", key.name)
}

// withdrawKeys takes a revoked key out of a ConfigMap that the API server refuses in its
// new form.
func (r *Reconciler) withdrawKeys(ctx context.Context, b basis, w wanted, is *corev1.ConfigMap) error {
	before, _ := verification.ReadContents(is.Annotations[v1alpha1.ContentsAnnotation])
	return r.withdraw(b, w, before, func(o *unstructured.Unstructured, c render.Contents) error {
		smaller := is.DeepCopy()
		smaller.Data, _, _ = unstructured.NestedStringMap(o.Object, "data")
		gateways.Dress(smaller, b.api, encode(c))
		return r.Client.Update(ctx, smaller)
	}, func() error { return client.IgnoreNotFound(r.Client.Delete(ctx, is, write.Preconditions(is))) })
}

// sameKeys reports whether a cached ConfigMap is as wanted.
func sameKeys(is, want *corev1.ConfigMap) bool {
	return cached.ContentDigest(is) == cached.ContentDigest(want) && !ptr.Deref(is.Immutable, false) &&
		equality.Semantic.DeepEqual(is.ObjectMeta, want.ObjectMeta)
}

// sweepKeys removes the ConfigMaps with keys that no entry needs.
func (r *Reconciler) sweepKeys(ctx context.Context, api *v1alpha1.APIResource, needed func(name string) bool) error {
	var all corev1.ConfigMapList
	err := r.Client.List(ctx, &all, client.InNamespace(api.Namespace), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	var errs []error
	for i := range all.Items {
		m := &all.Items[i]
		if of, ok := enforcement.ParseKeysName(m.Name); !ok || of != api.Name || needed(m.Name) || !gateways.Belongs(m, api) {
			continue
		}
		if err := r.Client.Delete(ctx, m.DeepCopy(), write.Preconditions(m)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete ConfigMap %q: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}
