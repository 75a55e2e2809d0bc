// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// Apart is a run in which the clocks of the operator, the API server and the authorization server differ.
const Apart Fault = "clocks apart"

// clocks is how far a clock is ahead of the operator's.
type clocks struct{ apiServer, authorizationServer time.Duration }

// TestClocks runs scenarios with clocks that are up to five minutes apart, as far as tokens stay acceptable to the
// API: an authorization server may be behind, and ahead as far as verification.clockSkew allows. The end is as with
// one clock, and nothing is issued twice.
func TestClocks(t *testing.T) {
	all, f := newPlaces(t, 4), newFigures(t)
	for _, s := range scenarios() {
		if s.logto || os.Getenv("SHORT") != "" && !slices.Contains([]string{"refresh", "key rotation"}, s.name) {
			continue // the tokens of a Logto have its clock, and are no other tokens
		}
		t.Run(s.name, func(t *testing.T) {
			p := <-all
			_, free := play(t, p, s, nil, "")
			all <- p
			for _, c := range []clocks{
				{apiServer: 5 * time.Minute}, {apiServer: -5 * time.Minute}, {authorizationServer: -5 * time.Minute}, {authorizationServer: 20 * time.Second},
				{5 * time.Minute, -5 * time.Minute}, {-5 * time.Minute, 20 * time.Second},
			} {
				t.Run(fmt.Sprintf("API_server_%s_authorization_server_%s", c.apiServer, c.authorizationServer), func(t *testing.T) {
					t.Parallel()
					p := <-all
					defer func() { all <- p }()
					start := time.Now()
					defer func() { f.add(s.name, Apart, t.Failed(), time.Since(start)) }()
					r, o := playApart(t, p, s, c)
					judgeSame(t, free, r, o)
				})
			}
		})
	}
}

// playApart runs a scenario with clocks that are apart.
func playApart(t *testing.T, p *place, s *scenario, c clocks) (*run, *outcome) {
	t.Helper()
	apart := *s
	apart.ahead = c.authorizationServer
	r := newRun(t, p, &apart)
	r.clock.SetTime(r.clock.Now().Add(-c.apiServer))
	r.start()
	defer r.clean()
	for _, step := range s.before {
		step.take(r)
	}
	past := len(r.wire.Calls())
	for _, step := range s.steps {
		step.take(r)
	}
	return r, r.conclude(past)
}

// TestAServerAhead sets the clock of an authorization server five minutes ahead, which is more than the API allows
// for. The status says so, and the operator asks the server only now and then. The token comes once the API allows for it.
func TestAServerAhead(t *testing.T) {
	all := newPlaces(t, 1)
	s := &scenario{ahead: 5 * time.Minute}
	r := newRun(t, <-all, s)
	r.start()
	defer r.clean()
	story(r)
	r.settle(time.Hour)
	verified := meta.FindStatusCondition(r.cart().Status.Conditions, v1alpha1.ConditionVerified)
	if verified == nil || verified.Reason != jwks.ReasonNotYetValid || !strings.Contains(verified.Message, "compare the clocks") {
		t.Errorf("the status does not say that the clocks are apart: %+v", verified)
	}
	if n := len(r.log.issued); n < 1 || n > 30 {
		t.Errorf("%d token requests in an hour, want a few", n)
	}
	operator.Change(t, r.api(), func(a *v1alpha1.APIResource) { a.Spec.Verification.ClockSkew = "5m" })
	r.settle(time.Hour)
	if len(r.log.shown["cart-token"]) != 1 {
		t.Error("the token did not come after the API had allowed for clocks that are five minutes apart")
	}
	r.conclude(0)
}
