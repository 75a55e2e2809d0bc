// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// TestMoreKeysThanAreKept: of a set with more keys than can be kept those stay that
// tokens are signed with, wherever they are in it.
func TestMoreKeysThanAreKept(t *testing.T) {
	op := startStepped(t)
	for name, count := range map[string]int{"more than are kept": 40, "more than are read": 90} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			s.verifies()
			var others []any
			for i := range count {
				others = append(others, oddKey(t, fmt.Sprintf("other-%d", i)))
			}
			s.as.AddFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
				m["keys"] = slices.Concat(others, m["keys"].([]any))
			}})
			old := s.as.KeyID()
			op.advance(authserver.DefaultKeyRefreshInterval)
			s.settle()
			if !slices.Contains(bundledKeys(t, s.bundle()), old) {
				t.Error("the bundle has lost the key of the token in use")
			}
			c := hasCondition(t, s.server(s.payments), v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
			want := fmt.Sprintf("left out %d keys of the JWKS", count+1-jwks.MaxRecords)
			if !strings.Contains(c.Message, want) || !strings.Contains(c.Message, "is beyond the 32 keys that are kept (and ") {
				t.Errorf("the message %q does not say %q and why", c.Message, want)
			}

			// The set is fetched before a token names the new key, and then once more though
			// it has not changed.
			kid, err := s.as.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			op.advance(authserver.DefaultKeyRefreshInterval)
			s.settle()
			s.due()
			s.until(op.clock.Now().Add(20 * time.Second))
			if got := keyOfToken(t, s.token()); got != kid {
				t.Errorf("the token is signed by %s, want %s", got, kid)
			}
			keys := bundledKeys(t, s.bundle())
			if len(keys) != jwks.MaxRecords || !slices.Contains(keys, old) || !slices.Contains(keys, kid) {
				t.Errorf("the bundle has %d keys, which are %v", len(keys), keys)
			}
			isReady(t, s.cart)
		})
	}
}

// TestKeysThatServersWriteOtherwise: keys that RFC 7518 would have written otherwise
// are in the bundle, as it wants them.
func TestKeysThatServersWriteOtherwise(t *testing.T) {
	op := startStepped(t)
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			s := newStage(t, op, func(o *oidc.Options) { o.LooseKeys, o.Algorithm = true, alg })
			s.verifies()
			if err := verifyWithFiles(s.token(), s.bundle()); err != nil {
				t.Error(err)
			}
			file := s.bundle().Data["jwks.json"]
			if !strings.Contains(file, `"alg":"`+alg+`"`) || strings.Contains(file, "=") {
				t.Errorf("the bundle has the keys %s", file)
			}
		})
	}
}

// TestAKeyThatCannotBeUsed: the server signs with a key that it publishes and that
// no verifier should accept. Both it and the client are told which and why.
func TestAKeyThatCannotBeUsed(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op, func(o *oidc.Options) { o.Algorithm = "RS256" })
	old := s.token()
	s.as.SetRSABits(1024)
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.due()
	s.until(op.clock.Now().Add(time.Minute))
	const why = "is an RSA key of less than 2048 bits"
	c := hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonUnusableKey)
	if want := fmt.Sprintf("signed with the key %q, which the server publishes and which %s; have the server sign with another key", kid, why); !strings.Contains(c.Message, want) {
		t.Errorf("the message is %q, want %q in it", c.Message, want)
	}
	if s.token() != old {
		t.Error("a token that nobody verifies was published")
	}
	server := s.server(s.payments)
	c = hasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	if want := fmt.Sprintf("; left out: the key %q %s", kid, why); !strings.HasSuffix(c.Message, want) {
		t.Errorf("the server's message is %q, want %q at its end", c.Message, want)
	}
	if diff := cmp.Diff([]v1alpha1.KeyLeftOut{{KeyID: kid, Reason: why}}, server.Status.KeysLeftOut); diff != "" {
		t.Errorf("keys left out (-want +got):\n%s", diff)
	}

	s.as.SetRSABits(2048)
	if err := s.as.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	s.until(op.clock.Now().Add(6*time.Minute + time.Second))
	hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	server = s.server(s.payments)
	isReady(t, server)
	if got := keyOfToken(t, s.token()); got != s.as.KeyID() || len(server.Status.KeysLeftOut) > 0 {
		t.Errorf("the token is signed by %s, want %s; left out are %v", got, s.as.KeyID(), server.Status.KeysLeftOut)
	}
}
