// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// hold keeps a token back, as the verdict on it says.
func (a *Access) hold(h *tokensecret.Token, v verdict.Verdict, keyID string) {
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
func (r *Reconciler) delivered(ctx context.Context, p *Pass, a *Access, held tokensecret.Token, claims *jwks.Claims) (look time.Time, err error) {
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
