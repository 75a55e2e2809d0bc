// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// namedKeys returns the IDs of the keys to keep first if a server has more keys than the
// status can hold: the keys of the tokens in use, which were verified, and then the keys
// that were requested. While there is room for all keys, it does not look.
func (r *Reconciler) namedKeys(ctx context.Context, obj client.Object) ([]string, error) {
	if len(record.StatusOf(obj).Keys) < jwks.MaxRecords {
		return nil, nil
	}
	var inUse, waiting []string
	add := func(list []string, id string) []string {
		if id == "" || slices.Contains(list, id) || len(list) == servers.MaxNamedKeys {
			return list
		}
		return append(list, id)
	}
	err := r.EachToken(ctx, rules.ServerKeyOf(obj), func(t *v1alpha1.TokenStatus) {
		inUse, waiting = add(inUse, t.KeyID), add(waiting, t.Pending.KeyID)
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(inUse, waiting, r.Requests.Named(obj)), nil
}

// EachToken calls visit for each token of the clients that use a server, directly or
// through an API. It also visits the tokens that such a client has from other servers.
func (r *Reconciler) EachToken(ctx context.Context, key rules.ServerKey, visit func(*v1alpha1.TokenStatus)) error {
	var apis v1alpha1.APIResourceList
	if err := r.Client.List(ctx, &apis, client.MatchingFields{watch.ByServer: key.String()}, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
		return fmt.Errorf("list the APIs of a server: %w", err)
	}
	clients := []client.MatchingFields{{watch.ByServer: key.String()}}
	for i := range apis.Items {
		clients = append(clients, client.MatchingFields{watch.ByAPIResource: client.ObjectKeyFromObject(&apis.Items[i]).String()})
	}
	for _, those := range clients {
		var list v1alpha1.M2MClientList
		if err := r.Client.List(ctx, &list, those, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
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

const (
	// supersededPoll is how often the operator looks at the tokens in use while one of
	// them may need a key that was replaced under its ID.
	supersededPoll = 5 * time.Second

	// SupersededGrace is how long such a key stays after no token needs it any more: until
	// then, a pod may still read the last token that did.
	SupersededGrace = delivery.KubeletDelay
)

// supersede drops keys that the server has replaced under their IDs, once no token in
// use needs them. Of two keys with one ID, most verifiers pick one, perhaps the wrong
// one, or refuse both. It returns the records that stay, a message about those that
// were replaced, and when to look again.
func (r *Reconciler) supersede(
	ctx context.Context, obj client.Object, state *fetchState, records []jwks.Record, now time.Time,
) (stay []jwks.Record, told string, due time.Time, err error) {
	superseded := jwks.Superseded(records)
	if len(superseded) == 0 {
		state.supersededUntil = nil
		return records, "", time.Time{}, nil
	}
	until := map[string]time.Time{} // a new map: the state is a shallow copy
	for _, k := range superseded {
		at, known := state.supersededUntil[k.JWK]
		if until[k.JWK] = at; !known {
			until[k.JWK] = now.Add(SupersededGrace)
		}
	}
	type signature struct{ keyID, thumbprint, algorithm string }
	seen := map[signature]bool{} // ten thousand tokens are signed with a handful of keys
	err = r.EachToken(ctx, rules.ServerKeyOf(obj), func(t *v1alpha1.TokenStatus) {
		signed := signature{t.KeyID, t.KeyThumbprint, t.Algorithm}
		if seen[signed] {
			return
		}
		seen[signed] = true
		for _, k := range superseded {
			// A token that an earlier version issued has no thumbprint: it may need any of
			// the keys.
			if t.KeyID == k.ID && (t.KeyThumbprint == "" || k.OnlyVerifies(records, t.KeyThumbprint, t.Algorithm)) {
				until[k.JWK] = now.Add(SupersededGrace)
			}
		}
	})
	if err != nil {
		return nil, "", time.Time{}, err
	}
	state.supersededUntil = until
	var ids []string
	stay = slices.DeleteFunc(records, func(k jwks.Record) bool {
		at, isSuperseded := until[k.JWK]
		leaves := isSuperseded && !now.Before(at)
		if isSuperseded && !leaves && !slices.Contains(ids, k.ID) {
			ids = append(ids, k.ID)
		}
		return leaves
	})
	if len(ids) == 0 {
		return stay, "", time.Time{}, nil
	}
	return stay, fmt.Sprintf("; the server has replaced %s under the same ID; the former key stays until no token in use needs it", quotedIDs(ids)),
		now.Add(supersededPoll), nil
}

// superseded returns the IDs of the replaced keys that have now been dropped.
func superseded(before, after []v1alpha1.SigningKey) []string {
	var ids []string
	for _, k := range jwks.Superseded(record.KeyRecords(before)) {
		has := func(same func(v1alpha1.SigningKey) bool) bool { return slices.ContainsFunc(after, same) }
		if !slices.Contains(ids, k.ID) && has(func(a v1alpha1.SigningKey) bool { return a.KeyID == k.ID }) &&
			!has(func(a v1alpha1.SigningKey) bool { return a.PublicKey == k.JWK }) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// quotedIDs lists the first few IDs of keys.
func quotedIDs(ids []string) string { return text.QuoteAll(ids, 64, 5) }

// maxKeysLeftOut and maxLeftOutReason are the bounds of status.keysLeftOut.
const (
	maxKeysLeftOut   = 32
	maxLeftOutReason = 256
)

// keysLeftOut lists the unused keys of a set that a token may name as its signing key.
func keysLeftOut(skipped []jwks.Skipped) []v1alpha1.KeyLeftOut {
	var list []v1alpha1.KeyLeftOut
	for _, s := range skipped {
		if !s.OtherUse && !s.Beyond && len(s.ID) <= 2*jwks.MaxKeyID && len(list) < maxKeysLeftOut {
			list = append(list, v1alpha1.KeyLeftOut{KeyID: s.ID, Reason: text.CutRunes(s.Reason, maxLeftOutReason)})
		}
	}
	return list
}
