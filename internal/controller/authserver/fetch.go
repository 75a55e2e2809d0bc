// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// fetchKeys follows the server's signing keys.
func (r *Reconciler) fetchKeys(ctx context.Context, hc *http.Client, obj client.Object, state *fetchState, found v1alpha1.AuthorizationServerEndpoints, now time.Time) (conditions.Condition, error) {
	spec, status := record.SpecOf(obj), record.StatusOf(obj)
	url := string(record.UsableEndpoints(spec, found, status.Endpoints).JWKS)
	if url == "" || opaque(spec) {
		state.keysDue = state.discoveryDue
		return conditions.False(v1alpha1.ConditionKeysFresh, v1alpha1.ReasonEndpointMissing, "The URL of the server's JWKS is not known"), nil
	}
	if url != state.keysURL {
		state.keysURL, state.etag, state.lastModified, state.keysDue = url, "", "", time.Time{}
	}
	if !now.Before(state.keysDue) {
		if len(status.Keys) == 0 {
			state.etag, state.lastModified = "", "" // nothing to fall back on
		}
		named, err := r.namedKeys(ctx, obj)
		if err != nil {
			return conditions.Condition{}, err
		}
		if !hasKeys(status, named) {
			state.etag, state.lastModified = "", "" // an unchanged set may still hold them
		}
		fetched, err := jwks.Fetch(ctx, hc, url, state.etag, state.lastModified, append(knownIDs(status), named...)...)
		if err != nil {
			state.keysFailures++
			state.keysResult = fetchProblem("The signing keys cannot be fetched", spec, err)
			state.keysDue = now.Add(refresh.RetryBackoff.Next(state.keysFailures, retryAfter(err), url))
		} else {
			state.keysFailures, state.keysResult = 0, nil
			state.keysDue = now.Add(spec.JWKS.RefreshInterval.Or(DefaultKeyRefreshInterval))
			if !fetched.NotModified {
				r.takeKeys(ctx, obj, state, fetched, named, now)
			}
			if state.keysResult == nil {
				state.keysFetchedAt = now
			}
		}
	}
	if state.keysResult != nil {
		return conditions.Of(v1alpha1.ConditionKeysFresh, state.keysResult), nil
	}
	return conditions.True(v1alpha1.ConditionKeysFresh, v1alpha1.ReasonKeysFetched, "The signing keys are current"+state.leftOut), nil
}

// takeKeys updates the status with fetched keys, unless the keys change too often.
func (r *Reconciler) takeKeys(
	ctx context.Context, obj client.Object, state *fetchState, fetched *jwks.Fetched, named []string, now time.Time,
) {
	status, policy := record.StatusOf(obj), mergePolicy(record.SpecOf(obj), now)
	policy.Named = named
	records := jwks.Merge(record.KeyRecords(status.Keys), fetched.Keys, policy)
	keys := signingKeys(records)
	if changes := changesOf(status.Keys, keys); len(status.Keys) > 0 && changes > 0 {
		if wait := state.newKeys.Take(newKeyRate, changes, now); wait > 0 {
			state.keysResult = &rules.Problem{Reason: v1alpha1.ReasonKeysChangeTooOften, Message: fmt.Sprintf(
				"The server replaces its signing keys too often: after %d new keys, the operator accepts one per minute", newKeyRate.Burst)}
			state.keysDue = now.Add(max(wait, state.keysDue.Sub(now)))
			return
		}
	}
	status.Keys = keys
	state.etag, state.lastModified = fetched.ETag, fetched.LastModified
	skipped := append(fetched.Skipped, jwks.Beyond(records, fetched.Keys, policy)...)
	state.leftOut, status.KeysLeftOut = leftOut(skipped), keysLeftOut(skipped)
	for _, s := range skipped {
		log.FromContext(ctx).V(1).Info("Left out a key of the JWKS", "keyID", s.ID, "reason", s.Reason)
	}
}

// changesOf counts the new keys of a list. If there are none, keys that retire or come back
// count as one change together.
func changesOf(before, after []v1alpha1.SigningKey) int {
	known := map[string]bool{} // JWK → retired
	for _, k := range before {
		known[k.PublicKey] = k.RetiredAt != nil
	}
	changed, added := len(before) != len(after), 0
	for _, k := range after {
		retired, ok := known[k.PublicKey]
		if !ok {
			added++
		}
		changed = changed || retired != (k.RetiredAt != nil)
	}
	if added == 0 && changed {
		return 1
	}
	return added
}

// leftOut describes how many signing keys of a set are not used, and why.
func leftOut(skipped []jwks.Skipped) string {
	type group struct {
		told string
		keys int
	}
	var groups []*group
	byReason := map[string]*group{}
	total := 0
	for _, s := range skipped {
		if s.OtherUse {
			continue
		}
		g := byReason[s.Reason]
		if g == nil {
			g = &group{told: "a key without an ID " + s.Reason}
			if s.ID != "" {
				g.told = fmt.Sprintf("the key \"%s\" %s", text.CutRunes(s.ID, 64), s.Reason) // escaped by Parse
			}
			byReason[s.Reason], groups = g, append(groups, g)
		}
		g.keys += 1 + s.More
		total += 1 + s.More
	}
	if total == 0 {
		return ""
	}
	var told []string
	for _, g := range groups[:min(len(groups), leftOutReasons)] {
		if g.keys > 1 {
			g.told += fmt.Sprintf(" (and %d more)", g.keys-1)
		}
		told = append(told, g.told)
	}
	if len(groups) > leftOutReasons {
		told = append(told, "and others")
	}
	if total == 1 {
		return "; left out: " + told[0]
	}
	return fmt.Sprintf("; left out %d keys of the JWKS: %s", total, strings.Join(told, ", "))
}

func keyIDs(keys []v1alpha1.SigningKey) []string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = cmp.Or(k.KeyID, "(no ID)")
		if k.RetiredAt != nil {
			ids[i] += " (retired)"
		}
	}
	return ids
}

func mergePolicy(spec *v1alpha1.AuthorizationServerSpec, now time.Time) jwks.MergePolicy {
	return jwks.MergePolicy{
		Retention: spec.JWKS.Retention.Or(defaultKeyRetention), Revoked: spec.JWKS.RevokedKeyIDs, Now: now,
	}
}

func signingKeys(records []jwks.Record) []v1alpha1.SigningKey {
	var keys []v1alpha1.SigningKey
	for _, r := range records {
		keys = append(keys, v1alpha1.SigningKey{
			KeyID: r.ID, Algorithm: r.Algorithm, PublicKey: r.JWK, FirstSeenAt: record.Time(r.FirstSeenAt), RetiredAt: record.Time(r.RetiredAt),
		})
	}
	return keys
}
