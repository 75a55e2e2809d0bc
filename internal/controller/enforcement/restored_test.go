// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestRestoredPoliciesAreTakenOver: a backup is restored with the policies, which have no
// owner then, or one that does not exist any more. The new APIResource owns them again, and
// they get the keys of today.
func TestRestoredPoliciesAreTakenOver(t *testing.T) {
	for name, tc := range map[string]struct {
		restore func(client.Object)
		theirs  bool
	}{
		"without owners":          {restore: func(o client.Object) { o.SetOwnerReferences(nil) }},
		"with their former owner": {restore: func(client.Object) {}},
		"without owners and without what the operator wrote on them": {func(o client.Object) {
			o.SetOwnerReferences(nil)
			o.SetAnnotations(nil)
		}, true},
		"with the owner of another name": {func(o client.Object) {
			o.SetOwnerReferences([]metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "APIResource", Name: "another", UID: "another", Controller: ptr.To(true),
			}})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBothForms(t, func(t *testing.T, s *operator.Stage, at atGateway) {
				entries := s.API.Spec.Enforcement
				operator.Remove(t, s.API)
				operator.IsGone(t, s.API)
				s.Settle()
				objects := []client.Object{at.withKeys(), operator.NewPolicy(securityPolicy, s.Payments, policyName)}
				if entries[0].Istio.Selector.MatchLabels != nil {
					objects[1] = operator.NewPolicy(authorization, s.Payments, policyName)
				}
				for _, o := range objects {
					if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
						t.Fatal(err)
					}
					tc.restore(o)
					if err := operator.Kube.Update(t.Context(), o); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.AS.RotateKey(); err != nil {
					t.Fatal(err)
				}
				s.Op.Advance(authserver.DefaultKeyRefreshInterval)
				at.seen()
				s.API = s.World.API()
				s.API.Spec.Enforcement = entries
				operator.Create(t, s.API)
				s.Op.CatchUp(s.Payments)
				s.Settle()
				if tc.theirs {
					enforced(s, v1alpha1.ReasonObjectNotOwned)
					return
				}
				for _, o := range objects {
					if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
						t.Fatal(err)
					}
					if owners := o.GetOwnerReferences(); len(owners) != 1 || owners[0].UID != s.API.UID {
						t.Errorf("%s has the owners %v, not %s", o.GetName(), owners, s.API.UID)
					}
				}
				if !slices.Contains(at.keys(), s.AS.KeyID()) {
					t.Error("the gateway does not have the key of today")
				}
			})
		})
	}
}
