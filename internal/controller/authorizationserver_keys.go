// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// namedKeys returns the IDs of the keys that a server must not be without where it
// has more than can be kept: those that signed the tokens in use, which were
// verified, and then those that were asked for. Where there is room for all it is
// not worth looking.
func (r *AuthorizationServerReconciler) namedKeys(ctx context.Context, obj client.Object) ([]string, error) {
	if len(statusOf(obj).Keys) < jwks.MaxRecords {
		return nil, nil
	}
	var inUse, waiting []string
	add := func(list []string, id string) []string {
		if id == "" || slices.Contains(list, id) || len(list) == maxNamedKeys {
			return list
		}
		return append(list, id)
	}
	err := r.eachToken(ctx, keyOfObject(obj), func(t *v1alpha1.TokenStatus) {
		inUse, waiting = add(inUse, t.KeyID), add(waiting, t.Pending.KeyID)
	})
	if err != nil {
		return nil, err
	}
	rt := r.servers.runtime(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Concat(inUse, waiting, rt.namedKeys), nil
}

// eachToken calls visit for the tokens of all clients that use a server, be it by an
// API. A client may have others as well.
func (r *AuthorizationServerReconciler) eachToken(ctx context.Context, key serverKey, visit func(*v1alpha1.TokenStatus)) error {
	var apis v1alpha1.APIResourceList
	if err := r.client.List(ctx, &apis, client.MatchingFields{byServer: key.String()}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list the APIs of a server: %w", err)
	}
	clients := []client.MatchingFields{{byServer: key.String()}}
	for i := range apis.Items {
		clients = append(clients, client.MatchingFields{byAPIResource: client.ObjectKeyFromObject(&apis.Items[i]).String()})
	}
	for _, those := range clients {
		var list v1alpha1.M2MClientList
		if err := r.client.List(ctx, &list, those, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list the clients of a server: %w", err)
		}
		for i := range list.Items {
			for j := range list.Items[i].Status.Tokens {
				visit(&list.Items[i].Status.Tokens[j])
			}
		}
	}
	return nil
}

// hasKeys reports whether keys of all these IDs are known.
func hasKeys(status *v1alpha1.AuthorizationServerStatus, ids []string) bool {
	known := knownIDs(status)
	return !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(known, id) })
}

// knownIDs returns the IDs of the keys in a status.
func knownIDs(status *v1alpha1.AuthorizationServerStatus) []string {
	ids := make([]string, len(status.Keys))
	for i, k := range status.Keys {
		ids[i] = k.KeyID
	}
	return ids
}
