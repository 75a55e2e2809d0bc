// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
)

// serverGrace is how long a deleted server waits for the deletion of the objects that
// are provisioned at it: someone who deletes everything may do so in any order.
const serverGrace = 30 * time.Second

// release removes the finalizer of a deleted server once nothing that was provisioned at it
// waits for removal. Objects that are not being deleted themselves hold it only for
// serverGrace.
func (r *Reconciler) release(ctx context.Context, obj client.Object) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(obj, v1alpha1.ProvisioningFinalizer) {
		return 0, nil
	}
	held, deleting, err := r.provisionedAt(ctx, rules.ServerKeyOf(obj))
	if err != nil {
		return 0, err
	}
	waited := r.Clock.Now().Sub(obj.GetDeletionTimestamp().Time)
	// Objects that are being deleted give up after a timeout of their own.
	if deleting || held && waited < serverGrace {
		return 2 * time.Second, nil
	}
	return 0, write.Release(ctx, r.Client, obj)
}

// provisionedAt reports whether any object with a finalizer was provisioned at a server,
// and whether one of them is being deleted.
func (r *Reconciler) provisionedAt(ctx context.Context, key rules.ServerKey) (held, deleting bool, err error) {
	var apis v1alpha1.APIResourceList
	var clients v1alpha1.M2MClientList
	for _, list := range []client.ObjectList{&apis, &clients} {
		if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return false, false, fmt.Errorf("list what was provisioned at %s: %w", key, err)
		}
	}
	note := func(o client.Object, at v1alpha1.ProvisioningServer) {
		if controllerutil.ContainsFinalizer(o, v1alpha1.ProvisioningFinalizer) && record.KeyOf(at) == key {
			held = true
			deleting = deleting || !o.GetDeletionTimestamp().IsZero()
		}
	}
	for i := range apis.Items {
		note(&apis.Items[i], apis.Items[i].Status.Provisioning.Server)
	}
	for i := range clients.Items {
		note(&clients.Items[i], clients.Items[i].Status.Provisioning.Server)
	}
	return held, deleting, nil
}
