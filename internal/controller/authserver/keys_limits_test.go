// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestMoreKeysThanAreKept: if a set has more keys than the operator keeps, the keys
// that tokens are signed with stay, at whatever position.
func TestMoreKeysThanAreKept(t *testing.T) {
	op := operator.StartStepped(t)
	for name, count := range map[string]int{"more than are kept": 40, "more than are read": 90} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			var others []any
			for i := range count {
				others = append(others, operator.OddKey(t, fmt.Sprintf("other-%d", i)))
			}
			s.AS.AddFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
				m["keys"] = slices.Concat(others, m["keys"].([]any))
			}})
			old := s.AS.KeyID()
			op.Advance(authserver.DefaultKeyRefreshInterval)
			s.Settle()
			if !slices.Contains(operator.BundledKeys(t, s.Bundle()), old) {
				t.Error("the bundle has lost the key of the token in use")
			}
			c := operator.HasCondition(t, s.Server(s.Payments), v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
			want := fmt.Sprintf("left out %d keys of the JWKS", count+1-jwks.MaxRecords)
			if !strings.Contains(c.Message, want) || !strings.Contains(c.Message, "is beyond the 32 keys that are kept (and ") {
				t.Errorf("the message %q does not say %q and why", c.Message, want)
			}

			// The operator fetches the set before a token names the new key, and then once
			// more, although the set has not changed.
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			op.Advance(authserver.DefaultKeyRefreshInterval)
			s.Settle()
			s.Due()
			s.Until(op.Clock.Now().Add(20 * time.Second))
			if got := operator.KeyOfToken(t, s.Token()); got != kid {
				t.Errorf("the token is signed by %s, want %s", got, kid)
			}
			keys := operator.BundledKeys(t, s.Bundle())
			if len(keys) != jwks.MaxRecords || !slices.Contains(keys, old) || !slices.Contains(keys, kid) {
				t.Errorf("the bundle has %d keys, which are %v", len(keys), keys)
			}
			operator.IsReady(t, s.Cart)
		})
	}
}

// TestKeysThatServersWriteOtherwise: keys whose encoding differs from RFC 7518 are in
// the bundle in the form that it requires.
func TestKeysThatServersWriteOtherwise(t *testing.T) {
	op := operator.StartStepped(t)
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			s := operator.NewStage(t, op, func(o *oidc.Options) { o.LooseKeys, o.Algorithm = true, alg })
			s.Verifies()
			if err := operator.VerifyWithFiles(s.Token(), s.Bundle()); err != nil {
				t.Error(err)
			}
			file := s.Bundle().Data["jwks.json"]
			if !strings.Contains(file, `"alg":"`+alg+`"`) || strings.Contains(file, "=") {
				t.Errorf("the bundle has the keys %s", file)
			}
		})
	}
}

// TestAKeyThatCannotBeUsed: the server signs with a published key that no verifier
// should accept. The conditions of the server and of the client say which key, and
// why.
func TestAKeyThatCannotBeUsed(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op, func(o *oidc.Options) { o.Algorithm = "RS256" })
	old := s.Token()
	s.AS.SetRSABits(1024)
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.Until(op.Clock.Now().Add(time.Minute))
	const why = "is an RSA key of less than 2048 bits"
	c := operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnusableKey)
	if want := fmt.Sprintf("signed with the key %q, which the server publishes but which %s; configure the server to sign with another key", kid, why); !strings.Contains(c.Message, want) {
		t.Errorf("the message is %q, want %q in it", c.Message, want)
	}
	if s.Token() != old {
		t.Error("a token that no API can verify was published")
	}
	server := s.Server(s.Payments)
	c = operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	if want := fmt.Sprintf("; left out: the key %q %s", kid, why); !strings.HasSuffix(c.Message, want) {
		t.Errorf("the server's message is %q, want %q at its end", c.Message, want)
	}
	if diff := cmp.Diff([]v1alpha1.KeyLeftOut{{KeyID: kid, Reason: why}}, server.Status.KeysLeftOut); diff != "" {
		t.Errorf("keys left out (-want +got):\n%s", diff)
	}

	s.AS.SetRSABits(2048)
	if err := s.AS.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.Until(op.Clock.Now().Add(6*time.Minute + time.Second))
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	server = s.Server(s.Payments)
	operator.IsReady(t, server)
	if got := operator.KeyOfToken(t, s.Token()); got != s.AS.KeyID() || len(server.Status.KeysLeftOut) > 0 {
		t.Errorf("the token is signed by %s, want %s; left out are %v", got, s.AS.KeyID(), server.Status.KeysLeftOut)
	}
}
