// SPDX-License-Identifier: Apache-2.0

// Package recipients finds out whether the pods and gateways that verify an API's tokens
// have what they verify a new token with. It reads bundles, policies and pods from caches.
// The packages delivery and verdict decide how long a token waits for them.
package recipients

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
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Patience is how long a token waits for pods of namespaces that are neither the API's
// nor named by its owner: long enough for a bundle to be written and a pod to be touched.
const Patience = 10 * time.Second

// Recipients looks at bundles and at the pods that mount them.
type Recipients struct {
	Client client.Client
	Access rules.Resolver
	// Policies are those of the gateways that check tokens for the API.
	Policies *gateways.Policies
	// Prompt enables touching pods that must see a changed bundle at once.
	Prompt bool
}

// Token is a token that the pods are to verify.
type Token struct {
	API      *v1alpha1.APIResource // nil: no APIResource describes the API, and nobody is waited for
	Server   *rules.Server         // whose keys the API verifies with
	Claims   *jwks.Claims          // nil: the token is opaque, and nobody is waited for
	IssuedAt time.Time
	// NewTerms reports that the predecessor does not meet the API's terms. The bundle then
	// waits for this token instead.
	NewTerms bool
}

// LookAgain returns when to look again whether the API's pods have what they verify the
// token with: the key that signed it, and the terms that it was issued by. The zero time
// says that they have.
func (r *Recipients) LookAgain(ctx context.Context, t Token, now time.Time) (look time.Time, err error) {
	if t.API == nil || t.Claims == nil {
		return time.Time{}, nil
	}
	if look = r.gatewaysLook(ctx, t, now); !look.IsZero() {
		return look, nil
	}
	bundles, err := r.awaited(ctx, t.API)
	if err != nil {
		return time.Time{}, err
	}
	want := render.ContentsOf(verification.BundleOf(t.API, t.Server), verification.ExtraFiles(t.API))
	patience := t.IssuedAt.Add(Patience)
	for _, bundle := range bundles {
		if !bundle.owners && !now.Before(patience) {
			continue
		}
		is, _ := verification.ContentsIn(bundle.ConfigMap)
		key, wantKey := is.Keys[t.Claims.KeyID], want.Keys[t.Claims.KeyID]
		// Terms that the predecessor does not meet wait for this token instead.
		if is.Terms != want.Terms && !t.NewTerms || key.Hash != wantKey.Hash {
			return now.Add(delivery.Poll), nil
		}
		since := key.Since
		if !t.NewTerms && is.TermsSince.After(since) {
			since = is.TermsSince
		}
		if delivery.Settled(since, now) {
			continue
		}
		later, err := r.seen(ctx, bundle.Namespace, client.ObjectKeyFromObject(t.API), since, now)
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

// awaited returns an API's bundles. Those of other namespaces than its owner's
// delay a token for Patience at most: any namespace can annotate a pod, and do to
// its own ConfigMaps what it wants.
func (r *Recipients) awaited(ctx context.Context, api *v1alpha1.APIResource) ([]awaitedBundle, error) {
	bundles, err := verification.BundlesOf(ctx, r.Client, client.ObjectKeyFromObject(api))
	if err != nil {
		return nil, err
	}
	awaited := make([]awaitedBundle, len(bundles))
	for i := range bundles {
		awaited[i] = awaitedBundle{&bundles[i], bundles[i].Namespace == api.Namespace}
		if awaited[i].owners {
			continue
		}
		if awaited[i].owners, err = r.Access.Selects(ctx, api.Spec.Verification.Namespaces, bundles[i].Namespace); err != nil {
			return nil, err
		}
	}
	return awaited, nil
}

// KeyIsAhead reports whether the key that the token is signed with is on its way to the
// API's pods: it is in every bundle, and the pods that can be touched were.
func (r *Recipients) KeyIsAhead(ctx context.Context, t Token, now time.Time) (bool, error) {
	if t.API == nil || t.Claims == nil {
		return true, nil
	}
	if !r.gatewaysHave(ctx, t) {
		return false, nil
	}
	bundles, err := r.awaited(ctx, t.API)
	if err != nil {
		return false, err
	}
	for _, bundle := range bundles {
		is, _ := verification.ContentsIn(bundle.ConfigMap)
		key, ok := is.Keys[t.Claims.KeyID]
		if !ok {
			return false, nil
		}
		if !r.Prompt || key.Since.IsZero() {
			continue
		}
		pods, err := r.verifyingPods(ctx, bundle.Namespace, client.ObjectKeyFromObject(t.API))
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
func (r *Recipients) verifyingPods(ctx context.Context, namespace string, api types.NamespacedName) (*metav1.PartialObjectMetadataList, error) {
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	err := r.Client.List(ctx, pods, client.InNamespace(namespace), client.MatchingFields{watch.ByVerify: api.String()},
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return nil, fmt.Errorf("list the pods that verify: %w", err)
	}
	return pods, nil
}

// seen returns when to look again whether all pods of a namespace that verify
// tokens for an API see its bundle as it has been since a moment, the zero time
// if they do.
func (r *Recipients) seen(ctx context.Context, namespace string, api types.NamespacedName, since, now time.Time) (look time.Time, err error) {
	pods, err := r.verifyingPods(ctx, namespace, api)
	if err != nil {
		return time.Time{}, err
	}
	for i := range pods.Items {
		if at := watch.PodOf(&pods.Items[i], r.Prompt).Sees(since, now); now.Before(at) {
			look = delivery.Sooner(look, at)
		}
	}
	return look, nil
}
