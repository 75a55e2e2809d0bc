// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// contents returns since when each part of a bundle is in its ConfigMap, and since when
// pods must see the bundle at once; the zero time if they need not. They must if the API's
// owner changed what the API accepts, a key was revoked, or tokens are signed with a new
// key.
func (r *Reconciler) contents(
	ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server, current *corev1.ConfigMap, next render.Contents,
) (render.Contents, time.Time, error) {
	before, known := verification.ContentsIn(current)
	if !known {
		// No pod can have mounted the bundle before; or a version that did not write this
		// annotation wrote it, long ago.
		return next, time.Time{}, nil
	}
	now := r.Clock.Now()
	next = next.Since(before, now)
	if !r.Prompt {
		return next, time.Time{}, nil
	}
	since := watch.MomentIn(current, v1alpha1.PromptSinceAnnotation)
	if next.Terms != before.Terms {
		return next, now, nil
	}
	for id := range before.Keys {
		if _, stays := next.Keys[id]; !stays && srv.Revoked(id) {
			return next, now, nil
		}
	}
	for id, k := range next.Keys {
		// Only a key that is newer than the last urgent change can make this one urgent.
		if !k.Since.After(since) || now.Sub(k.Since) >= delivery.KubeletDelay {
			continue
		}
		used, err := r.Used(ctx, api, id)
		if used || err != nil {
			return next, now, err
		}
	}
	return next, since, nil
}

// Used reports whether a token for the API, published or held, is signed with the key.
func (r *Reconciler) Used(ctx context.Context, api *v1alpha1.APIResource, keyID string) (bool, error) {
	var clients v1alpha1.M2MClientList
	err := r.Client.List(ctx, &clients, client.MatchingFields{watch.ByAPIResource: client.ObjectKeyFromObject(api).String()},
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return false, fmt.Errorf("list the clients of an API: %w", err)
	}
	return slices.ContainsFunc(clients.Items, func(c v1alpha1.M2MClient) bool {
		return slices.Contains(keysInUse(&c), keyID)
	}), nil
}

// keysInUse returns the IDs of the keys that a client's tokens, published or held, are
// signed with.
func keysInUse(c *v1alpha1.M2MClient) []string {
	var ids []string
	for _, t := range c.Status.Tokens {
		ids = append(ids, t.KeyID, t.Pending.KeyID)
	}
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}

// keyInUseChanged passes updates after which a client's tokens, published or held, are
// signed with other keys than before. A new bundle looks at its clients itself, so other
// events do not matter.
var keyInUseChanged = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	DeleteFunc: func(event.DeleteEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, now := e.ObjectOld.(*v1alpha1.M2MClient), e.ObjectNew.(*v1alpha1.M2MClient)
		return !slices.Equal(keysInUse(before), keysInUse(now))
	},
}
