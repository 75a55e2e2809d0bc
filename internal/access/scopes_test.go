// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestAMissingScopeIsExplained: a scope that the API does not have is a typing error, and no owner
// can grant it. Clients of other namespaces are told only of scopes that they may request.
func TestAMissingScopeIsExplained(t *testing.T) {
	many := []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"}
	for name, tc := range map[string]struct {
		namespace        string // of the client
		missing, granted []string
		message, path    string
	}{
		"not granted": {
			"shop", []string{"write"}, []string{"read"},
			`does not grant this client the scopes write; its owner can add them to a grant`, "spec.grants",
		},
		"misspelled": {
			"shop", []string{"raed"}, []string{"read"}, `does not have the scopes raed; this client may request read`, "spec.grants",
		},
		"misspelled, and nothing is granted": {
			"shop", []string{"raed"}, nil, `does not have the scopes raed; this client may request none`, "spec.grants",
		},
		"one misspelled, one not granted": {
			"shop", []string{"raed", "write"}, []string{"read"},
			`does not have the scopes raed, and does not grant this client write; this client may request read`, "spec.grants",
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
