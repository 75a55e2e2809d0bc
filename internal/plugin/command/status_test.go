// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestStatus plays the story: everything works, the server fails, the key changes.
func TestStatus(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	injectedPod(s)
	cartPod := operator.AnnotatedPod(s.Shop, "cart", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, cartPod)
	s.Settle()
	ask := func(args ...string) answer {
		t.Helper()
		return run(t, op.Clock.Now(), append([]string{"status"}, args...)...)
	}

	all := ask("-n", s.Shop)
	all.ends(t, 0)
	golden(t, "status.txt", normal(all.out, s.World))

	var parsed tree.Tree
	if err := json.Unmarshal([]byte(ask("-n", s.Shop, "-o", "json").out), &parsed); err != nil {
		t.Fatal(err)
	}
	carts := parsed.Find(tree.Ref{Kind: "M2MClient", Namespace: s.Shop, Name: "cart"})
	if len(carts) != 1 || carts[0].State != tree.Ready || len(carts[0].Tokens) != 1 {
		t.Errorf("cart is %+v", carts)
	}
	says(t, ask("-n", s.Shop, "-o", "yaml").out, "issuers:", "kind: M2MClient")

	pod := ask("-n", s.Payments, "pod/payment")
	pod.ends(t, 0)
	golden(t, "status-pod.txt", normal(pod.out, s.World))

	t.Run("an object that does not exist", func(t *testing.T) {
		a := ask("-n", s.Shop, "m2mclient/card")
		a.ends(t, 3)
		says(t, a.out, `M2MClient "card" does not exist`)
	})
	t.Run("a wrong kind", func(t *testing.T) {
		a := ask("-n", s.Shop, "deployment/cart")
		a.ends(t, 2)
		says(t, a.message, `there is no kind "deployment"`)
	})
	t.Run("refreshing fails while the token works", func(t *testing.T) {
		s.SetClient(operator.CartID, operator.NewSecret()) // not the one in the Secret
		s.Due()
		s.Settle()
		a := ask("-n", s.Shop, "m2mclient/cart")
		a.ends(t, 0)
		golden(t, "status-failing.txt", normal(a.out, s.World))
		op.Advance(48 * 3600e9)
		s.Settle()
		a = ask("-n", s.Shop, "m2mclient/cart")
		a.ends(t, 3)
		says(t, a.out, "Failing", "expired 2", "ago)")
	})
}

// injectedPod creates a pod that verifies, as the webhook leaves it.
func injectedPod(s *operator.Stage) {
	s.T.Helper()
	name := render.ConfigMapName(s.Payments, "payment-api")
	pod := operator.AnnotatedPod(s.Payments, "payment", v1alpha1.VerifyAnnotation, "payment-api", v1alpha1.InjectedAnnotation, "configmap/"+name)
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "verify", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
		{Name: "other", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "verify", MountPath: v1alpha1.VerifyDir + "/payment-api"}, {Name: "other", MountPath: "/tmp"},
	}
	operator.Create(s.T, pod)
}

// TestStatusOfAKeyOnItsWay looks at a token that waits until the API's pods have its key.
func TestStatusOfAKeyOnItsWay(t *testing.T) {
	op := operator.StartStepped(t)
	s, _ := operator.RotatedStage(t, op, true)
	s.IsHeld()
	a := run(t, op.Clock.Now(), "status", "-n", s.Shop)
	a.ends(t, 0)
	says(t, a.out, "a newer token waits until the API's pods have the key")
}

// TestStatusWithoutRights asks as a developer who may read the client's namespace only.
func TestStatusWithoutRights(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	reader(t, "dora", s.Shop)
	a := run(t, op.Clock.Now(), "status", "-n", s.Shop, "--as", "dora")
	a.ends(t, 0)
	golden(t, "status-rights.txt", normal(a.out+a.err, s.World))

	a = run(t, op.Clock.Now(), "status", "-n", s.Payments, "--as", "dora")
	a.ends(t, 4)
	says(t, a.out, "You may read nothing of the operator")
	says(t, a.err, `list apiresources.m2m-operator.io in namespace "`+s.Payments+`"`)

	a = run(t, op.Clock.Now(), "status", "-A", "--as", "dora")
	a.ends(t, 4)
	says(t, a.err, "list m2mclients.m2m-operator.io in all namespaces")
}

// TestStatusOfNothing tells a new user what to do.
func TestStatusOfNothing(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "empty", nil)
	a := run(t, op.Clock.Now(), "status", "-n", ns)
	a.ends(t, 0)
	says(t, a.out, "There is nothing of the operator in namespace")
	a = run(t, op.Clock.Now(), "status", "-n", ns, "pod/none")
	a.ends(t, 1)
	says(t, a.message, "does not exist")
}

// TestStatusWatched sees a change, and nothing twice.
func TestStatusWatched(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan answer, 1)
	go func() { done <- runRaw(ctx, t, op.Clock.Now(), "", "status", "-w", "-n", s.Shop, "m2mclient/cart") }()
	time.Sleep(3 * time.Second) // one look more, at nothing new
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	s.Settle()
	time.Sleep(3 * time.Second)
	stop()
	a := <-done
	a.ends(t, 0)
	if n := strings.Count(a.out, "Issuer"); n != 2 {
		t.Errorf("it was shown %d times, want 2", n)
	}
	says(t, a.out, "Granted: NotGranted")
}
