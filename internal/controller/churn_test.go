// SPDX-License-Identifier: Apache-2.0

package controller

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
)

// TestAServerThatReplacesItsKeys publishes 31 new keys with each fetch for half an
// hour: few of them are written, a revoked one goes at once, and when the server
// comes to its senses all is well.
func TestAServerThatReplacesItsKeys(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	s.setServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "10s" })
	s.settle()
	s.as.SetFault(oidc.JWKS, &oidc.Fault{Rewrite: func(m map[string]any) {
		keys := slices.Clone(m["keys"].([]any))
		for i := range 31 {
			keys = append(keys, oddKey(t, fmt.Sprintf("new-%d", i)))
		}
		m["keys"] = keys
	}})
	op.requests.reset()
	const fetches = 180 // in half an hour
	for range fetches {
		op.advance(10 * time.Second)
		op.round(s.payments, s.shop)
	}
	count := func(prefix string) (n int) {
		for _, w := range op.requests.writes() {
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
	server := s.server(s.payments)
	hasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionFalse, v1alpha1.ReasonKeysChangeTooOften)
	isReady(t, server)

	s.setServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{"new-0"} })
	op.round(s.payments, s.shop)
	if slices.Contains(bundledKeys(t, s.bundle()), "new-0") {
		t.Error("the revoked key is in the bundle")
	}
	if n := len(bundledKeys(t, s.bundle())); n == 0 || n > 32 {
		t.Errorf("the bundle holds %d keys", n)
	}

	s.as.ClearFaults()
	s.until(op.clock.Now().Add(90 * time.Minute))
	hasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
	isReady(t, s.cart)
}

// TestManyHonestRotations: twenty abrupt rotations within some minutes go out at
// once, each of them.
func TestManyHonestRotations(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	s.setServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "10s" })
	s.settle()
	for range 20 {
		kid, err := s.as.RotateKey()
		if err != nil {
			t.Fatal(err)
		}
		op.advance(10 * time.Second)
		s.settle()
		if !slices.Contains(bundledKeys(t, s.bundle()), kid) {
			t.Fatal("a new key waits")
		}
	}
}

// TestABundleThatIsDeletedAgainAndAgain is restored at once for some time, and
// then in ten seconds.
func TestABundleThatIsDeletedAgainAndAgain(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	request := verification.Request{Namespace: s.payments, API: client.ObjectKeyFromObject(s.api)}
	op.requests.reset()
	for range 100 {
		bundle := s.bundle()
		if bundle == nil {
			break
		}
		remove(t, bundle)
		op.catchUp(s.payments)
		if _, err := op.bundle.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		op.awaitBundles()
	}
	if n := len(op.requests.writes()); n >= 100 || n < 50 {
		t.Errorf("the bundle was created %d times", n)
	}
	result, err := op.bundle.Reconcile(t.Context(), request)
	if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > 10*time.Second {
		t.Fatalf("it comes back after %v, %v", result.RequeueAfter, err)
	}
	op.advance(result.RequeueAfter)
	s.settle()
	if s.bundle() == nil {
		t.Error("the bundle did not come back")
	}
}

// TestForgedTouches: what a pod or a Secret says of touches is forged, again and
// again. The pod is touched a few times, and then comes to rest.
func TestForgedTouches(t *testing.T) {
	op := startStepped(t)
	ns := newNamespace(t, "touch", nil)
	pod := annotatedPod(ns, "forged", v1alpha1.InjectedAnnotation, "secret/cart-token")
	create(t, pod)
	op.clock.SetTime(pod.CreationTimestamp.Add(10 * time.Second))
	// Finer than what a touch can say, and ahead of the clock.
	since := op.clock.Now().Add(30*time.Second + 123456*time.Nanosecond).Format(time.RFC3339Nano)
	create(t, promptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, since))
	op.catchUp(ns)
	for range 5 {
		op.round(ns)
		op.catchUp(ns)
	}
	if n := op.touches(); n != 1 {
		t.Errorf("a moment that is finer than a millisecond touches %d times", n)
	}
	for i := range 30 {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			t.Fatal(err)
		}
		change(t, pod, func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = fmt.Sprintf("forged-%d", i) })
		op.catchUp(ns)
		op.round(ns)
	}
	if n := op.touches(); n > podcontroller.PodTouchRate.Burst {
		t.Errorf("forged annotations touched the pod %d times", n)
	}
	wait, err := op.reconcilePod(pod)
	if err != nil || wait == 0 || wait > podcontroller.PodTouchRate.Every {
		t.Errorf("it comes back after %v, %v", wait, err)
	}
}
