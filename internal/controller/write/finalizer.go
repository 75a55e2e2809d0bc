// SPDX-License-Identifier: Apache-2.0

package write

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// Hold adds the finalizer to an object. Call it before anything of the object exists at its
// server.
func Hold(ctx context.Context, c client.Client, o client.Object) error {
	return setFinalizer(ctx, c, o, true)
}

// HoldServer adds the finalizer to a server before something is provisioned there.
func HoldServer(ctx context.Context, c client.Client, s *rules.Server) error {
	return Hold(ctx, c, s.Object.DeepCopyObject().(client.Object))
}

// Release removes the finalizer from an object.
func Release(ctx context.Context, c client.Client, o client.Object) error {
	return client.IgnoreNotFound(setFinalizer(ctx, c, o, false))
}

func setFinalizer(ctx context.Context, c client.Client, o client.Object, on bool) error {
	before := o.DeepCopyObject().(client.Object)
	changed := false
	if on {
		changed = controllerutil.AddFinalizer(o, v1alpha1.ProvisioningFinalizer)
	} else {
		changed = controllerutil.RemoveFinalizer(o, v1alpha1.ProvisioningFinalizer)
	}
	if !changed {
		return nil
	}
	// The patch replaces the whole list: a finalizer that somebody else has just added
	// must not get lost.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if cached.IsCut(before) {
		patch = finalizerPatch(before, on)
	}
	if err := c.Patch(ctx, o, patch); err != nil {
		return fmt.Errorf("change the finalizers of %q: %w", client.ObjectKeyFromObject(o), err)
	}
	return nil
}

// finalizerPatch adds the finalizer to a list that the cache has cut, or removes it from
// there.
func finalizerPatch(known client.Object, on bool) client.Patch {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value,omitempty"`
	}
	const list = "/metadata/finalizers/"
	operations := []operation{{"replace", "/metadata/resourceVersion", known.GetResourceVersion()}}
	if on {
		operations = append(operations, operation{"add", list + "-", v1alpha1.ProvisioningFinalizer})
	} else {
		at := list + known.GetAnnotations()[cached.CutMark]
		operations = append(operations, operation{"test", at, v1alpha1.ProvisioningFinalizer}, operation{Op: "remove", Path: at})
	}
	encoded, err := json.Marshal(operations)
	if err != nil {
		panic(err) // strings only
	}
	return client.RawPatch(types.JSONPatchType, encoded)
}
