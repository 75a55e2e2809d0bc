// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// belongs reports whether a Secret with tokens is a client's: by its controller,
// or, where no living object is that, by what the operator wrote on it. A restored
// backup has Secrets without owners, and so has whoever deletes a client with
// --cascade=orphan and creates it again.
//
// Whoever may write Secrets in the client's namespace can have one taken over that
// the operator never wrote. It is changed to what the client should have all the
// same: what lies in it is verified or replaced.
func (r *Reconciler) belongs(ctx context.Context, s *corev1.Secret, c *v1alpha1.M2MClient) (bool, error) {
	if metav1.IsControlledBy(s, c) {
		return true, nil
	}
	_, recorded := s.Annotations[v1alpha1.TokensAnnotation]
	if !recorded || s.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue || s.Type != corev1.SecretTypeOpaque ||
		s.Annotations[v1alpha1.OwnerAnnotation] != client.ObjectKeyFromObject(c).String() {
		return false, nil
	}
	owner := metav1.GetControllerOfNoCopy(s)
	if owner == nil {
		return true, nil
	}
	if !cached.IsClient(owner) {
		return false, nil
	}
	living, err := record.ClientUID(ctx, r.Live, types.NamespacedName{Namespace: s.Namespace, Name: owner.Name})
	return living != owner.UID, err
}

// doubtOpaque has tokens replaced that cannot be verified, as those of a Secret
// that was written for another object. Until then they stay where they are.
func (s *SecretRecords) doubtOpaque() {
	for key, record := range s.Tokens {
		if record.Opaque {
			record.Inputs = ""
			s.Tokens[key] = record
		}
	}
}

// ownerless maps a Secret that says whose it is and has no owner to that client.
func (r *Reconciler) ownerless() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		name, ok := record.ParseName(o.GetAnnotations()[v1alpha1.OwnerAnnotation])
		if !ok || name.Namespace != o.GetNamespace() || !r.Watched.Watches(name.Namespace) || metav1.GetControllerOfNoCopy(o) != nil {
			return nil
		}
		return []reconcile.Request{{NamespacedName: name}}
	})
}
