// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
)

// TestReadySaysThatATokenIsNotReplaced while it still works.
func TestReadySaysThatATokenIsNotReplaced(t *testing.T) {
	issued := time.Date(2026, time.March, 1, 21, 40, 59, 0, time.UTC)
	of := func(key string, lifetime time.Duration, problem *rules.Problem) *access {
		return &access{
			subject: subject{key: key}, outcome: outcome{problem: problem},
			present: present{token: "token", Record: &tokensecret.Record{IssuedAt: issued, ExpiresAt: issued.Add(lifetime)}},
		}
	}
	refused := &rules.Problem{Reason: v1alpha1.ReasonTokenRequestRefused, Message: "invalid_client; check Secret \"cart-credentials\""}
	failed := &rules.Problem{Reason: v1alpha1.ReasonTokenRequestFailed, Message: "HTTP 503"}
	budget := &rules.Problem{Reason: v1alpha1.ReasonWaitingForBudget, Message: "The budget is used up", Unknown: true}
	quota := &rules.Problem{Reason: v1alpha1.ReasonSecretRefused, Message: "exceeded quota"}
	expired := of("ca", time.Hour, refused)
	expired.broken = &rules.Problem{Reason: v1alpha1.ReasonTokenExpired, Message: "The token has expired"}
	withoutToken := &access{subject: subject{key: "ca"}, outcome: outcome{problem: refused}}

	for name, tc := range map[string]struct {
		accesses []*access
		written  *rules.Problem
		want     string
	}{
		"nothing fails":     {accesses: []*access{of("ca", time.Hour, nil)}, want: "Every access has a token that works"},
		"the only one":      {accesses: []*access{of("ca", time.Hour, refused)}, want: `The token works until 22:40 UTC, but is not being replaced: invalid_client; check Secret "cart-credentials"`},
		"waiting":           {accesses: []*access{of("ca", time.Hour, budget)}, want: "The token works until 22:40 UTC, but is not being replaced: The budget is used up"},
		"a day and more":    {accesses: []*access{of("ca", 24*time.Hour, failed)}, want: "The token works until 2026-03-02 21:40 UTC, but is not being replaced: HTTP 503"},
		"one of two":        {accesses: []*access{of("ca", time.Hour, nil), of("cb", 2*time.Hour, failed)}, want: `A token works until 23:40 UTC, but is not being replaced: Access "cb": HTTP 503`},
		"the first of two":  {accesses: []*access{of("ca", 2*time.Hour, failed), of("cb", time.Hour, refused)}, want: `A token works until 22:40 UTC, but is not being replaced: Access "cb": invalid_client; check Secret "cart-credentials"`},
		"no write":          {accesses: []*access{of("ca", 2*time.Hour, nil), of("cb", time.Hour, nil)}, written: quota, want: "A token works until 22:40 UTC, but is not being replaced: exceeded quota"},
		"one that is over":  {accesses: []*access{expired}, want: "The token has expired"},
		"one without token": {accesses: []*access{withoutToken}, want: "Every access has a token that works"},
		"a long one": {accesses: []*access{of("ca", time.Hour, &rules.Problem{Reason: v1alpha1.ReasonTokenRequestFailed, Message: strings.Repeat("ä", 2000)})},
			want: "The token works until 22:40 UTC, but is not being replaced: " + strings.Repeat("ä", 1024-61) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pass{Client: &v1alpha1.M2MClient{}, Accesses: tc.accesses, storage: storage{written: tokensecret.Written{Refused: tc.written}}}
			got := p.isReady(p.isGranted(), p.isFresh())
			if got.Message != tc.want {
				t.Errorf("got  %q\nwant %q", got.Message, tc.want)
			}
			if works := tc.accesses[0].broken == nil; works != (got.Status == metav1.ConditionTrue) {
				t.Errorf("Ready is %s", got.Status)
			}
			if n := utf8.RuneCountInString(got.Message); n > 1024 {
				t.Errorf("the message has %d characters", n)
			}
		})
	}
}
