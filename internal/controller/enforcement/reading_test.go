// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestALongListHoldsUpNobody: after a restart, the API server takes long to list the policies,
// because a tenant has made very many. Nobody waits for that but tokens with a new key, as it
// is not known whether the gateway has that key.
func TestALongListHoldsUpNobody(t *testing.T) {
	s := routeStage(t)
	noise := operator.NewPolicy(securityPolicy, s.Payments, "noise")
	noise.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	operator.Create(t, noise)
	now := s.Op.Clock.Now()
	s.Op.Stop()

	cfg, answer, accepted := operator.SlowPolicies(t)
	s.Op = operator.StartSteppedOver(t, cfg, operator.Enforcing(enforcement.EnvoyGateway))
	s.Op.Clock.SetTime(now)
	s.Op.Shared.Policies.Patience = 100 * time.Millisecond
	s.Due()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.AS.ResetRequests()
	s.Settle()
	c := conditionOf(s, v1alpha1.ConditionEnforced)
	if c.Reason != v1alpha1.ReasonEnforcing || !strings.Contains(c.Message, "are still being read") {
		t.Errorf("Enforced says %s: %s", c.Reason, c.Message)
	}
	s.Op.Advance(2 * delivery.GatewayDelay)
	s.Settle()
	s.IsHeld()

	answer()
	operator.Eventually(t, func() error {
		s.Op.Advance(time.Second)
		s.Settle()
		if c := conditionOf(s, v1alpha1.ConditionEnforced); strings.Contains(c.Message, "being read") {
			return errors.New(c.Message)
		}
		return nil
	})
	s.Op.Advance(delivery.GatewayDelay)
	s.Settle()
	s.IsPublished()

	for _, a := range accepted() {
		if !strings.Contains(a, "as=PartialObjectMetadata") {
			t.Errorf("the operator lists whole policies, and not only their metadata: %q", a)
		}
	}
	if len(accepted()) < 2 { // a look, and a list or a watch
		t.Errorf("%d lists and watches", len(accepted()))
	}
	for _, r := range s.Op.Requests.Sent() {
		if strings.Contains(r, "noise") {
			t.Errorf("the operator reads a policy that concerns it in no way: %s", r)
		}
	}
}

// TestAPolicyThatChangesWithoutEnd: somebody changes a policy, and each version would be read.
func TestAPolicyThatChangesWithoutEnd(t *testing.T) {
	s := routeStage(t)
	says(s, accepts())
	s.Op.Requests.Reset()
	for i := range 90 {
		u := operator.Policy(t, securityPolicy, s.Payments, policyName)
		u.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "n": strconv.Itoa(i)})
		if err := operator.Kube.Update(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		s.Op.SeesPolicy(securityPolicy, s.Payments, policyName)
		s.Op.Round(s.Payments)
	}
	reads := 0
	for _, r := range s.Op.Requests.Sent() {
		if strings.HasPrefix(r, "GET ") && strings.Contains(r, "/securitypolicies/") {
			reads++
		}
	}
	if reads < 10 || reads > 64 {
		t.Errorf("the policy was read %d times", reads)
	}
	enforced(s, v1alpha1.ReasonEnforcing, "too often")
	s.Op.Advance(2 * time.Second)
	s.Settle()
	enforced(s, v1alpha1.ReasonEnforced)
}
