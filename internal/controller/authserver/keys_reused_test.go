// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAKeyIsReplacedUnderItsID: the bundle lists the published key first. The operator
// replaces the tokens that the former key signed, and removes that key when they are
// gone.
func TestAKeyIsReplacedUnderItsID(t *testing.T) {
	op := operator.StartStepped(t)
	for name, replace := range map[string]func(*oidc.Server) error{
		"another key":       (*oidc.Server).ReuseKeyID,
		"another algorithm": func(as *oidc.Server) error { as.ChangeKeyAlgorithm("PS256"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op, func(o *oidc.Options) { o.Algorithm = "RS256" })
			s.Verifies()
			kid, old := s.AS.KeyID(), s.Token()
			keys := func() []jwks.Key {
				t.Helper()
				keys, left, err := jwks.Parse([]byte(s.Bundle().Data["jwks.json"]))
				if err != nil || len(left) > 0 {
					t.Fatalf("the bundle's keys: %v, left out %v", err, left)
				}
				return keys
			}
			verified := func(token string, by []jwks.Key) bool {
				_, err := jwks.Verify(token, by, jwks.Expectation{Issuer: s.AS.Issuer(), Now: op.Clock.Now()})
				return err == nil
			}
			isTold := func() bool {
				c := operator.HasCondition(t, s.Server(s.Payments), v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
				return strings.Contains(c.Message, `has replaced "`+kid+`" under the same ID`)
			}
			s.AS.SetFault(oidc.Token, &oidc.Fault{Status: 503}) // the token in use stays in use
			if err := replace(s.AS); err != nil {
				t.Fatal(err)
			}
			op.Advance(authserver.DefaultKeyRefreshInterval)
			s.Settle()
			s.Until(op.Clock.Now().Add(2 * authserver.SupersededGrace))
			fresh, err := s.AS.SignToken(nil)
			if err != nil {
				t.Fatal(err)
			}
			if k := keys(); len(k) != 2 || !verified(fresh, k[:1]) || !verified(old, k) {
				t.Fatalf("the bundle has %d keys; the first is the published one: %v; the token in use verifies: %v",
					len(k), verified(fresh, k[:1]), verified(old, k))
			}
			if s.Token() != old || !isTold() {
				t.Errorf("the token is the same: %v; the condition says that the key was replaced: %v", s.Token() == old, isTold())
			}
			operator.IsReady(t, s.Cart)

			s.AS.ClearFaults()
			s.AS.ResetRequests()
			for range 60 {
				if s.Token() == old {
					s.Until(op.Clock.Now().Add(10 * time.Second))
				}
			}
			s.Until(op.Clock.Now().Add(authserver.SupersededGrace - 30*time.Second))
			if len(keys()) != 2 || s.Token() == old {
				t.Fatalf("the bundle has %d keys while pods may read the former token; there is a new one: %v", len(keys()), s.Token() != old)
			}
			s.Until(op.Clock.Now().Add(2 * authserver.SupersededGrace))
			if k := keys(); len(k) != 1 || !verified(s.Token(), k) || isTold() {
				t.Errorf("the bundle has %d keys, the token verifies: %v, the condition mentions the replaced key: %v", len(k), verified(s.Token(), k), isTold())
			}
			if n := s.AS.Count(oidc.Token); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			operator.IsReady(t, s.Cart)
			server := s.Server(s.Payments)
			operator.IsReady(t, server)
			operator.Told(t, server, v1alpha1.ReasonFormerKeyLeft, `has replaced "`+kid+`"`)
		})
	}
}
