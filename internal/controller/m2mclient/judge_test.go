// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/m2mclient"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// demand changes what the payment API requires of tokens.
func demand(s *operator.Stage, set func(*v1alpha1.Verification)) {
	s.T.Helper()
	operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) { set(&a.Spec.Verification) })
}

func demandNothing(v *v1alpha1.Verification) { *v = v1alpha1.Verification{} }

func demandAnotherType(v *v1alpha1.Verification) { v.TokenType = "JWT" }

func demandRSA(v *v1alpha1.Verification) {
	v.Algorithms = []v1alpha1.SignatureAlgorithm{"RS256"}
}

func demandClaim(v *v1alpha1.Verification) {
	v.Audience = v1alpha1.TokenAudience{Claim: "roles", Values: []v1alpha1.ClaimValue{"payments"}}
}

// signWithRSA makes the server sign with an RSA key from now on, and the operator
// learn that key. The cart's token, signed with another key, is still good for long.
func signWithRSA(s *operator.Stage) {
	s.T.Helper()
	s.AS.SetAlgorithm("RS256")
	if _, err := s.AS.RotateKey(); err != nil {
		s.T.Fatal(err)
	}
	s.Op.Advance(5 * time.Minute)
	s.Settle()
	s.Op.Advance(delivery.KubeletDelay)
	s.Settle()
	s.AS.ResetRequests()
}

// keepNoKeys makes the operator drop keys as soon as the server no longer publishes
// them.
func keepNoKeys(s *operator.Stage) {
	s.T.Helper()
	for _, ns := range []string{s.Payments, s.Shop} {
		operator.Change(s.T, s.Server(ns), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.Retention = "0s" })
	}
	s.Settle()
}

// TestATokenInUseIsJudgedAgain: the operator judges a token again when its API's
// bundle changes, and then once.
func TestATokenInUseIsJudgedAgain(t *testing.T) {
	op := operator.StartStepped(t)
	replaced := func(s *operator.Stage, old string) {
		s.T.Helper()
		if s.Token() == old {
			s.T.Error("the token that its API refuses is still there")
		}
		s.Requested(1)
		operator.IsReady(s.T, s.Cart)
		operator.HasCondition(s.T, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		operator.Told(s.T, s.Cart, v1alpha1.ReasonTokenIssued, "NotVerified")
	}
	refused := func(reason string) func(*operator.Stage, string) {
		return func(s *operator.Stage, old string) {
			s.T.Helper()
			if s.Token() != old {
				s.T.Error("the token was removed, or replaced by one that is no better")
			}
			s.Requested(1)
			operator.HasCondition(s.T, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			operator.HasCondition(s.T, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, reason)
			operator.HasCondition(s.T, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		}
	}
	for name, tc := range map[string]struct {
		server          func(*oidc.Options)
		prepare, change func(*operator.Stage)
		restart         bool
		check           func(s *operator.Stage, old string)
	}{
		"an algorithm that the server now uses": {
			prepare: signWithRSA, change: func(s *operator.Stage) { demand(s, demandRSA) }, check: replaced,
		},
		"an algorithm, while the operator was away": {
			prepare: signWithRSA, change: func(s *operator.Stage) { demand(s, demandRSA) }, restart: true, check: replaced,
		},
		"an algorithm that the server does not use": {
			change: func(s *operator.Stage) { demand(s, demandRSA) }, check: refused(jwks.ReasonAlgorithm),
		},
		"another type": {change: func(s *operator.Stage) { demand(s, demandAnotherType) }, check: refused(jwks.ReasonWrongType)},
		"a claim that no token has, while the operator was away": {
			change: func(s *operator.Stage) { demand(s, demandClaim) }, restart: true, check: refused(jwks.ReasonWrongAudience),
		},
		"its key is gone": {
			prepare: keepNoKeys,
			change: func(s *operator.Stage) {
				if err := s.AS.RotateKeyHard(); err != nil {
					s.T.Fatal(err)
				}
				s.Op.Advance(5 * time.Minute)
			},
			check: replaced,
		},
		"its key is for another algorithm now": {
			server:  func(o *oidc.Options) { o.Algorithm = "RS256" },
			prepare: keepNoKeys,
			change: func(s *operator.Stage) {
				s.AS.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
					for _, k := range m["keys"].([]any) {
						k.(map[string]any)["alg"] = "PS256"
					}
				}})
				s.Op.Advance(5 * time.Minute)
			},
			check: refused(jwks.ReasonAlgorithm),
		},
		"nothing that matters": {
			change: func(s *operator.Stage) {
				demand(s, func(v *v1alpha1.Verification) {
					v.Algorithms, v.ClockSkew = []v1alpha1.SignatureAlgorithm{"ES256"}, "1m"
				})
			},
			check: func(s *operator.Stage, old string) {
				s.T.Helper()
				if s.Token() != old {
					s.T.Error("the token was replaced")
				}
				s.Requested(0)
				operator.IsReady(s.T, s.Cart)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			change := []func(*oidc.Options){operator.Lifetime(12 * time.Hour)}
			if tc.server != nil {
				change = append(change, tc.server)
			}
			s := operator.NewStage(t, op, change...)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			old := s.Token()
			if tc.restart {
				s.Op = operator.StartStepped(t)
				s.Op.Clock.SetTime(op.Clock.Now().Add(time.Second))
			}
			tc.change(s)
			s.Settle()
			s.Settle()
			tc.check(s, old)
		})
	}
}

// TestATokenThatIsGoodAgainIsKept: the API's owner withdraws his new requirement.
func TestATokenThatIsGoodAgainIsKept(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	old := s.Token()
	demand(s, demandAnotherType)
	s.Settle()
	s.Requested(1)
	demand(s, demandNothing)
	s.Settle()
	s.Requested(1)
	if s.Token() != old {
		t.Error("the token was replaced")
	}
	operator.IsReady(t, s.Cart)
	for condition, reason := range map[string]string{
		v1alpha1.ConditionVerified: v1alpha1.ReasonTokensVerified, v1alpha1.ConditionFresh: v1alpha1.ReasonTokensFresh,
	} {
		operator.HasCondition(t, s.Cart, condition, metav1.ConditionTrue, reason)
	}
}

// TestAnAPIsOwnerCausesFewRequests: changes of an API's terms cause token requests in
// the names of its clients, so their number is bounded.
func TestAnAPIsOwnerCausesFewRequests(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op, operator.Lifetime(12*time.Hour))
	for i := range 120 {
		demand(s, demandNothing)
		if i%2 == 0 {
			demand(s, demandAnotherType)
		}
		s.Settle()
		op.Advance(30 * time.Second)
	}
	if n, most := s.AS.Count(oidc.Token), m2mclient.RejudgedRate.Burst+int(time.Hour/m2mclient.RejudgedRate.Every); n > most {
		t.Errorf("%d token requests in an hour, want %d at most", n, most)
	}
}

// termsStage is a stage whose API has a pod that verifies, at a server that has begun
// to sign with RSA. The cart's token is older.
func termsStage(t *testing.T, op *operator.Operator) *operator.Stage {
	t.Helper()
	s := operator.NewStage(t, op, operator.Lifetime(12*time.Hour))
	operator.PaymentPod(s, true)
	s.Settle()
	signWithRSA(s)
	return s
}

// termsGiven returns the API's terms in its bundle, everything except the keys, under
// a short name.
func termsGiven(s *operator.Stage) string {
	s.T.Helper()
	var bundle corev1.ConfigMap
	name := types.NamespacedName{Namespace: s.Payments, Name: render.ConfigMapName(s.Payments, "payment-api")}
	if err := operator.Kube.Get(s.T.Context(), name, &bundle); err != nil {
		s.T.Fatal(err)
	}
	contents, _ := verification.ContentsIn(&bundle)
	return contents.Terms
}

// TestTermsWaitForTheTokensInUse: the operator replaces those tokens before the API's
// pods get terms that refuse them.
func TestTermsWaitForTheTokensInUse(t *testing.T) {
	op := operator.StartStepped(t)
	s := termsStage(t, op)
	old, before := s.Token(), termsGiven(s)
	demand(s, demandRSA)
	s.Settle()
	if s.Token() == old {
		t.Fatal("the token was not replaced")
	}
	if termsGiven(s) != before {
		t.Fatal("the API's pods got the terms before the client's could see its token")
	}
	operator.IsReady(t, s.Cart)
	op.Advance(delivery.TouchDelay - time.Second)
	s.Settle()
	if termsGiven(s) != before {
		t.Error("the API's pods got the terms too early")
	}
	op.Advance(time.Second)
	s.Settle()
	if termsGiven(s) == before {
		t.Error("the API's pods still have the former terms")
	}
	s.Requested(1)
	if s.Waiting() != nil {
		t.Error("a token waits")
	}
}

// TestTermsWaitForATokenThatWasIssuedForAResource: the client names the APIResource since then, and keeps its token.
func TestTermsWaitForATokenThatWasIssuedForAResource(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op, operator.Lifetime(12*time.Hour))
	operator.PaymentPod(s, true)
	described := s.Cart.Spec.Access
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = []v1alpha1.Access{{Resource: operator.PaymentAPI, Key: "payment-api", Scopes: described[0].Scopes}}
	})
	s.Settle()
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Access = described })
	s.Settle()
	signWithRSA(s)
	old, before := s.Token(), termsGiven(s)
	demand(s, demandRSA)
	s.Settle()
	if s.Token() == old {
		t.Fatal("the token was not replaced")
	}
	if termsGiven(s) != before {
		t.Error("the API's pods got the terms before the client's could see its token")
	}
	s.Requested(1)
}

// TestTermsThatNoTokenMeetsAreNotHeldUp: once the operator knows that no token meets
// them, it publishes the terms.
func TestTermsThatNoTokenMeetsAreNotHeldUp(t *testing.T) {
	op := operator.StartStepped(t)
	s := termsStage(t, op)
	before := termsGiven(s)
	demand(s, demandAnotherType)
	s.Settle()
	if termsGiven(s) == before {
		t.Error("the API's pods still have the former terms")
	}
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongType)
}

// TestTermsWaitOnlySoLong: the wait for a client that is never reconciled is bounded.
// Terms do not wait at all if they do not concern tokens, or if a key is revoked.
func TestTermsWaitOnlySoLong(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		change func(*operator.Stage)
		waits  bool
	}{
		"another algorithm": {change: func(s *operator.Stage) { demand(s, demandRSA) }, waits: true},
		"another description": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "Read payments" })
		}},
		"another algorithm, and a key is revoked": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.Server(s.Payments), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RevokedKeyIDs = []string{s.SignedBy()} })
			demand(s, demandRSA)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := termsStage(t, op)
			before := termsGiven(s)
			tc.change(s)
			op.CatchUp(s.Payments, s.Shop)
			bundle := func() {
				t.Helper()
				_, err := op.Bundles.Reconcile(t.Context(), verification.Request{Namespace: s.Payments, API: client.ObjectKeyFromObject(s.API)})
				if err != nil {
					t.Fatal(err)
				}
				op.AwaitBundles()
			}
			bundle()
			if waits := termsGiven(s) == before; waits != tc.waits {
				t.Fatalf("the terms wait: %v, want %v", waits, tc.waits)
			}
			op.Advance(delivery.HoldMax - time.Second)
			bundle()
			if waits := termsGiven(s) == before; waits != tc.waits {
				t.Fatalf("the terms still wait: %v, want %v", waits, tc.waits)
			}
			op.Advance(time.Second)
			bundle()
			if termsGiven(s) == before {
				t.Error("the terms wait for ever")
			}
		})
	}
}
