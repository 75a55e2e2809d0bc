// SPDX-License-Identifier: Apache-2.0

package shard_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// asks makes the main instance check what the cart waits for.
func (s *instances) asks() time.Duration {
	s.T.Helper()
	s.main.Agrees(s.main.Client, &v1alpha1.M2MClientList{}, client.InNamespace(s.Shop))
	result, err := s.main.ShardedClients.Reconcile(s.T.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.Cart)))
	if err != nil {
		s.T.Fatal(err)
	}
	s.main.SettleServers(s.World)
	return result.RequeueAfter
}

// TestAKeyThatAShardDoesNotKnow: only the main instance fetches keys. The status of a
// shard's client tells it that they are needed.
func TestAKeyThatAShardDoesNotKnow(t *testing.T) {
	for name, tc := range map[string]struct {
		withoutToken bool // no predecessor works
		tooSoon      bool // the keys were fetched for another client a moment ago
	}{
		"a token waits for its key":                         {},
		"no token works":                                    {withoutToken: true},
		"a token waits, and the keys were fetched just now": {tooSoon: true},
		"no token works, and they were fetched just now":    {withoutToken: true, tooSoon: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newInstances(t, rest.CopyConfig(operator.RESTConfig))
			s.Rarely()
			s.handOver("a")
			s.reconciles(s.a)
			s.Due()
			if tc.tooSoon {
				srv, _, err := s.main.Shared.Access.Server(t.Context(), s.API.Spec.AuthorizationServerRef, s.Payments)
				if err != nil || !s.main.Shared.KeyRequests.Request(srv, "") {
					t.Fatalf("the keys are not fetched: %v", err)
				}
				s.main.SettleServers(s.World)
			}
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			if tc.withoutToken {
				operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Shop, Name: "cart-token"}})
				follow(s.a, s.World)
			}
			s.AS.ResetRequests()
			s.reconciles(s.a)
			if at := s.Status(); at.Pending.KeyID != kid {
				t.Fatalf("the status does not say which key is missing: %+v", at)
			}
			if tc.tooSoon {
				if again := s.asks(); again != servers.KeyRefetchInterval || s.AS.Count(oidc.JWKS) != 0 {
					t.Errorf("it checks again after %s, and the keys were fetched %d times", again, s.AS.Count(oidc.JWKS))
				}
				s.main.Advance(servers.KeyRefetchInterval)
			}
			s.asks()
			if n := s.AS.Count(oidc.JWKS); n != 1 {
				t.Errorf("the keys were fetched %d times, want once", n)
			}
			follow(s.a, s.World)
			s.reconciles(s.a)
			if got := operator.KeyOfToken(t, s.Token()); got != kid {
				t.Errorf("the token is signed by %s, want the new key %s", got, kid)
			}
			operator.IsReady(t, s.Cart)
			s.main.Advance(servers.KeyRefetchInterval)
			if again := s.asks(); again != 0 || s.AS.Count(oidc.JWKS) != 1 {
				t.Errorf("with the key, it checks again after %s, and the keys were fetched %d times", again, s.AS.Count(oidc.JWKS))
			}
			if n := s.AS.Count(oidc.Token); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}

// TestARefusalInAShardHasTheAPICompared: somebody may have changed the API at its
// server, and only the main instance compares APIs.
func TestARefusalInAShardHasTheAPICompared(t *testing.T) {
	for name, tc := range map[string]struct {
		failure v1alpha1.TokenFailure
		shard   string
		want    bool
	}{
		"the request is refused":           {v1alpha1.TokenFailure{Reason: v1alpha1.ReasonTokenRequestRefused}, "a", true},
		"scopes are missing":               {v1alpha1.TokenFailure{Reason: jwks.ReasonMissingScopes}, "a", true},
		"the server does not answer":       {v1alpha1.TokenFailure{Reason: v1alpha1.ReasonTokenRequestFailed}, "a", false},
		"nothing fails":                    {v1alpha1.TokenFailure{}, "a", false},
		"the client is the instance's own": {v1alpha1.TokenFailure{Reason: v1alpha1.ReasonTokenRequestRefused}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			op, w := operator.StartStepped(t, operator.OfShard("")), operator.NewWorld(t)
			api, cart := w.API(), w.Cart()
			cart.Spec.Credentials, cart.Spec.AuthorizationServerRef = v1alpha1.ClientCredentials{}, v1alpha1.AuthorizationServerReference{}
			cart.Labels = map[string]string{v1alpha1.ShardLabel: tc.shard}
			operator.Create(t, w.Server(w.Payments), api, cart)
			if tc.failure.Reason != "" {
				tc.failure.Message, tc.failure.Attempts, tc.failure.NextAttemptAt, tc.failure.Inputs = "It fails", 1, record.Time(op.Clock.Now()), "inputs"
			}
			cart.Status.Tokens = []v1alpha1.TokenStatus{{Key: "payment-api", Failure: tc.failure}}
			if err := operator.Kube.Status().Update(t.Context(), cart); err != nil {
				t.Fatal(err)
			}
			op.CatchUp(w.Payments, w.Shop)
			if _, err := op.ShardedClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(cart))); err != nil {
				t.Fatal(err)
			}
			if got := op.APIProvisioning.Wishes.Wanted(client.ObjectKeyFromObject(api)); got != tc.want {
				t.Errorf("a comparison of the API is requested: %t, want %t", got, tc.want)
			}
		})
	}
}
