// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
)

// TestReadySaysThatAServerCannotBeAsked: the message of Ready reports it while the
// known endpoints and keys stay in use.
func TestReadySaysThatAServerCannotBeAsked(t *testing.T) {
	found := conditions.True(v1alpha1.ConditionDiscovered, v1alpha1.ReasonDiscovered, "found")
	fetched := conditions.True(v1alpha1.ConditionKeysFresh, v1alpha1.ReasonKeysFetched, "fetched")
	unreachable := conditions.False(v1alpha1.ConditionDiscovered, "Unreachable", "no metadata")
	stale := conditions.False(v1alpha1.ConditionKeysFresh, "BadStatus", "no keys")
	refused := conditions.False(v1alpha1.ConditionProvisioningReady, v1alpha1.ReasonProvisioningRefused, "not allowed")
	for name, tc := range map[string]struct {
		discovered, keys, provisioning conditions.Condition
		ready                          metav1.ConditionStatus
		want                           string
	}{
		"everything works": {found, fetched, conditions.Condition{}, metav1.ConditionTrue, "The token endpoint and the signing keys are known"},
		"no metadata":      {unreachable, fetched, conditions.Condition{}, metav1.ConditionTrue, "The endpoints and signing keys known so far stay in use, but cannot be brought up to date: no metadata"},
		"no keys":          {found, stale, conditions.Condition{}, metav1.ConditionTrue, "The endpoints and signing keys known so far stay in use, but cannot be brought up to date: no keys"},
		"neither":          {unreachable, stale, conditions.Condition{}, metav1.ConditionTrue, "The endpoints and signing keys known so far stay in use, but cannot be brought up to date: no keys"},
		"opaque":           {found, conditions.Condition{}, conditions.Condition{}, metav1.ConditionTrue, "The token endpoint is known; tokens are opaque and not checked"},
		"opaque and down":  {unreachable, conditions.Condition{}, conditions.Condition{}, metav1.ConditionTrue, "The endpoints known so far stay in use, but cannot be brought up to date: no metadata"},
		"no provisioning":  {unreachable, stale, refused, metav1.ConditionFalse, "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := &v1alpha1.AuthorizationServer{Status: v1alpha1.AuthorizationServerStatus{Keys: []v1alpha1.SigningKey{{KeyID: "a"}}}}
			got := serverReady(obj, "https://auth.example.com/token", tc.discovered, tc.keys, tc.provisioning)
			if got.Status != tc.ready || got.Message != tc.want {
				t.Errorf("got  %s %q\nwant %s %q", got.Status, got.Message, tc.ready, tc.want)
			}
		})
	}
}
