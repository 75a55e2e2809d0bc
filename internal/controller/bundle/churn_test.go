// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	podcontroller "github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAServerThatReplacesItsKeys publishes 31 new keys with each fetch for half an
// hour. The operator writes few of them and removes a revoked one at once. Everything
// recovers when the server behaves again.
func TestAServerThatReplacesItsKeys(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "10s" })
	s.Settle()
	s.AS.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
		keys := slices.Clone(m["keys"].([]any))
		for i := range 31 {
			keys = append(keys, operator.OddKey(t, fmt.Sprintf("new-%d", i)))
		}
		m["keys"] = keys
	}})
	op.Requests.Reset()
	const fetches = 180 // in half an hour
	for range fetches {
		op.Advance(10 * time.Second)
		op.Round(s.Payments, s.Shop)
	}
	count := func(prefix string) (n int) {
		for _, w := range op.Requests.Writes() {
			if strings.HasPrefix(w, prefix) {
				n++
			}
		}
		return n
	}
	if n := count("PUT configmaps"); n > 6 {
		t.Errorf("the bundle was written %d times in half an hour", n)
	}
	if n := count("PATCH authorizationservers"); n > 2*2*4 { // two servers, each with a condition now and then
		t.Errorf("the servers' statuses were written %d times in half an hour", n)
	}
	server := s.Server(s.Payments)
	operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionFalse, v1alpha1.ReasonKeysChangeTooOften)
	operator.IsReady(t, server)

	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{"new-0"} })
	op.Round(s.Payments, s.Shop)
	if slices.Contains(operator.BundledKeys(t, s.Bundle()), "new-0") {
		t.Error("the revoked key is in the bundle")
	}
	if n := len(operator.BundledKeys(t, s.Bundle())); n == 0 || n > 32 {
		t.Errorf("the bundle holds %d keys", n)
	}

	s.AS.ClearFaults()
	s.Until(op.Clock.Now().Add(90 * time.Minute))
	operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	operator.IsReady(t, s.Cart)
}

// TestManyHonestRotations: the operator distributes each of twenty abrupt rotations
// within some minutes at once.
func TestManyHonestRotations(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "10s" })
	s.Settle()
	for range 20 {
		kid, err := s.AS.RotateKey()
		if err != nil {
			t.Fatal(err)
		}
		op.Advance(10 * time.Second)
		s.Settle()
		if !slices.Contains(operator.BundledKeys(t, s.Bundle()), kid) {
			t.Fatal("a new key waits")
		}
	}
}

// TestABundleThatIsDeletedAgainAndAgain: the operator restores a deleted bundle at
// once for some time, and then after ten seconds.
func TestABundleThatIsDeletedAgainAndAgain(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	request := verification.Request{Namespace: s.Payments, API: client.ObjectKeyFromObject(s.API)}
	op.Requests.Reset()
	for range 100 {
		bundle := s.Bundle()
		if bundle == nil {
			break
		}
		operator.Remove(t, bundle)
		op.CatchUp(s.Payments)
		if _, err := op.Bundles.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		op.AwaitBundles()
	}
	if n := len(op.Requests.Writes()); n >= 100 || n < 50 {
		t.Errorf("the bundle was created %d times", n)
	}
	result, err := op.Bundles.Reconcile(t.Context(), request)
	if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > 10*time.Second {
		t.Fatalf("it comes back after %v, %v", result.RequeueAfter, err)
	}
	op.Advance(result.RequeueAfter)
	s.Settle()
	if s.Bundle() == nil {
		t.Error("the bundle did not come back")
	}
}

// TestForgedTouches keeps forging the annotations about touches on a pod and a Secret.
// The operator touches the pod a few times, and then stops.
func TestForgedTouches(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "touch", nil)
	pod := operator.AnnotatedPod(ns, "forged", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	op.Clock.SetTime(pod.CreationTimestamp.Add(10 * time.Second))
	// The time is more precise than a touch can record, and ahead of the clock.
	since := op.Clock.Now().Add(30*time.Second + 123456*time.Nanosecond).Format(time.RFC3339Nano)
	operator.Create(t, operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, since))
	op.CatchUp(ns)
	for range 5 {
		op.Round(ns)
		op.CatchUp(ns)
	}
	if n := op.Touches(); n != 1 {
		t.Errorf("a time more precise than a millisecond causes %d touches", n)
	}
	for i := range 30 {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			t.Fatal(err)
		}
		operator.Change(t, pod, func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = fmt.Sprintf("forged-%d", i) })
		op.CatchUp(ns)
		op.Round(ns)
	}
	if n := op.Touches(); n > podcontroller.PodTouchRate.Burst {
		t.Errorf("forged annotations touched the pod %d times", n)
	}
	wait, err := op.ReconcilePod(pod)
	if err != nil || wait == 0 || wait > podcontroller.PodTouchRate.Every {
		t.Errorf("it comes back after %v, %v", wait, err)
	}
}
