// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// WholeClient reads a Secret or ConfigMap that is in the cache only in part from the
// API server: whoever changes one writes back all of it. What the operator writes
// itself is small, and costs no request.
type WholeClient struct {
	client.Client
	Live client.Reader
}

// Get implements client.Reader. Who takes the cache's own copy only looks at it, and
// has what is there.
func (c WholeClient) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	var o client.GetOptions
	o.ApplyOptions(opts)
	if err := c.Client.Get(ctx, key, obj, opts...); err != nil || !IsCut(obj) || ptr.Deref(o.UnsafeDisableDeepCopy, false) {
		return err
	}
	switch o := obj.(type) {
	case *corev1.Secret:
		*o = corev1.Secret{} // what is decoded does not replace maps
	case *corev1.ConfigMap:
		*o = corev1.ConfigMap{}
	default:
		return nil // of the operator's kinds only what differs is written
	}
	return c.Live.Get(ctx, key, obj)
}
