// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// rotatedStage is a stage with a pod that verifies, at the moment when the
// cart's token is due and the server has just begun to sign with another key.
func rotatedStage(t *testing.T, op *operator, injected bool, change ...func(*oidc.Options)) (s *stage, pod *corev1.Pod) {
	t.Helper()
	s = newStage(t, op, change...)
	pod = paymentPod(s, injected)
	s.settle()
	s.due()
	if _, err := s.as.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.as.ResetRequests()
	op.requests.reset()
	s.settle()
	return s, pod
}

// paymentPod creates a pod that verifies tokens for the payment API.
func paymentPod(s *stage, injected bool) *corev1.Pod {
	s.t.Helper()
	annotations := []string{v1alpha1.VerifyAnnotation, "payment-api"}
	if injected {
		annotations = append(annotations, v1alpha1.InjectedAnnotation, "configmap/"+render.ConfigMapName(s.payments, "payment-api"))
	}
	pod := annotatedPod(s.payments, "payment", annotations...)
	create(s.t, pod)
	return pod
}

func (s *stage) signedBy() string { s.t.Helper(); return keyOfToken(s.t, s.token()) }

// waiting returns the Secret with the cart's tokens that wait, nil if there is
// none.
func (s *stage) waiting() *corev1.Secret {
	s.t.Helper()
	var secret corev1.Secret
	err := kube.Get(s.t.Context(), tokensecret.WaitingName(s.cart), &secret)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return &secret
}

// isHeld fails unless the old token is in the Secret and a new one waits.
func (s *stage) isHeld() {
	s.t.Helper()
	pending := s.status().Pending
	switch {
	case s.signedBy() == s.as.KeyID():
		s.t.Fatal("the token with the new key was published at once")
	case pending.KeyID != s.as.KeyID():
		s.t.Fatalf("the status says that a token with the key %q waits, not %q", pending.KeyID, s.as.KeyID())
	case s.waiting() == nil:
		s.t.Fatal("the token waits in memory only")
	}
	isReady(s.t, s.cart)
	hasCondition(s.t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
}

// isPublished fails unless the token with the new key is in the Secret, by one
// token request, and nothing waits.
func (s *stage) isPublished() {
	s.t.Helper()
	if s.signedBy() != s.as.KeyID() {
		s.t.Error("the token with the new key is still held back")
	}
	if s.status().Pending.Since != nil || s.waiting() != nil {
		s.t.Errorf("a token waits: %+v", s.status().Pending)
	}
	if n := s.as.Count(oidc.Token); n != 1 {
		s.t.Errorf("%d token requests, want 1", n)
	}
}

func TestATokenWaitsForThePodsOfItsAPI(t *testing.T) {
	op := startStepped(t)
	s, pod := rotatedStage(t, op, true)
	s.isHeld()
	if touchedAt(t, pod) == "" || op.touches() != 1 {
		t.Fatalf("the pod was touched %d times", op.touches())
	}
	op.advance(delivery.TouchDelay - time.Second)
	s.settle()
	s.isHeld()
	op.advance(time.Second)
	s.settle()
	s.isPublished()

	// The key is everywhere now: what comes after it waits for nothing and
	// touches nobody.
	s.due()
	s.as.ResetRequests()
	s.settle()
	s.isPublished()
	if n := op.touches(); n != 1 {
		t.Errorf("%d touches, want 1", n)
	}
}

// TestATokenWaitsForAKubelet: where nobody touches the pods, their kubelets show
// the change in time.
func TestATokenWaitsForAKubelet(t *testing.T) {
	off := startStepped(t, func(o *Options) { o.PromptDelivery = false })
	on := startStepped(t)
	for name, tc := range map[string]struct {
		op       *operator
		injected bool
	}{
		"prompt delivery is off":                     {off, true},
		"the pod mounts the bundle by its own means": {on, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := rotatedStage(t, tc.op, tc.injected)
			s.isHeld()
			tc.op.advance(delivery.KubeletDelay - time.Second)
			s.settle()
			s.isHeld()
			tc.op.advance(time.Second)
			s.settle()
			s.isPublished()
			if at := touchedAt(t, pod); at != "" {
				t.Errorf("the pod was touched at %s", at)
			}
		})
	}
}

// TestNoTokenExpiresForWaiting: half of what is left to the old token is the
// longest that the new one waits.
func TestNoTokenExpiresForWaiting(t *testing.T) {
	op := startStepped(t)
	for name, hinder := range map[string]func(*stage, *corev1.Pod){
		"a pod that nobody touches": func(*stage, *corev1.Pod) {},
		"a pod that says it will be touched in a year": func(s *stage, pod *corev1.Pod) {
			change(s.t, pod, func(p *corev1.Pod) {
				p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(op.clock.Now().Add(365 * 24 * time.Hour))
			})
		},
		"another namespace's pod": func(s *stage, pod *corev1.Pod) {
			other := newNamespace(s.t, "other", nil)
			create(s.t, annotatedPod(other, "x", v1alpha1.VerifyAnnotation, s.payments+"/payment-api"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := rotatedStage(t, op, false, lifetime(3*time.Minute))
			hinder(s, pod)
			s.settle()
			s.isHeld()
			old := s.status()
			left := old.ExpiresAt.Sub(old.Pending.Since.Time)
			if at := old.Pending.PublishAt.Sub(old.Pending.Since.Time); at > left/2+time.Second || at < left/2-time.Second {
				t.Errorf("the token may wait for %v, of %v that are left", at, left)
			}
			op.clock.SetTime(old.Pending.PublishAt.Add(-2 * time.Second))
			s.settle()
			s.isHeld()
			op.clock.SetTime(old.Pending.PublishAt.Time)
			s.settle()
			s.isPublished()
		})
	}
}

// TestPodsThatStartedSinceAreNotWaitedFor has all of a story happen before the
// pod is created.
func TestPodsThatStartedSinceAreNotWaitedFor(t *testing.T) {
	op := startStepped(t)
	op.advance(-2 * time.Hour)
	s, _ := rotatedStage(t, op, true)
	s.isPublished()
	if n := op.touches(); n != 0 {
		t.Errorf("%d touches, want none", n)
	}
}

// TestARestartWhileATokenWaits changes nothing: the token is the same, and no
// other is asked for.
func TestARestartWhileATokenWaits(t *testing.T) {
	op := startStepped(t)
	s, pod := rotatedStage(t, op, true)
	s.isHeld()
	token := string(s.waiting().Data["payment-api"])
	touched := touchedAt(t, pod)
	op.stop()

	s.op = startStepped(t)
	s.op.clock.SetTime(op.clock.Now().Add(time.Second))
	s.settle()
	s.isHeld()
	s.op.advance(delivery.TouchDelay)
	s.settle()
	s.isPublished()
	if s.token() != token {
		t.Error("another token was published than the one that waited")
	}
	if again := touchedAt(t, pod); again != touched {
		t.Errorf("the pod was touched again at %s", again)
	}
}

// TestTheSecretIsRenamedWhileATokenWaits: the token goes on waiting, and nothing of
// it is left behind.
func TestTheSecretIsRenamedWhileATokenWaits(t *testing.T) {
	op := startStepped(t)
	s, _ := rotatedStage(t, op, true)
	s.isHeld()
	change(t, s.cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "renamed" })
	s.settle()
	op.advance(delivery.TouchDelay)
	s.settle()
	if got := keyOfToken(t, tokenIn(t, s.shop, "renamed", "payment-api")); got != s.as.KeyID() {
		t.Errorf("the token is signed by %s, want %s", got, s.as.KeyID())
	}
	if n := s.as.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	var secrets corev1.SecretList
	if err := kube.List(t.Context(), &secrets, client.InNamespace(s.shop), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		if secret.Name != "renamed" {
			t.Errorf("the Secret %q is left", secret.Name)
		}
	}
}

// TestATokenIsLookedAtWhenItsWaitEnds lets the operator come back by itself.
func TestATokenIsLookedAtWhenItsWaitEnds(t *testing.T) {
	op := startStepped(t)
	for name, touched := range map[string]time.Duration{
		"nobody touches the pod":                    0,
		"the pod says it will be touched in a year": 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := rotatedStage(t, op, false)
			if touched > 0 {
				change(t, pod, func(p *corev1.Pod) {
					p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(op.clock.Now().Add(touched))
				})
				s.settle()
			}
			s.isHeld()
			s.until(op.clock.Now().Add(delivery.KubeletDelay + time.Second))
			s.isPublished()
		})
	}
}

// TestScopesWaitForThePodsOfTheirAPI: the API's pods must know a scope before a
// token carries it.
func TestScopesWaitForThePodsOfTheirAPI(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	pod := paymentPod(s, true)
	s.settle()
	op.advance(time.Minute)
	op.requests.reset()
	s.as.SetResource(paymentAPI, "payments:read", "payments:write", "payments:refund")
	err := s.as.SetClient(oidc.Client{
		ID: cartID, Secret: s.credential(), Method: oidc.SecretBasic, Scopes: map[string][]string{paymentAPI: {"payments:refund"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	change(t, s.api, func(a *v1alpha1.APIResource) {
		a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: "payments:refund"})
		a.Spec.Grants[0].Scopes = append(a.Spec.Grants[0].Scopes, "payments:refund")
	})
	change(t, s.cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:refund"} })
	old := s.token()
	s.settle()
	if s.token() != old {
		t.Fatal("a token was published with a scope that the API's pods do not know")
	}
	if touchedAt(t, pod) == "" {
		t.Error("the API's pod was not touched")
	}
	op.advance(delivery.TouchDelay)
	s.settle()
	if s.token() == old || !slices.Contains(s.status().Scopes, "payments:refund") {
		t.Errorf("the token still waits, or has the scopes %v", s.status().Scopes)
	}
}

// TestARevokedKeyLeavesPodsAtOnce: nothing waits, and both sides see it.
func TestARevokedKeyLeavesPodsAtOnce(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	pod := paymentPod(s, true)
	caller := annotatedPod(s.shop, "cart", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	create(t, caller)
	s.settle()
	op.advance(time.Minute)
	leaked := s.signedBy()
	if _, err := s.as.RotateKey(); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{s.payments, s.shop} {
		change(t, s.server(ns), func(a *v1alpha1.AuthorizationServer) {
			a.Spec.JWKS.RevokedKeyIDs = []string{leaked}
		})
	}
	s.op.until(s.world, func() bool { op.advance(time.Second); return s.signedBy() == s.as.KeyID() })
	if s.waiting() != nil {
		t.Error("a token waits while its predecessor is revoked")
	}
	for _, p := range []*corev1.Pod{pod, caller} {
		if touchedAt(t, p) == "" {
			t.Errorf("pod %q was not touched", p.Name)
		}
	}
}

// TestAnOldKeyThatIsRevokedLeavesPodsAtOnce: also one that signs no token any
// more, for whoever has stolen it signs some.
func TestAnOldKeyThatIsRevokedLeavesPodsAtOnce(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	stolen := s.signedBy()
	if _, err := s.as.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.due()
	s.settle()
	pod := paymentPod(s, true)
	s.settle()
	op.advance(2 * delivery.KubeletDelay)
	s.settle()
	if at := touchedAt(t, pod); at != "" || s.signedBy() == stolen {
		t.Fatalf("nothing has happened, and the pod was touched at %q; the token is signed by %q", at, s.signedBy())
	}
	for _, ns := range []string{s.payments, s.shop} {
		change(t, s.server(ns), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RevokedKeyIDs = []string{stolen} })
	}
	s.settle()
	if touchedAt(t, pod) == "" {
		t.Error("the pod was not touched")
	}
}

// TestWhenATokenSecretIsPrompt goes through what changes a token Secret.
func TestWhenATokenSecretIsPrompt(t *testing.T) {
	op := startStepped(t)
	off := startStepped(t, func(o *Options) { o.PromptDelivery = false })
	for name, tc := range map[string]struct {
		op       *operator
		lifetime time.Duration
		change   func(*stage)
		want     bool
	}{
		"nothing":                       {change: func(*stage) {}},
		"a routine refresh":             {change: (*stage).due},
		"tokens that last for a minute": {lifetime: time.Minute, change: (*stage).due, want: true},
		"another scope": {change: func(s *stage) {
			change(s.t, s.cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}, want: true},
		"another scope, and it is switched off": {op: off, change: func(s *stage) {
			change(s.t, s.cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}},
		"a withdrawal": {change: func(s *stage) {
			change(s.t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
		}, want: true},
		"a template": {change: func(s *stage) {
			change(s.t, s.cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Secret.Template = map[string]string{"x": `{{ token "payment-api" }}`}
			})
		}, want: true},
		"a label": {change: func(s *stage) {
			change(s.t, s.cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Labels = map[string]string{"x": "y"} })
		}},
		"the Secret deleted": {change: func(s *stage) {
			remove(s.t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.shop, Name: "cart-token"}})
		}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := tc.op
			if o == nil {
				o = op
			}
			if tc.lifetime == 0 {
				tc.lifetime = time.Hour
			}
			s := newStage(t, o, lifetime(tc.lifetime))
			if at := s.promptSince(); at != "" {
				t.Fatalf("the first token is prompt since %s, and no pod can have mounted it", at)
			}
			o.advance(10 * time.Second)
			tc.change(s)
			s.settle()
			want := ""
			if tc.want {
				want = delivery.Moment(o.clock.Now())
			}
			if diff := cmp.Diff(want, s.promptSince()); diff != "" {
				t.Errorf("prompt since (-want +got):\n%s", diff)
			}
		})
	}
}

func (s *stage) promptSince() string {
	s.t.Helper()
	var secret corev1.Secret
	if err := kube.Get(s.t.Context(), types.NamespacedName{Namespace: s.shop, Name: "cart-token"}, &secret); err != nil {
		s.t.Fatal(err)
	}
	return secret.Annotations[v1alpha1.PromptSinceAnnotation]
}

// TestTheSecretOfWaitingTokensIsNotTrusted: what somebody else puts there is not
// published, and another's Secret of that name is left alone.
func TestTheSecretOfWaitingTokensIsNotTrusted(t *testing.T) {
	t.Run("an opaque token put in by hand", func(t *testing.T) {
		op := startStepped(t)
		s, _ := rotatedStage(t, op, true)
		s.isHeld()
		waiting := s.waiting()
		op.stop()
		change(t, waiting, func(w *corev1.Secret) {
			w.Annotations[v1alpha1.TokensAnnotation] = forgeRecord(t, w, func(r map[string]any) {
				r["tokens"].(map[string]any)["payment-api"].(map[string]any)["value"] = refresh.HashValue("forged")
			})
			w.Data["payment-api"] = []byte("forged")
		})
		s.op = startStepped(t)
		s.op.clock.SetTime(op.clock.Now().Add(delivery.KubeletDelay))
		s.settle()
		if s.token() == "forged" || s.signedBy() != s.as.KeyID() {
			t.Error("the forged token was published, or none")
		}
	})
	t.Run("a moment of issue that lies ahead", func(t *testing.T) {
		op := startStepped(t)
		s, _ := rotatedStage(t, op, false, lifetime(3*time.Minute))
		s.isHeld()
		waiting := s.waiting()
		op.stop()
		change(t, waiting, func(w *corev1.Secret) {
			w.Annotations[v1alpha1.TokensAnnotation] = forgeRecord(t, w, func(r map[string]any) {
				r["tokens"].(map[string]any)["payment-api"].(map[string]any)["issuedAt"] = op.clock.Now().Add(time.Hour).UTC().Format(time.RFC3339)
			})
		})
		s.op = startStepped(t)
		s.op.clock.SetTime(op.clock.Now())
		s.settle()
		if at := s.status().Pending.PublishAt; at == nil || !at.Time.Before(s.status().ExpiresAt.Time) {
			t.Errorf("a token waits until %v, and its predecessor expires at %v", at, s.status().ExpiresAt)
		}
	})
	for name, labels := range map[string]map[string]string{
		"another's Secret of the name":                            nil,
		"another's Secret of the name, with the operator's label": {v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
	} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t)
			s := newStage(t, op)
			paymentPod(s, true)
			theirs := s.secret(tokensecret.WaitingName(s.cart).Name, "their", "own")
			theirs.Labels = labels
			create(t, theirs)
			s.settle()
			s.due()
			if _, err := s.as.RotateKey(); err != nil {
				t.Fatal(err)
			}
			s.settle()
			if s.signedBy() == s.as.KeyID() || s.status().Pending.KeyID != s.as.KeyID() {
				t.Error("the token does not wait")
			}
			op.advance(delivery.TouchDelay)
			s.settle()
			if s.signedBy() != s.as.KeyID() {
				t.Error("the token still waits")
			}
			var now corev1.Secret
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(theirs), &now); err != nil || now.ResourceVersion != theirs.ResourceVersion {
				t.Errorf("their Secret was changed: %v", err)
			}
		})
	}
}
