// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// write creates or updates the ConfigMap. It leaves somebody else's ConfigMap of the same
// name alone.
func (r *Reconciler) write(ctx context.Context, d *draft, want *corev1.ConfigMap) error {
	if d.current == nil {
		err := r.Client.Create(ctx, want)
		if apierrors.IsAlreadyExists(err) {
			return nil // not ours: the APIResource's condition says so
		}
		if err != nil {
			if ignoreTerminating(err) == nil {
				return nil
			}
			return fmt.Errorf("create ConfigMap %q: %w", want.Name, err)
		}
		metrics.BundleWrites.WithLabelValues("created").Inc()
		// The event goes to the bundle's namespace; the API's owner sees a count.
		r.Events.Eventf(want, d.api, corev1.EventTypeNormal, v1alpha1.ReasonBundleWritten, "Distribute",
			"Wrote the verification bundle of APIResource %q", client.ObjectKeyFromObject(d.api))
		return nil
	}
	if ptr.Deref(d.current.Immutable, false) {
		return r.Client.Delete(ctx, d.current, write.Preconditions(d.current)) // the deletion event leads to a new one
	}
	if err := r.Client.Update(ctx, want); err != nil {
		return fmt.Errorf("update ConfigMap %q: %w", want.Name, err)
	}
	metrics.BundleWrites.WithLabelValues("updated").Inc()
	return nil
}

// remove deletes a bundle that is no longer needed.
func (r *Reconciler) remove(ctx context.Context, current *corev1.ConfigMap, req verification.Request) error {
	if current == nil || current.Annotations[v1alpha1.APIResourceAnnotation] != req.API.String() {
		return nil
	}
	if err := r.Client.Delete(ctx, current, write.Preconditions(current)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete ConfigMap %q: %w", current.Name, err)
	}
	metrics.BundleWrites.WithLabelValues("removed").Inc()
	log.FromContext(ctx).Info("Removed a verification bundle")
	return nil
}

// refused handles a bundle that the API server refuses because of its size, a policy or a
// quota. A revoked key must go nevertheless. The operator tries a bundle without extra
// files, then one that only loses keys, and at last deletes the bundle.
func (r *Reconciler) refused(ctx context.Context, d *draft, want *corev1.ConfigMap, refusal error) (ctrl.Result, error) {
	told := "The API server refuses the verification bundle of APIResource %q: %s"
	revoked, err := r.holdsRevoked(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	if revoked {
		if err := r.reduce(ctx, d); err != nil {
			return ctrl.Result{}, err
		}
		told = "The API server refuses the verification bundle of APIResource %q; to withdraw the revoked key, the operator writes a smaller bundle or deletes it: %s"
	}
	said := r.Refusals.Refused(d.request, d.api, want, refusal)
	r.Events.Eventf(want, d.api, corev1.EventTypeWarning, v1alpha1.ReasonBundleRefused, "Distribute", told,
		client.ObjectKeyFromObject(d.api), said)
	log.FromContext(ctx).Info("Verification bundle was refused", "reason", said)
	return ctrl.Result{RequeueAfter: write.RefusalWait}, nil
}

// reduce replaces a bundle that was refused by a smaller one, or deletes it.
func (r *Reconciler) reduce(ctx context.Context, d *draft) error {
	now := d.keysNow()
	plain := func(_ types.NamespacedName, b render.Bundle, _ map[string]string) (map[string]string, error) {
		return render.Verification(b, nil)
	}
	for _, onlyKnown := range []bool{false, true} {
		smaller := *d
		smaller.sameMetadata = true
		if onlyKnown {
			smaller.bundle.Keys = slices.DeleteFunc(slices.Clone(d.bundle.Keys), func(k render.Key) bool {
				return !slices.ContainsFunc(now, func(n jwks.Key) bool { return n.ID == k.ID && n.JWK == k.JWK })
			})
		}
		want, err := r.configMap(ctx, &smaller, plain)
		if err != nil {
			return err
		}
		if want == nil {
			break
		}
		if want = changed(d.current, want); want == nil {
			return nil
		}
		if err := r.write(ctx, &smaller, want); !write.Refused(err) {
			return err
		}
	}
	return r.withdraw(ctx, d)
}

// withdraw deletes a bundle that contains a revoked key and cannot be written without it.
func (r *Reconciler) withdraw(ctx context.Context, d *draft) error {
	if revoked, err := r.holdsRevoked(ctx, d); err != nil || !revoked {
		return err
	}
	return r.remove(ctx, d.current, d.request)
}

// ignoreTerminating returns nil for an error that a namespace being deleted causes.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
