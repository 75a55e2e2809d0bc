// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// WholeClient reads a Secret or ConfigMap from the API server if the cache holds only a part
// of it, because an update writes back the whole object. Objects that the operator wrote
// itself are small and cost no request.
type WholeClient struct {
	client.Client
	Live client.Reader
}

// Get implements client.Reader. A caller that asks for the cache's own copy only looks at
// it, and gets it as it is.
func (c WholeClient) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	var o client.GetOptions
	o.ApplyOptions(opts)
	if err := c.Client.Get(ctx, key, obj, opts...); err != nil || !IsCut(obj) || ptr.Deref(o.UnsafeDisableDeepCopy, false) {
		return err
	}
	switch o := obj.(type) {
	case *corev1.Secret:
		*o = corev1.Secret{} // decoding adds to maps and does not replace them
	case *corev1.ConfigMap:
		*o = corev1.ConfigMap{}
	default:
		return nil // the operator's own kinds are patched, not written back as a whole
	}
	return c.Live.Get(ctx, key, obj)
}
