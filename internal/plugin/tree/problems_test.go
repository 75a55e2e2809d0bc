// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

func is(conditionType string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: conditionType, Status: status, Reason: reason, Message: message}
}

// TestProblemsOf tells the reason that decides first, and what to do about it.
func TestProblemsOf(t *testing.T) {
	const no, unknown, yes = metav1.ConditionFalse, metav1.ConditionUnknown, metav1.ConditionTrue
	pending := is("Provisioned", unknown, "Provisioning", "is being provisioned")
	const refused = `APIResource "payment-api" is not accepted (IdentifierClaimed)`
	for name, tc := range map[string]struct {
		conditions []metav1.Condition
		want       []string // condition, reason and advice
	}{
		"nothing is granted, so waiting for the server does not help": {
			[]metav1.Condition{pending, is("Ready", no, "NotGranted", "grants nothing"), is("Granted", no, "NotGranted", "grants nothing"), is("Fresh", no, "NotGranted", "grants nothing")},
			[]string{"Granted", "NotGranted", tree.Advice("NotGranted"), "Provisioned", "Provisioning", "It goes on when the condition Granted is True"},
		},
		"the server is being asked": {
			[]metav1.Condition{is("Ready", unknown, "Provisioning", "is being provisioned"), pending, is("Granted", yes, "Granted", "")},
			[]string{"Provisioned", "Provisioning", tree.Advice("Provisioning")},
		},
		"the API is not accepted, which no grant changes": {
			[]metav1.Condition{is("Ready", no, "APIResourceNotAccepted", refused), is("Fresh", no, "NotGranted", refused), is("Granted", no, "APIResourceNotAccepted", refused)},
			[]string{"Granted", "APIResourceNotAccepted", tree.Advice("APIResourceNotAccepted")},
		},
		"a second access is not allowed, for a reason of its own": {
			[]metav1.Condition{is("Ready", no, "ScopeNotGranted", "first"), is("Fresh", no, "NotGranted", "second"), is("Granted", no, "ScopeNotGranted", "first")},
			[]string{
				"Granted", "ScopeNotGranted", tree.Advice("ScopeNotGranted"),
				"Fresh", "NotGranted", "The access is not allowed; kubectl m2m why shows the line that decides",
			},
		},
		"the server refuses the client, so no token is on its way": {
			[]metav1.Condition{is("Fresh", unknown, "WaitingForBudget", "soon"), is("Provisioned", no, "ProvisioningRefused", "no"), is("Ready", no, "ProvisioningRefused", "no")},
			[]string{"Provisioned", "ProvisioningRefused", tree.Advice("ProvisioningRefused"), "Fresh", "WaitingForBudget", "It goes on when the condition Provisioned is True"},
		},
		"an API that is not accepted has no bundle on its way": {
			[]metav1.Condition{is("Distributed", no, "Distributing", "soon"), is("Ready", no, "IdentifierClaimed", "claimed"), is("Accepted", no, "IdentifierClaimed", "claimed")},
			[]string{"Accepted", "IdentifierClaimed", tree.Advice("IdentifierClaimed"), "Distributed", "Distributing", "It goes on when the condition Accepted is True"},
		},
		"a bundle is on its way, whatever the server says": {
			[]metav1.Condition{is("Distributed", no, "Distributing", "soon"), is("Ready", no, "Distributing", "soon"), is("Provisioned", no, "Drifted", "differs")},
			[]string{"Distributed", "Distributing", tree.Advice("Distributing"), "Provisioned", "Drifted", tree.Advice("Drifted")},
		},
		"the summary adds something": {
			[]metav1.Condition{is("Ready", no, "TokenExpired", "expired"), is("Fresh", no, "TokenRequestFailed", "down")},
			[]string{"Fresh", "TokenRequestFailed", tree.Advice("TokenRequestFailed"), "Ready", "TokenExpired", tree.Advice("TokenExpired")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range tree.ProblemsOf(tc.conditions) {
				got = append(got, p.Condition, p.Reason, p.Advice)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestCause: what Fresh calls NotGranted is told as Granted has it, and nothing else is.
func TestCause(t *testing.T) {
	fresh, granted := is("Fresh", metav1.ConditionFalse, "NotGranted", "same"), is("Granted", metav1.ConditionFalse, "APIResourceNotFound", "same")
	if got := tree.Cause(fresh, []metav1.Condition{granted, fresh}); got.Reason != v1alpha1.ReasonAPIResourceNotFound {
		t.Errorf("the cause is %s", got.Reason)
	}
	granted.Message = "other"
	if got := tree.Cause(fresh, []metav1.Condition{granted, fresh}); got.Reason != v1alpha1.ReasonNotGranted {
		t.Errorf("the cause of another message is %s", got.Reason)
	}
}
