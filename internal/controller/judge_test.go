// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// demand changes what the payment API demands of tokens.
func (s *stage) demand(set func(*v1alpha1.Verification)) {
	s.t.Helper()
	change(s.t, s.api, func(a *v1alpha1.APIResource) { set(&a.Spec.Verification) })
}

func demandNothing(v *v1alpha1.Verification) { *v = v1alpha1.Verification{} }

func demandAnotherType(v *v1alpha1.Verification) { v.TokenType = "JWT" }

func demandRSA(v *v1alpha1.Verification) {
	v.Algorithms = []v1alpha1.SignatureAlgorithm{"RS256"}
}

// signsWithRSA has the server sign with an RSA key from now on, and the operator learn
// that key while the cart's token, signed with another one, is good for long.
func (s *stage) signsWithRSA() {
	s.t.Helper()
	s.as.SetAlgorithm("RS256")
	if _, err := s.as.RotateKey(); err != nil {
		s.t.Fatal(err)
	}
	s.op.advance(5 * time.Minute)
	s.settle()
	s.op.advance(delivery.KubeletDelay)
	s.settle()
	s.as.ResetRequests()
}

// keepsNoKeys has keys leave the operator as soon as the server no longer publishes
// them.
func (s *stage) keepsNoKeys() {
	s.t.Helper()
	for _, ns := range []string{s.payments, s.shop} {
		change(s.t, s.server(ns), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.Retention = "0s" })
	}
	s.settle()
}

func (s *stage) requested(want int) {
	s.t.Helper()
	if n := s.as.Count(oidc.Token); n != want {
		s.t.Errorf("%d token requests, want %d", n, want)
	}
}

// TestATokenInUseIsJudgedAgain: when what its API is given changes, and then once.
func TestATokenInUseIsJudgedAgain(t *testing.T) {
	op := startStepped(t)
	replaced := func(s *stage, old string) {
		s.t.Helper()
		if s.token() == old {
			s.t.Error("the token that its API refuses is still there")
		}
		s.requested(1)
		isReady(s.t, s.cart)
		hasCondition(s.t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
		told(s.t, s.cart, v1alpha1.ReasonTokenIssued, "NotVerified")
	}
	refused := func(reason string) func(*stage, string) {
		return func(s *stage, old string) {
			s.t.Helper()
			if s.token() != old {
				s.t.Error("the token was taken away, or replaced by one that is no better")
			}
			s.requested(1)
			hasCondition(s.t, s.cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
			hasCondition(s.t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, reason)
			hasCondition(s.t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenNotVerified)
		}
	}
	for name, tc := range map[string]struct {
		server          func(*oidc.Options)
		prepare, change func(*stage)
		restart         bool
		check           func(s *stage, old string)
	}{
		"an algorithm that the server uses by now": {
			prepare: (*stage).signsWithRSA, change: func(s *stage) { s.demand(demandRSA) }, check: replaced,
		},
		"an algorithm, while the operator was away": {
			prepare: (*stage).signsWithRSA, change: func(s *stage) { s.demand(demandRSA) }, restart: true, check: replaced,
		},
		"an algorithm that the server does not use": {
			change: func(s *stage) { s.demand(demandRSA) }, check: refused(jwks.ReasonAlgorithm),
		},
		"another type": {change: func(s *stage) { s.demand(demandAnotherType) }, check: refused(jwks.ReasonWrongType)},
		"its key has gone": {
			prepare: (*stage).keepsNoKeys,
			change: func(s *stage) {
				if err := s.as.RotateKeyHard(); err != nil {
					s.t.Fatal(err)
				}
				s.op.advance(5 * time.Minute)
			},
			check: replaced,
		},
		"its key is for another algorithm now": {
			server:  func(o *oidc.Options) { o.Algorithm = "RS256" },
			prepare: (*stage).keepsNoKeys,
			change: func(s *stage) {
				s.as.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
					for _, k := range m["keys"].([]any) {
						k.(map[string]any)["alg"] = "PS256"
					}
				}})
				s.op.advance(5 * time.Minute)
			},
			check: refused(jwks.ReasonAlgorithm),
		},
		"nothing that matters": {
			change: func(s *stage) {
				s.demand(func(v *v1alpha1.Verification) {
					v.Algorithms, v.ClockSkew = []v1alpha1.SignatureAlgorithm{"ES256"}, "1m"
				})
			},
			check: func(s *stage, old string) {
				s.t.Helper()
				if s.token() != old {
					s.t.Error("the token was replaced")
				}
				s.requested(0)
				isReady(s.t, s.cart)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			change := []func(*oidc.Options){lifetime(12 * time.Hour)}
			if tc.server != nil {
				change = append(change, tc.server)
			}
			s := newStage(t, op, change...)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			old := s.token()
			if tc.restart {
				s.op = startStepped(t)
				s.op.clock.SetTime(op.clock.Now().Add(time.Second))
			}
			tc.change(s)
			s.settle()
			s.settle()
			tc.check(s, old)
		})
	}
}

// TestATokenThatIsGoodAgainIsKept: the API's owner takes back what he demanded.
func TestATokenThatIsGoodAgainIsKept(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	old := s.token()
	s.demand(demandAnotherType)
	s.settle()
	s.requested(1)
	s.demand(demandNothing)
	s.settle()
	s.requested(1)
	if s.token() != old {
		t.Error("the token was replaced")
	}
	isReady(t, s.cart)
	for condition, reason := range map[string]string{
		v1alpha1.ConditionVerified: v1alpha1.ReasonTokensVerified, v1alpha1.ConditionFresh: v1alpha1.ReasonTokensFresh,
	} {
		hasCondition(t, s.cart, condition, metav1.ConditionTrue, reason)
	}
}

// TestAnAPIsOwnerCausesFewRequests whatever he does to the terms of his API: they are
// made in the names of others.
func TestAnAPIsOwnerCausesFewRequests(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op, lifetime(12*time.Hour))
	for i := range 120 {
		s.demand(demandNothing)
		if i%2 == 0 {
			s.demand(demandAnotherType)
		}
		s.settle()
		op.advance(30 * time.Second)
	}
	if n, most := s.as.Count(oidc.Token), m2mclient.RejudgedRate.Burst+int(time.Hour/m2mclient.RejudgedRate.Every); n > most {
		t.Errorf("%d token requests in an hour, want %d at most", n, most)
	}
}

// termsStage is a stage whose API has a pod that verifies, at a server that has begun
// to sign with RSA: the cart's token is from before.
func termsStage(t *testing.T, op *operator) *stage {
	t.Helper()
	s := newStage(t, op, lifetime(12*time.Hour))
	paymentPod(s, true)
	s.settle()
	s.signsWithRSA()
	return s
}

// terms returns what the API's pods are given besides the keys, by its short name.
func (s *stage) terms() string {
	s.t.Helper()
	var bundle corev1.ConfigMap
	name := types.NamespacedName{Namespace: s.payments, Name: render.ConfigMapName(s.payments, "payment-api")}
	if err := kube.Get(s.t.Context(), name, &bundle); err != nil {
		s.t.Fatal(err)
	}
	contents, _ := verification.ContentsIn(&bundle)
	return contents.Terms
}

// TestTermsWaitForTheTokensInUse: those are replaced before the API's pods are told to
// refuse them.
func TestTermsWaitForTheTokensInUse(t *testing.T) {
	op := startStepped(t)
	s := termsStage(t, op)
	old, before := s.token(), s.terms()
	s.demand(demandRSA)
	s.settle()
	if s.token() == old {
		t.Fatal("the token was not replaced")
	}
	if s.terms() != before {
		t.Fatal("the API's pods got the terms before the client's could see its token")
	}
	isReady(t, s.cart)
	op.advance(delivery.TouchDelay - time.Second)
	s.settle()
	if s.terms() != before {
		t.Error("the API's pods got the terms too early")
	}
	op.advance(time.Second)
	s.settle()
	if s.terms() == before {
		t.Error("the API's pods still have the former terms")
	}
	s.requested(1)
	if s.waiting() != nil {
		t.Error("a token waits")
	}
}

// TestTermsThatNoTokenMeetsAreNotHeldUp: once that is known.
func TestTermsThatNoTokenMeetsAreNotHeldUp(t *testing.T) {
	op := startStepped(t)
	s := termsStage(t, op)
	before := s.terms()
	s.demand(demandAnotherType)
	s.settle()
	if s.terms() == before {
		t.Error("the API's pods still have the former terms")
	}
	hasCondition(t, s.cart, v1alpha1.ConditionVerified, metav1.ConditionFalse, jwks.ReasonWrongType)
}

// TestTermsWaitOnlySoLong for a client that nobody looks at, and not at all where
// nothing in them concerns tokens, or a key is revoked.
func TestTermsWaitOnlySoLong(t *testing.T) {
	op := startStepped(t)
	for name, tc := range map[string]struct {
		change func(*stage)
		waits  bool
	}{
		"another algorithm": {change: func(s *stage) { s.demand(demandRSA) }, waits: true},
		"another description": {change: func(s *stage) {
			change(s.t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Scopes[0].Description = "Read payments" })
		}},
		"another algorithm, and a key is revoked": {change: func(s *stage) {
			change(s.t, s.server(s.payments), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RevokedKeyIDs = []string{s.signedBy()} })
			s.demand(demandRSA)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := termsStage(t, op)
			before := s.terms()
			tc.change(s)
			op.catchUp(s.payments, s.shop)
			bundle := func() {
				t.Helper()
				_, err := op.bundle.Reconcile(t.Context(), verification.Request{Namespace: s.payments, API: client.ObjectKeyFromObject(s.api)})
				if err != nil {
					t.Fatal(err)
				}
				op.awaitBundles()
			}
			bundle()
			if waits := s.terms() == before; waits != tc.waits {
				t.Fatalf("the terms wait: %v, want %v", waits, tc.waits)
			}
			op.advance(delivery.HoldMax - time.Second)
			bundle()
			if waits := s.terms() == before; waits != tc.waits {
				t.Fatalf("the terms still wait: %v, want %v", waits, tc.waits)
			}
			op.advance(time.Second)
			bundle()
			if s.terms() == before {
				t.Error("the terms wait for ever")
			}
		})
	}
}
