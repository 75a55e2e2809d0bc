// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestATokenWaitsForThePodsOfItsAPI(t *testing.T) {
	op := operator.StartStepped(t)
	s, pod := operator.RotatedStage(t, op, true)
	s.IsHeld()
	if operator.TouchedAt(t, pod) == "" || op.Touches() != 1 {
		t.Fatalf("the pod was touched %d times", op.Touches())
	}
	op.Advance(delivery.TouchDelay - time.Second)
	s.Settle()
	s.IsHeld()
	op.Advance(time.Second)
	s.Settle()
	s.IsPublished()

	// The key is everywhere now: later tokens wait for nothing and touch no pod.
	s.Due()
	s.AS.ResetRequests()
	s.Settle()
	s.IsPublished()
	if n := op.Touches(); n != 1 {
		t.Errorf("%d touches, want 1", n)
	}
}

// TestATokenWaitsForAKubelet: if nothing touches the pods, their kubelets show the
// change in time.
func TestATokenWaitsForAKubelet(t *testing.T) {
	off := operator.StartStepped(t, func(o *controller.Options) { o.PromptDelivery = false })
	on := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		op       *operator.Operator
		injected bool
	}{
		"prompt delivery is off":                     {off, true},
		"the pod mounts the bundle by its own means": {on, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := operator.RotatedStage(t, tc.op, tc.injected)
			s.IsHeld()
			tc.op.Advance(delivery.KubeletDelay - time.Second)
			s.Settle()
			s.IsHeld()
			tc.op.Advance(time.Second)
			s.Settle()
			s.IsPublished()
			if at := operator.TouchedAt(t, pod); at != "" {
				t.Errorf("the pod was touched at %s", at)
			}
		})
	}
}

// TestNoTokenExpiresForWaiting: the new token waits at most half of the old token's
// remaining lifetime.
func TestNoTokenExpiresForWaiting(t *testing.T) {
	op := operator.StartStepped(t)
	for name, hinder := range map[string]func(*operator.Stage, *corev1.Pod){
		"a pod that is never touched": func(*operator.Stage, *corev1.Pod) {},
		"a pod whose annotation says that it was touched a year ahead": func(s *operator.Stage, pod *corev1.Pod) {
			operator.Change(s.T, pod, func(p *corev1.Pod) {
				p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(op.Clock.Now().Add(365 * 24 * time.Hour))
			})
		},
		"another namespace's pod": func(s *operator.Stage, pod *corev1.Pod) {
			other := operator.NewNamespace(s.T, "other", nil)
			operator.Create(s.T, operator.AnnotatedPod(other, "x", v1alpha1.VerifyAnnotation, s.Payments+"/payment-api"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := operator.RotatedStage(t, op, false, operator.Lifetime(3*time.Minute))
			hinder(s, pod)
			s.Settle()
			s.IsHeld()
			old := s.Status()
			left := old.ExpiresAt.Sub(old.Pending.Since.Time)
			if at := old.Pending.PublishAt.Sub(old.Pending.Since.Time); at > left/2+time.Second || at < left/2-time.Second {
				t.Errorf("the token may wait for %v of the remaining %v", at, left)
			}
			op.Clock.SetTime(old.Pending.PublishAt.Add(-2 * time.Second))
			s.Settle()
			s.IsHeld()
			op.Clock.SetTime(old.Pending.PublishAt.Time)
			s.Settle()
			s.IsPublished()
		})
	}
}

// TestPodsThatStartedSinceAreNotWaitedFor creates the pod after the whole story.
func TestPodsThatStartedSinceAreNotWaitedFor(t *testing.T) {
	op := operator.StartStepped(t)
	op.Advance(-2 * time.Hour)
	s, _ := operator.RotatedStage(t, op, true)
	s.IsPublished()
	if n := op.Touches(); n != 0 {
		t.Errorf("%d touches, want none", n)
	}
}

// TestARestartWhileATokenWaits: a restart changes nothing. The token is the same, and
// the operator requests no other.
func TestARestartWhileATokenWaits(t *testing.T) {
	op := operator.StartStepped(t)
	s, pod := operator.RotatedStage(t, op, true)
	s.IsHeld()
	token := string(s.Waiting().Data["payment-api"])
	touched := operator.TouchedAt(t, pod)
	op.Stop()

	s.Op = operator.StartStepped(t)
	s.Op.Clock.SetTime(op.Clock.Now().Add(time.Second))
	s.Settle()
	s.IsHeld()
	s.Op.Advance(delivery.TouchDelay)
	s.Settle()
	s.IsPublished()
	if s.Token() != token {
		t.Error("the published token is not the one that waited")
	}
	if again := operator.TouchedAt(t, pod); again != touched {
		t.Errorf("the pod was touched again at %s", again)
	}
}

// TestTheSecretIsRenamedWhileATokenWaits: the token continues to wait, and nothing is
// left behind.
func TestTheSecretIsRenamedWhileATokenWaits(t *testing.T) {
	op := operator.StartStepped(t)
	s, _ := operator.RotatedStage(t, op, true)
	s.IsHeld()
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "renamed" })
	s.Settle()
	op.Advance(delivery.TouchDelay)
	s.Settle()
	if got := operator.KeyOfToken(t, operator.TokenIn(t, s.Shop, "renamed", "payment-api")); got != s.AS.KeyID() {
		t.Errorf("the token is signed by %s, want %s", got, s.AS.KeyID())
	}
	if n := s.AS.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	var secrets corev1.SecretList
	if err := operator.Kube.List(t.Context(), &secrets, client.InNamespace(s.Shop), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		if secret.Name != "renamed" {
			t.Errorf("the Secret %q is left", secret.Name)
		}
	}
}

// TestATokenIsLookedAtWhenItsWaitEnds: the operator reconciles the client by itself
// when the wait ends.
func TestATokenIsLookedAtWhenItsWaitEnds(t *testing.T) {
	op := operator.StartStepped(t)
	for name, touched := range map[string]time.Duration{
		"nobody touches the pod":                    0,
		"the pod says it will be touched in a year": 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := operator.RotatedStage(t, op, false)
			if touched > 0 {
				operator.Change(t, pod, func(p *corev1.Pod) {
					p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(op.Clock.Now().Add(touched))
				})
				s.Settle()
			}
			s.IsHeld()
			s.Until(op.Clock.Now().Add(delivery.KubeletDelay + time.Second))
			s.IsPublished()
		})
	}
}

// TestScopesWaitForThePodsOfTheirAPI: the API's pods must know a scope before a token
// carries it.
func TestScopesWaitForThePodsOfTheirAPI(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	pod := operator.PaymentPod(s, true)
	s.Settle()
	op.Advance(time.Minute)
	op.Requests.Reset()
	s.AS.SetResource(operator.PaymentAPI, "payments:read", "payments:write", "payments:refund")
	err := s.AS.SetClient(oidc.Client{
		ID: operator.CartID, Secret: s.Credential(), Method: oidc.SecretBasic, Scopes: map[string][]string{operator.PaymentAPI: {"payments:refund"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: "payments:refund"})
		a.Spec.Grants[0].Scopes = append(a.Spec.Grants[0].Scopes, "payments:refund")
	})
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:refund"} })
	old := s.Token()
	s.Settle()
	if s.Token() != old {
		t.Fatal("a token was published with a scope that the API's pods do not know")
	}
	if operator.TouchedAt(t, pod) == "" {
		t.Error("the API's pod was not touched")
	}
	op.Advance(delivery.TouchDelay)
	s.Settle()
	if s.Token() == old || !slices.Contains(s.Status().Scopes, "payments:refund") {
		t.Errorf("the token still waits, or has the scopes %v", s.Status().Scopes)
	}
}

// TestARevokedKeyLeavesPodsAtOnce: nothing waits, and the pods of both sides see the
// change.
func TestARevokedKeyLeavesPodsAtOnce(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	pod := operator.PaymentPod(s, true)
	caller := operator.AnnotatedPod(s.Shop, "cart", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, caller)
	s.Settle()
	op.Advance(time.Minute)
	leaked := s.SignedBy()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{s.Payments, s.Shop} {
		operator.Change(t, s.Server(ns), func(a *v1alpha1.AuthorizationServer) {
			a.Spec.JWKS.RevokedKeyIDs = []string{leaked}
		})
	}
	s.Op.Until(s.World, func() bool { op.Advance(time.Second); return s.SignedBy() == s.AS.KeyID() })
	if s.Waiting() != nil {
		t.Error("a token waits while its predecessor is revoked")
	}
	for _, p := range []*corev1.Pod{pod, caller} {
		if operator.TouchedAt(t, p) == "" {
			t.Errorf("pod %q was not touched", p.Name)
		}
	}
}

// TestAnOldKeyThatIsRevokedLeavesPodsAtOnce: the same holds for a key that signs no
// more tokens, because whoever has stolen it can sign some.
func TestAnOldKeyThatIsRevokedLeavesPodsAtOnce(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	stolen := s.SignedBy()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.Settle()
	pod := operator.PaymentPod(s, true)
	s.Settle()
	op.Advance(2 * delivery.KubeletDelay)
	s.Settle()
	if at := operator.TouchedAt(t, pod); at != "" || s.SignedBy() == stolen {
		t.Fatalf("nothing happened, but the pod was touched at %q; the token is signed by %q", at, s.SignedBy())
	}
	for _, ns := range []string{s.Payments, s.Shop} {
		operator.Change(t, s.Server(ns), func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.RevokedKeyIDs = []string{stolen} })
	}
	s.Settle()
	if operator.TouchedAt(t, pod) == "" {
		t.Error("the pod was not touched")
	}
}

// TestWhenATokenSecretIsPrompt covers the changes of a token Secret.
func TestWhenATokenSecretIsPrompt(t *testing.T) {
	op := operator.StartStepped(t)
	off := operator.StartStepped(t, func(o *controller.Options) { o.PromptDelivery = false })
	for name, tc := range map[string]struct {
		op       *operator.Operator
		lifetime time.Duration
		change   func(*operator.Stage)
		want     bool
	}{
		"nothing":                       {change: func(*operator.Stage) {}},
		"a routine refresh":             {change: (*operator.Stage).Due},
		"tokens that last for a minute": {lifetime: time.Minute, change: (*operator.Stage).Due, want: true},
		"another scope": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}, want: true},
		"another scope, with prompt delivery off": {op: off, change: func(s *operator.Stage) {
			operator.Change(s.T, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
		}},
		"a withdrawal": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
		}, want: true},
		"a template": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.Cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Secret.Template = map[string]string{"x": `{{ token "payment-api" }}`}
			})
		}, want: true},
		"a label": {change: func(s *operator.Stage) {
			operator.Change(s.T, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Labels = map[string]string{"x": "y"} })
		}},
		"the Secret deleted": {change: func(s *operator.Stage) {
			operator.Remove(s.T, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Shop, Name: "cart-token"}})
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
			s := operator.NewStage(t, o, operator.Lifetime(tc.lifetime))
			if at := promptSince(s); at != "" {
				t.Fatalf("the first token is prompt since %s, and no pod can have mounted it", at)
			}
			o.Advance(10 * time.Second)
			tc.change(s)
			s.Settle()
			want := ""
			if tc.want {
				want = delivery.Moment(o.Clock.Now())
			}
			if diff := cmp.Diff(want, promptSince(s)); diff != "" {
				t.Errorf("prompt since (-want +got):\n%s", diff)
			}
		})
	}
}

func promptSince(s *operator.Stage) string {
	s.T.Helper()
	var secret corev1.Secret
	if err := operator.Kube.Get(s.T.Context(), types.NamespacedName{Namespace: s.Shop, Name: "cart-token"}, &secret); err != nil {
		s.T.Fatal(err)
	}
	return secret.Annotations[v1alpha1.PromptSinceAnnotation]
}

// TestTheSecretOfWaitingTokensIsNotTrusted: the operator does not publish what
// somebody else puts there, and does not touch a foreign Secret of that name.
func TestTheSecretOfWaitingTokensIsNotTrusted(t *testing.T) {
	t.Run("an opaque token put in by hand", func(t *testing.T) {
		op := operator.StartStepped(t)
		s, _ := operator.RotatedStage(t, op, true)
		s.IsHeld()
		waiting := s.Waiting()
		op.Stop()
		operator.Change(t, waiting, func(w *corev1.Secret) {
			w.Annotations[v1alpha1.TokensAnnotation] = operator.ForgeRecord(t, w, func(r map[string]any) {
				r["tokens"].(map[string]any)["payment-api"].(map[string]any)["value"] = refresh.HashValue("forged")
			})
			w.Data["payment-api"] = []byte("forged")
		})
		s.Op = operator.StartStepped(t)
		s.Op.Clock.SetTime(op.Clock.Now().Add(delivery.KubeletDelay))
		s.Settle()
		if s.Token() == "forged" || s.SignedBy() != s.AS.KeyID() {
			t.Error("the forged token was published, or none")
		}
	})
	t.Run("a moment of issue that lies ahead", func(t *testing.T) {
		op := operator.StartStepped(t)
		s, _ := operator.RotatedStage(t, op, false, operator.Lifetime(3*time.Minute))
		s.IsHeld()
		waiting := s.Waiting()
		op.Stop()
		operator.Change(t, waiting, func(w *corev1.Secret) {
			w.Annotations[v1alpha1.TokensAnnotation] = operator.ForgeRecord(t, w, func(r map[string]any) {
				r["tokens"].(map[string]any)["payment-api"].(map[string]any)["issuedAt"] = op.Clock.Now().Add(time.Hour).UTC().Format(time.RFC3339)
			})
		})
		s.Op = operator.StartStepped(t)
		s.Op.Clock.SetTime(op.Clock.Now())
		s.Settle()
		if at := s.Status().Pending.PublishAt; at == nil || !at.Time.Before(s.Status().ExpiresAt.Time) {
			t.Errorf("a token waits until %v, and its predecessor expires at %v", at, s.Status().ExpiresAt)
		}
	})
	for name, labels := range map[string]map[string]string{
		"a foreign Secret of the name":                            nil,
		"another's Secret of the name, with the operator's label": {v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
	} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t)
			s := operator.NewStage(t, op)
			operator.PaymentPod(s, true)
			theirs := s.Secret(tokensecret.WaitingName(s.Cart).Name, "their", "own")
			theirs.Labels = labels
			operator.Create(t, theirs)
			s.Settle()
			s.Due()
			if _, err := s.AS.RotateKey(); err != nil {
				t.Fatal(err)
			}
			s.Settle()
			if s.SignedBy() == s.AS.KeyID() || s.Status().Pending.KeyID != s.AS.KeyID() {
				t.Error("the token does not wait")
			}
			op.Advance(delivery.TouchDelay)
			s.Settle()
			if s.SignedBy() != s.AS.KeyID() {
				t.Error("the token still waits")
			}
			var now corev1.Secret
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(theirs), &now); err != nil || now.ResourceVersion != theirs.ResourceVersion {
				t.Errorf("their Secret was changed: %v", err)
			}
		})
	}
}
