// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

const (
	keyRotations    = 20
	secretRotations = 5
	leaderKills     = 5
	outage          = 30 * time.Second // half of a token's lifetime
)

// testGap lets cart call payment all the time, and counts the failed calls.
func testGap(t *testing.T, w *world) {
	t.Run("everything changes", func(t *testing.T) { testStorm(t, w) })
	t.Run("the former key vanishes at once", func(t *testing.T) { testHardCut(t, w) })
	t.Run("the key in use is revoked", func(t *testing.T) { testRevokedKey(t, w) })
}

// testStorm lets cart call payment 20 times a second, with tokens of 60 seconds,
// while everything around it is changed, killed and removed.
func testStorm(t *testing.T, w *world) {
	cartCalls(t, true)
	start := time.Now()

	var inUse, inBundles []time.Duration
	takeovers := make(chan time.Duration, leaderKills)
	for i := range keyRotations {
		key := w.rotate(t, false)
		switch i % 4 {
		case 1:
			w.register(t, "cart", 0) // the client secret: at the server, then in the cluster
		case 3:
			killLeader(t, takeovers)
		}
		inUse = append(inUse, signedWith(t, key))
		inBundles = append(inBundles, bundlesHave(t, key))
	}
	figures.set("gap_key_rotations_count", keyRotations)
	figures.set("gap_client_secret_rotations_count", secretRotations)
	figures.set("gap_leader_kills_count", leaderKills)
	figures.spread("gap_new_key_in_api_pods", inBundles)
	figures.spread("gap_new_key_in_use", inUse)
	var took []time.Duration
	for range leaderKills {
		took = append(took, <-takeovers)
	}
	figures.spread("gap_leader_takeover", took)

	mustAsk(t, w.auth, http.MethodPost, "/outage", wire.Outage{Seconds: outage.Seconds()}, nil)
	went := time.Now()
	figures.set("gap_outage_seconds", outage.Seconds())
	figures.set("gap_outage_token_after_return_seconds", tokenAfter(t, went.Add(outage)).Seconds())
	tokenAfter(t, time.Now()) // and one more, without any trouble

	calls := cartCalls(t, true)
	figures.set("gap_seconds", time.Since(start).Seconds())
	figures.set("gap_calls_count", calls.Total)
	figures.set("gap_failed_calls_count", calls.Failed)
	figures.set("gap_calls_per_second", float64(calls.Total)/time.Since(start).Seconds())
	figures.set("gap_longest_pause_seconds", calls.Longest.Seconds())
	figures.set("gap_failed_calls_reasons", reasons(calls))
	if err := noFailure(calls); err != nil {
		t.Error(err)
	}
	for _, f := range calls.Failures[:min(5, len(calls.Failures))] {
		t.Logf("%s: %s, with a token of key %.8s, issued %s, expiring %s", f.At.UTC(), f, f.Token.KeyID, f.Token.IssuedAt.UTC(), f.Token.ExpiresAt.UTC())
	}
}

// testHardCut replaces the signing key with one that is alone in the JWKS. Tokens
// of the former key stay valid, because the bundles keep it.
func testHardCut(t *testing.T, w *world) {
	cartCalls(t, true)
	key := w.rotate(t, true)
	signedWith(t, key)
	tokenAfter(t, time.Now())
	calls := cartCalls(t, true)
	figures.set("hard_cut_calls_count", calls.Total)
	figures.set("hard_cut_failed_calls_count", calls.Failed)
	if err := noFailure(calls); err != nil {
		t.Error(err)
	}
}

// testRevokedKey replaces the key that everybody uses and revokes it in Git. Nobody may
// accept it any more, so calls fail until the last pod of the API and the caller's pod
// have what is new, in whichever order the kubelet shows it to them. The test measures
// how many fail, and requires that they stop.
func testRevokedKey(t *testing.T, w *world) {
	cartCalls(t, true)
	former := tokensOf(t)
	key := w.rotate(t, false)
	for _, ns := range []string{payments, shop} {
		server := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: ns}}
		update(t, server, func(s *v1alpha1.AuthorizationServer) {
			s.Spec.JWKS.RevokedKeyIDs = []string{former[len(former)-1].KeyID}
		})
	}
	figures.set("revoked_key_replaced_after_seconds", signedWith(t, key).Seconds())
	figures.set("revoked_key_out_of_api_pods_after_seconds", bundlesLack(t, former[len(former)-1].KeyID, key.At).Seconds())
	tokenAfter(t, time.Now())
	inBundles := bundlesHave(t, key)
	figures.set("revoked_key_new_key_in_api_pods_after_seconds", inBundles.Seconds())
	calls := cartCalls(t, true)
	figures.set("revoked_key_calls_count", calls.Total)
	figures.set("revoked_key_failed_calls_count", calls.Failed)
	for _, f := range calls.Failures {
		if f.Token.KeyID == key.ID && f.At.After(key.At.Add(inBundles)) {
			t.Errorf("a call with the new key failed after all of the API's pods had that key: %s", f)
		}
	}
	if n := len(calls.Failures); n > 0 {
		figures.set("revoked_key_failing_for_seconds", calls.Failures[n-1].At.Sub(calls.Failures[0].At).Seconds())
		figures.set("revoked_key_failed_calls_reasons", reasons(calls))
	}
	tokenAfter(t, time.Now())
	if err := noFailure(cartCalls(t, true)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// tokensOf returns the tokens that the cart has seen.
func tokensOf(t *testing.T) []wire.Token {
	t.Helper()
	return get[[]wire.Token](t, running(t, shop, "cart", 1)[0], "/tokens")
}

// rotate makes the server sign with a new key, without notice.
func (w *world) rotate(t *testing.T, hard bool) (key wire.Key) {
	t.Helper()
	mustAsk(t, w.auth, http.MethodPost, "/rotate", wire.Rotation{Hard: hard}, &key)
	return key
}

// signedWith waits until the cart's token is signed with a key, and returns how
// long after the rotation that was.
func signedWith(t *testing.T, key wire.Key) (after time.Duration) {
	t.Helper()
	return cartToken(t, key.At, func(token wire.Token) bool { return token.KeyID == key.ID })
}

// tokenAfter waits until the cart has a token that was issued later.
func tokenAfter(t *testing.T, moment time.Time) (after time.Duration) {
	t.Helper()
	return cartToken(t, moment, func(token wire.Token) bool { return token.IssuedAt.After(moment) })
}

func cartToken(t *testing.T, since time.Time, is func(wire.Token) bool) (after time.Duration) {
	t.Helper()
	cart := running(t, shop, "cart", 1)[0]
	eventuallyEvery(t, 500*time.Millisecond, 90*time.Second, func() error {
		var tokens []wire.Token
		if err := ask(t.Context(), cart, http.MethodGet, "/tokens", nil, &tokens); err != nil {
			return err
		}
		i := slices.IndexFunc(tokens, is)
		if i < 0 {
			return fmt.Errorf("the cart has seen %d tokens, not the one that is waited for", len(tokens))
		}
		after = tokens[i].At.Sub(since)
		return nil
	})
	return after
}

// bundlesHave returns how long after a rotation the last of payment's pods had the key.
func bundlesHave(t *testing.T, key wire.Key) (after time.Duration) {
	t.Helper()
	for _, p := range running(t, payments, "payment", 2) {
		bundles := get[[]wire.Bundle](t, p, "/bundles")
		i := slices.IndexFunc(bundles, func(b wire.Bundle) bool { return slices.Contains(b.KeyIDs, key.ID) })
		if i < 0 {
			t.Errorf("cart has a token of a key that %s does not have", p)
			continue
		}
		after = max(after, bundles[i].At.Sub(key.At))
	}
	return after
}

// bundlesLack waits until payment's pods have a bundle without a key that they had,
// and returns when the last of them got it.
func bundlesLack(t *testing.T, key string, since time.Time) (after time.Duration) {
	t.Helper()
	for _, p := range running(t, payments, "payment", 2) {
		eventually(t, 90*time.Second, func() error {
			bundles := get[[]wire.Bundle](t, p, "/bundles")
			last := bundles[len(bundles)-1]
			if slices.Contains(last.KeyIDs, key) {
				return fmt.Errorf("%s still has the key %s", p, key)
			}
			i := len(bundles) - 1
			for i > 0 && !slices.Contains(bundles[i-1].KeyIDs, key) {
				i--
			}
			after = max(after, bundles[i].At.Sub(since))
			return nil
		})
	}
	return after
}

// killLeader kills the leading process and removes its pod, once all replicas run.
// It sends to a channel how long it takes until another replica leads. If the
// process is out of reach, on a cluster elsewhere, it only deletes the pod: the
// kubelet then gives the process two seconds to end by itself.
func killLeader(t *testing.T, takeover chan<- time.Duration) {
	t.Helper()
	operatorAvailable(t)
	leader, err := leaderPod(t)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: leader}, &pod); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	pid := processOf(&pod, "/manager")
	figures.set("gap_leader_kills_by_sigkill", pid != 0)
	if pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := kube.Delete(t.Context(), &pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for now := leader; now == leader || err != nil; now, err = leaderPod(t) {
			time.Sleep(100 * time.Millisecond)
		}
		takeover <- time.Since(start)
	}()
}

// processOf finds a pod's process on this machine by its program and the pod's
// cgroup, 0 if it is not here.
func processOf(pod *corev1.Pod, program string) int {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		command, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if name, _, _ := strings.Cut(string(command), "\x00"); err != nil || name != program {
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cgroup"))
		uid := strings.ReplaceAll(string(pod.UID), "-", "[-_]")
		if err == nil && regexp.MustCompile("pod"+uid).Match(cgroups) {
			return pid
		}
	}
	return 0
}

func leaderPod(t *testing.T) (string, error) {
	var lease coordinationv1.Lease
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: "m2m-operator"}, &lease); err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody leads")
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod, nil
}

func operatorAvailable(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, func() error {
		var d appsv1.Deployment
		if err := kube.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorDeployment}, &d); err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != *d.Spec.Replicas || d.Status.UpdatedReplicas != *d.Spec.Replicas {
			return fmt.Errorf("%d of %d replicas of the operator are available", d.Status.AvailableReplicas, *d.Spec.Replicas)
		}
		return nil
	})
}
