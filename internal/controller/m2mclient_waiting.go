// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// waitingName returns the name of the Secret with a client's tokens that wait. No
// pod mounts it, and it stays the same when the client chooses another name for
// the Secret with its tokens.
func waitingName(c *v1alpha1.M2MClient) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name + "-token-waiting"}
}

// publishAt is when a token is published at the latest, whoever has or has not
// got what it is verified with: what it replaces must not expire for it.
func (h heldToken) publishAt(before *refresh.Token) time.Time {
	return delivery.PublishBy(h.record.IssuedAt, before.ExpiresAt)
}

// hold has a token wait while its predecessor works.
func (a *access) hold(h heldToken, claims *jwks.Claims, look time.Time, before *refresh.Token) {
	at := h.publishAt(before)
	a.wakeAt = delivery.Sooner(look, at)
	a.pending = v1alpha1.PendingToken{Since: timeOf(h.record.IssuedAt), PublishAt: timeOf(at)}
	if claims != nil {
		a.pending.KeyID = claims.KeyID
	}
}

// awaitKey has a token wait for its key where no predecessor works.
func (a *access) awaitKey(p *pass, h heldToken, claims *jwks.Claims) {
	a.wakeAt = p.now.Add(delivery.Poll)
	a.pending = v1alpha1.PendingToken{Since: timeOf(h.record.IssuedAt), PublishAt: timeOf(h.record.IssuedAt.Add(keyPatience))}
	if claims != nil {
		a.pending.KeyID = claims.KeyID
	}
	a.problem = &rules.Problem{Reason: v1alpha1.ReasonWaitingForKey, Unknown: true,
		Message: "The token is signed with a key that is not known yet; the server's keys are being fetched"}
}

// delivered says when to look again whether the API's pods have what they
// verify a token with: the key that signed it, and the terms that it was issued
// by. The zero time says that they have.
func (r *M2MClientReconciler) delivered(ctx context.Context, p *pass, a *access, held heldToken, claims *jwks.Claims) (look time.Time, err error) {
	if a.spec == nil || claims == nil {
		return time.Time{}, nil
	}
	bundles, err := r.awaitedBundles(ctx, a)
	if err != nil {
		return time.Time{}, err
	}
	want := render.ContentsOf(bundleOf(a.spec, a.server), extraFiles(a.spec))
	patience := held.record.IssuedAt.Add(othersPatience)
	for _, bundle := range bundles {
		if !bundle.owners && !p.now.Before(patience) {
			continue
		}
		is, _ := contentsIn(bundle.ConfigMap)
		key, wantKey := is.Keys[claims.KeyID], want.Keys[claims.KeyID]
		// Terms that the predecessor does not meet wait for this token instead.
		if is.Terms != want.Terms && a.refused == nil || key.Hash != wantKey.Hash {
			return p.now.Add(delivery.Poll), nil
		}
		since := key.Since
		if a.refused == nil && is.TermsSince.After(since) {
			since = is.TermsSince
		}
		if delivery.Settled(since, p.now) {
			continue
		}
		later, err := r.seen(ctx, p, bundle.Namespace, a.api, since)
		if err != nil {
			return time.Time{}, err
		}
		if !bundle.owners && later.After(patience) {
			later = patience
		}
		look = delivery.Sooner(look, later)
	}
	return look, nil
}

// awaitedBundle is a bundle that tokens for an API wait for.
type awaitedBundle struct {
	*corev1.ConfigMap
	// owners reports that it is in the API's namespace, or in one that its owner names.
	owners bool
}

// awaitedBundles returns an API's bundles. Those of other namespaces than its owner's
// delay a token for othersPatience at most: any namespace can annotate a pod, and do to
// its own ConfigMaps what it wants.
func (r *M2MClientReconciler) awaitedBundles(ctx context.Context, a *access) ([]awaitedBundle, error) {
	bundles, err := bundlesOf(ctx, r.client, a.api)
	if err != nil {
		return nil, err
	}
	awaited := make([]awaitedBundle, len(bundles))
	for i := range bundles {
		awaited[i] = awaitedBundle{&bundles[i], bundles[i].Namespace == a.api.Namespace}
		if awaited[i].owners {
			continue
		}
		if awaited[i].owners, err = r.access.Selects(ctx, a.spec.Spec.Verification.Namespaces, bundles[i].Namespace); err != nil {
			return nil, err
		}
	}
	return awaited, nil
}

// bundleAhead reports whether the key that a token is signed with is on its way to the
// API's pods: it is in every bundle, and the pods that can be touched were.
func (r *M2MClientReconciler) bundleAhead(ctx context.Context, a *access, now time.Time, claims *jwks.Claims) (bool, error) {
	if a.spec == nil || claims == nil {
		return true, nil
	}
	bundles, err := r.awaitedBundles(ctx, a)
	if err != nil {
		return false, err
	}
	for _, bundle := range bundles {
		is, _ := contentsIn(bundle.ConfigMap)
		key, ok := is.Keys[claims.KeyID]
		if !ok {
			return false, nil
		}
		if !r.prompt || key.Since.IsZero() {
			continue
		}
		pods, err := r.verifyingPods(ctx, bundle.Namespace, a.api)
		if err != nil {
			return false, err
		}
		for j := range pods.Items {
			if pod := podOf(&pods.Items[j], r.prompt); pod.Touchable && !pod.Told(key.Since, now) {
				return false, nil
			}
		}
	}
	return true, nil
}

// verifyingPods lists the pods of a namespace that verify tokens for an API.
func (r *M2MClientReconciler) verifyingPods(ctx context.Context, namespace string, api types.NamespacedName) (*metav1.PartialObjectMetadataList, error) {
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	err := r.client.List(ctx, pods, client.InNamespace(namespace), client.MatchingFields{byVerify: api.String()},
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return nil, fmt.Errorf("list the pods that verify: %w", err)
	}
	return pods, nil
}

// seen says when to look again whether all pods of a namespace that verify
// tokens for an API see its bundle as it has been since a moment, the zero time
// if they do.
func (r *M2MClientReconciler) seen(ctx context.Context, p *pass, namespace string, api types.NamespacedName, since time.Time) (look time.Time, err error) {
	pods, err := r.verifyingPods(ctx, namespace, api)
	if err != nil {
		return time.Time{}, err
	}
	for i := range pods.Items {
		if at := podOf(&pods.Items[i], r.prompt).Sees(since, p.now); p.now.Before(at) {
			look = delivery.Sooner(look, at)
		}
	}
	return look, nil
}

// readWaiting brings back the tokens that wait from their Secret: a process
// that was started in between goes on with them.
func (r *M2MClientReconciler) readWaiting(ctx context.Context, p *pass) error {
	if p.secretProblem != nil {
		return nil
	}
	var s corev1.Secret
	if err := r.client.Get(ctx, waitingName(p.client), &s); err != nil {
		return client.IgnoreNotFound(err)
	}
	mine, err := r.belongs(ctx, &s, p.client)
	if p.waitingTaken = !mine; err != nil || !mine {
		return err
	}
	p.waiting = &s
	var records secretRecords
	if json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records) != nil {
		return nil
	}
	client := client.ObjectKeyFromObject(p.client)
	for _, a := range p.accesses {
		record, ok := records.Tokens[a.key]
		value := string(s.Data[a.key])
		if _, have := r.held.get(client, a.key); have || !ok || record.Value != refresh.HashValue(value) {
			continue
		}
		if record.IssuedAt.After(p.now.Add(delivery.ClockSkew)) {
			continue // somebody would have it wait until its predecessor has expired
		}
		// Before it is published it is verified like a fresh one, which a token
		// that is no JWT would not be.
		if claims, err := jwks.Inspect(value); err != nil || claims.ExpiresAt.Before(record.ExpiresAt) {
			continue
		}
		r.held.put(client, a.key, heldToken{value: value, record: record})
	}
	return nil
}

// writeWaiting keeps the tokens that wait in a Secret of their own, so that a
// restart does not ask for them again, and removes it when none does.
func (r *M2MClientReconciler) writeWaiting(ctx context.Context, p *pass) error {
	if p.secretProblem != nil || p.stale {
		return nil
	}
	records := secretRecords{Client: p.client.UID, Tokens: map[string]tokenRecord{}}
	data := map[string][]byte{}
	for _, a := range p.accesses {
		if a.pending.Since == nil {
			continue
		}
		if h, ok := r.held.get(client.ObjectKeyFromObject(p.client), a.key); ok {
			data[a.key], records.Tokens[a.key] = []byte(h.value), h.record
		}
	}
	if len(data) == 0 {
		if p.waiting == nil {
			return nil
		}
		return client.IgnoreNotFound(r.client.Delete(ctx, p.waiting, preconditions(p.waiting)))
	}
	encoded, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("encode the records of tokens: %w", err)
	}
	name := waitingName(p.client)
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Type: corev1.SecretTypeOpaque}
	if p.waiting != nil {
		want = p.waiting.DeepCopy()
	}
	want.Data = data
	want.Labels = merged(want.Labels, nil, map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	want.Annotations = merged(want.Annotations, nil, ownAnnotations(p.client, encoded))
	want.OwnerReferences = owned(want.OwnerReferences, p.client)
	switch {
	case p.waiting == nil:
		theirs, lookup := r.foreign.isAnothers(ctx, "Secret", name)
		if theirs || p.waitingTaken || lookup != nil {
			return lookup // they wait in memory only
		}
		err = r.client.Create(ctx, want)
	case !equality.Semantic.DeepEqual(p.waiting, want):
		err = r.client.Update(ctx, want)
	}
	if err != nil {
		// They wait in memory, too, and it is tried again with each look.
		log.FromContext(ctx).V(1).Info("Could not keep the tokens that wait", "secret", want.Name, "reason", apierrors.ReasonForError(err))
	}
	return nil
}
