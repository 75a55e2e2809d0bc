// SPDX-License-Identifier: Apache-2.0

package m2mclient

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
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// WaitingName returns the name of the Secret with a client's tokens that wait. No
// pod mounts it, and it stays the same when the client chooses another name for
// the Secret with its tokens.
func WaitingName(c *v1alpha1.M2MClient) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name + "-token-waiting"}
}

// hold keeps a token back, as the verdict on it says.
func (a *Access) hold(h *HeldToken, v verdict.Verdict, keyID string) {
	a.wakeAt = v.Until
	a.pending = v1alpha1.PendingToken{KeyID: keyID, Since: record.Time(h.Record.IssuedAt), PublishAt: record.Time(v.PublishAt)}
	if v.NoKey {
		a.Problem = &rules.Problem{Reason: v1alpha1.ReasonWaitingForKey, Unknown: true,
			Message: "The token is signed with a key that is not known yet; the server's keys are being fetched"}
	}
}

// delivered says when to look again whether the API's pods have what they
// verify a token with: the key that signed it, and the terms that it was issued
// by. The zero time says that they have.
func (r *Reconciler) delivered(ctx context.Context, p *Pass, a *Access, held HeldToken, claims *jwks.Claims) (look time.Time, err error) {
	if a.spec == nil || claims == nil {
		return time.Time{}, nil
	}
	bundles, err := r.awaitedBundles(ctx, a)
	if err != nil {
		return time.Time{}, err
	}
	want := render.ContentsOf(verification.BundleOf(a.spec, a.Server), verification.ExtraFiles(a.spec))
	patience := held.Record.IssuedAt.Add(OthersPatience)
	for _, bundle := range bundles {
		if !bundle.owners && !p.Now.Before(patience) {
			continue
		}
		is, _ := verification.ContentsIn(bundle.ConfigMap)
		key, wantKey := is.Keys[claims.KeyID], want.Keys[claims.KeyID]
		// Terms that the predecessor does not meet wait for this token instead.
		if is.Terms != want.Terms && a.refused == nil || key.Hash != wantKey.Hash {
			return p.Now.Add(delivery.Poll), nil
		}
		since := key.Since
		if a.refused == nil && is.TermsSince.After(since) {
			since = is.TermsSince
		}
		if delivery.Settled(since, p.Now) {
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
// delay a token for OthersPatience at most: any namespace can annotate a pod, and do to
// its own ConfigMaps what it wants.
func (r *Reconciler) awaitedBundles(ctx context.Context, a *Access) ([]awaitedBundle, error) {
	bundles, err := verification.BundlesOf(ctx, r.Client, a.api)
	if err != nil {
		return nil, err
	}
	awaited := make([]awaitedBundle, len(bundles))
	for i := range bundles {
		awaited[i] = awaitedBundle{&bundles[i], bundles[i].Namespace == a.api.Namespace}
		if awaited[i].owners {
			continue
		}
		if awaited[i].owners, err = r.Access.Selects(ctx, a.spec.Spec.Verification.Namespaces, bundles[i].Namespace); err != nil {
			return nil, err
		}
	}
	return awaited, nil
}

// bundleAhead reports whether the key that a token is signed with is on its way to the
// API's pods: it is in every bundle, and the pods that can be touched were.
func (r *Reconciler) bundleAhead(ctx context.Context, a *Access, now time.Time, claims *jwks.Claims) (bool, error) {
	if a.spec == nil || claims == nil {
		return true, nil
	}
	bundles, err := r.awaitedBundles(ctx, a)
	if err != nil {
		return false, err
	}
	for _, bundle := range bundles {
		is, _ := verification.ContentsIn(bundle.ConfigMap)
		key, ok := is.Keys[claims.KeyID]
		if !ok {
			return false, nil
		}
		if !r.Prompt || key.Since.IsZero() {
			continue
		}
		pods, err := r.verifyingPods(ctx, bundle.Namespace, a.api)
		if err != nil {
			return false, err
		}
		for j := range pods.Items {
			if pod := watch.PodOf(&pods.Items[j], r.Prompt); pod.Touchable && !pod.Told(key.Since, now) {
				return false, nil
			}
		}
	}
	return true, nil
}

// verifyingPods lists the pods of a namespace that verify tokens for an API.
func (r *Reconciler) verifyingPods(ctx context.Context, namespace string, api types.NamespacedName) (*metav1.PartialObjectMetadataList, error) {
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	err := r.Client.List(ctx, pods, client.InNamespace(namespace), client.MatchingFields{watch.ByVerify: api.String()},
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return nil, fmt.Errorf("list the pods that verify: %w", err)
	}
	return pods, nil
}

// seen says when to look again whether all pods of a namespace that verify
// tokens for an API see its bundle as it has been since a moment, the zero time
// if they do.
func (r *Reconciler) seen(ctx context.Context, p *Pass, namespace string, api types.NamespacedName, since time.Time) (look time.Time, err error) {
	pods, err := r.verifyingPods(ctx, namespace, api)
	if err != nil {
		return time.Time{}, err
	}
	for i := range pods.Items {
		if at := watch.PodOf(&pods.Items[i], r.Prompt).Sees(since, p.Now); p.Now.Before(at) {
			look = delivery.Sooner(look, at)
		}
	}
	return look, nil
}

// readWaiting brings back the tokens that wait from their Secret: a process
// that was started in between goes on with them.
func (r *Reconciler) readWaiting(ctx context.Context, p *Pass) error {
	if p.secretProblem != nil {
		return nil
	}
	var s corev1.Secret
	if err := r.Client.Get(ctx, WaitingName(p.Client), &s); err != nil {
		return client.IgnoreNotFound(err)
	}
	mine, err := r.belongs(ctx, &s, p.Client)
	if p.waitingTaken = !mine; err != nil || !mine {
		return err
	}
	p.waiting = &s
	var records SecretRecords
	if json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records) != nil {
		return nil
	}
	client := client.ObjectKeyFromObject(p.Client)
	for _, a := range p.Accesses {
		record, ok := records.Tokens[a.Key]
		value := string(s.Data[a.Key])
		if _, have := r.held.Get(client, a.Key); have || !ok || record.Value != refresh.HashValue(value) {
			continue
		}
		if record.IssuedAt.After(p.Now.Add(delivery.ClockSkew)) {
			continue // somebody would have it wait until its predecessor has expired
		}
		// Before it is published it is verified like a fresh one, which a token
		// that is no JWT would not be.
		if claims, err := jwks.Inspect(value); err != nil || claims.ExpiresAt.Before(record.ExpiresAt) {
			continue
		}
		r.held.Put(client, a.Key, HeldToken{Value: value, Record: record})
	}
	return nil
}

// writeWaiting keeps the tokens that wait in a Secret of their own, so that a
// restart does not ask for them again, and removes it when none does.
func (r *Reconciler) writeWaiting(ctx context.Context, p *Pass) error {
	if p.secretProblem != nil || p.stale {
		return nil
	}
	records := SecretRecords{Client: p.Client.UID, Tokens: map[string]TokenRecord{}}
	data := map[string][]byte{}
	for _, a := range p.Accesses {
		if a.pending.Since == nil {
			continue
		}
		if h, ok := r.held.Get(client.ObjectKeyFromObject(p.Client), a.Key); ok {
			data[a.Key], records.Tokens[a.Key] = []byte(h.Value), h.Record
		}
	}
	if len(data) == 0 {
		if p.waiting == nil {
			return nil
		}
		return client.IgnoreNotFound(r.Client.Delete(ctx, p.waiting, write.Preconditions(p.waiting)))
	}
	encoded, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("encode the records of tokens: %w", err)
	}
	name := WaitingName(p.Client)
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Type: corev1.SecretTypeOpaque}
	if p.waiting != nil {
		want = p.waiting.DeepCopy()
	}
	want.Data = data
	want.Labels = write.Merged(want.Labels, nil, map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	want.Annotations = write.Merged(want.Annotations, nil, ownAnnotations(p.Client, encoded))
	want.OwnerReferences = owned(want.OwnerReferences, p.Client)
	switch {
	case p.waiting == nil:
		theirs, lookup := r.Foreign.ExistsForeign(ctx, "Secret", name)
		if theirs || p.waitingTaken || lookup != nil {
			return lookup // they wait in memory only
		}
		err = r.Client.Create(ctx, want)
	case !equality.Semantic.DeepEqual(p.waiting, want):
		err = r.Client.Update(ctx, want)
	}
	if err != nil {
		// They wait in memory, too, and it is tried again with each look.
		log.FromContext(ctx).V(1).Info("Could not keep the tokens that wait", "secret", want.Name, "reason", apierrors.ReasonForError(err))
	}
	return nil
}
