// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestAMissingScopeIsExplained: clients of other namespaces learn which scopes they may request,
// and not whether the API has the one that they named.
func TestAMissingScopeIsExplained(t *testing.T) {
	many := []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"}
	for name, tc := range map[string]struct {
		namespace        string // of the client
		missing, granted []string
		message, path    string
	}{
		"not granted": {
			"shop", []string{"write"}, []string{"read"},
			`does not grant this client the scopes write; it may request read, and the API's owner can add others to a grant`, "spec.grants",
		},
		"misspelled": {
			"shop", []string{"raed"}, []string{"read"},
			`does not grant this client the scopes raed; it may request read, and the API's owner can add others to a grant`, "spec.grants",
		},
		"one misspelled, one not granted, and no scope is": {
			"shop", []string{"raed", "write"}, nil,
			`does not grant this client the scopes raed, write; it may request none, and the API's owner can add others to a grant`, "spec.grants",
		},
		"misspelled in the API's own namespace": {
			"payments", []string{"raed"}, []string{"read", "write"}, `does not have the scopes raed in its spec.scopes; it has read, write`, "spec.scopes",
		},
		"misspelled, of an API with many": {
			"payments", []string{"raed"}, many, `does not have the scopes raed in its spec.scopes; it has s0, s1, s2, s3, s4, s5, s6, s7 and 2 more`, "spec.scopes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			api := claimant("payments", 0)
			api.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}, {Name: "write"}, {Name: "secret-project"}}
			c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: tc.namespace, Name: "cart"}}
			got := scopeProblem(api, c, types.NamespacedName{Namespace: "payments", Name: "payment-api"}, tc.missing, tc.granted)
			if want := fmt.Sprintf("APIResource %q %s", "payments/payment-api", tc.message); got.Message != want {
				t.Errorf("got  %s\nwant %s", got.Message, want)
			}
			if got.Reason != v1alpha1.ReasonScopeNotGranted || got.Field.Path != tc.path {
				t.Errorf("it is %s by %s, want %s", got.Reason, got.Field.Path, tc.path)
			}
		})
	}
}
