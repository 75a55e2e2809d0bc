// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// deploy creates a workload that verifies tokens of the world's API. It is deleted
// when the test ends.
func deploy(w *operator.World, namespace string) {
	w.T.Helper()
	d := verifier(namespace, w.Payments+"/payment-api")
	operator.Create(w.T, d)
	w.T.Cleanup(func() {
		if err := client.IgnoreNotFound(operator.Kube.Delete(w.T.Context(), d)); err != nil && w.T.Context().Err() == nil {
			w.T.Error(err)
		}
	})
}

// TestWatchedNamespaces: an operator that is limited to some namespaces does its job
// there, and touches nothing elsewhere.
func TestWatchedNamespaces(t *testing.T) {
	for name, tc := range map[string]struct {
		one bool // everything is in one namespace
	}{
		"one namespace":  {true},
		"two namespaces": {false},
	} {
		t.Run(name, func(t *testing.T) {
			w, elsewhere := operator.NewWorld(t), operator.NewWorld(t)
			if tc.one {
				w.Payments = w.Shop
			}
			secret := operator.NewSecret()
			w.SetClient(operator.CartID, secret)
			api, cart := w.API(), w.Cart()
			operator.Create(t, w.Server(w.Shop), w.Secret("cart-credentials", operator.CartID, secret), api, cart)
			if !tc.one {
				operator.Create(t, w.Server(w.Payments))
			}
			deploy(w, w.Shop)
			_, foreign := elsewhere.Story()
			deploy(elsewhere, elsewhere.Shop)

			watched := []string{w.Shop, w.Payments}
			if tc.one {
				watched = watched[:1]
			}
			op := operator.Start(t, operator.Watching(watched...))
			operator.IsReady(t, cart)
			operator.IsReady(t, api)
			operator.Eventually(t, func() error {
				if w.BundleIn(w.Shop) == nil {
					return fmt.Errorf("there is no bundle")
				}
				return operator.Idle(t, operator.EveryController...)
			})
			w.TheRequest()

			op.Stop()
			if n := elsewhere.AS.Count(oidc.Token) + elsewhere.AS.Count(oidc.Discovery) + elsewhere.AS.Count(oidc.JWKS); n != 0 {
				t.Errorf("the server of other namespaces was asked %d times", n)
			}
			created := foreign.DeepCopy()
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(created.Status, foreign.Status); diff != "" {
				t.Errorf("the status of a client elsewhere was written (-want +got):\n%s", diff)
			}
			if elsewhere.BundleIn(elsewhere.Shop) != nil || operator.TokenIn(t, elsewhere.Shop, "cart-token", "payment-api") != "" {
				t.Error("there is a bundle or a token elsewhere")
			}
			for _, r := range op.Requests.Sent() {
				if strings.Contains(r, "/"+elsewhere.Shop+"/") || strings.Contains(r, "/"+elsewhere.Payments+"/") {
					t.Errorf("a request went elsewhere: %s", r)
				}
			}
		})
	}
}

// TestTwoNamespacesMintNothingTwice: the cache of several namespaces consists of
// several caches, so it is harder to read one's own writes.
func TestTwoNamespacesMintNothingTwice(t *testing.T) {
	const clients = 40
	w := operator.NewWorld(t)
	w.Story()
	for i := range clients - 1 {
		c := w.Cart()
		c.Name = fmt.Sprintf("cart-%02d", i)
		operator.Create(t, c)
	}
	operator.Start(t, operator.Watching(w.Shop, w.Payments))
	all := func(requests int) {
		t.Helper()
		operator.Eventually(t, func() error {
			if n := len(w.AS.TokenRequests()); n < requests {
				return fmt.Errorf("%d of %d token requests were sent", n, requests)
			}
			var list v1alpha1.M2MClientList
			if err := operator.Kube.List(t.Context(), &list, client.InNamespace(w.Shop)); err != nil {
				return err
			}
			for i := range list.Items {
				if c := &list.Items[i]; !operator.HasToken(c) || operator.TokenIn(t, w.Shop, c.Name+"-token", "payment-api") == "" {
					return fmt.Errorf("client %s is not ready", c.Name)
				}
			}
			return operator.Idle(t, operator.EveryController...)
		})
		asked := map[string]bool{}
		for _, r := range w.AS.TokenRequests() {
			if r.Status != 200 || asked[r.TokenHash] {
				t.Errorf("a request was refused, or a token issued twice")
			}
			asked[r.TokenHash] = true
		}
		if n := len(w.AS.TokenRequests()); n != requests {
			t.Errorf("%d token requests were sent, want %d", n, requests)
		}
	}
	all(clients)

	// Rotate a credential that all of them share.
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	operator.Change(t, w.Secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	all(2 * clients)

	// Remove every token at once.
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	if err := operator.Kube.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(w.Shop), own); err != nil {
		t.Fatal(err)
	}
	all(3 * clients)
}

// late delays the answers to some requests until the test releases them.
type late struct {
	next  http.RoundTripper
	match func(*http.Request) bool
	gate  sync.RWMutex // locked for writing: no answer comes
}

func (l *late) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if err == nil && l.match(req) {
		resp.Body = &lateBody{resp.Body, &l.gate}
	}
	return resp, err
}

type lateBody struct {
	io.ReadCloser
	gate *sync.RWMutex
}

func (b *lateBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.gate.RLock()
	defer b.gate.RUnlock()
	return n, err
}

// TestACacheThatLagsMintsNothing: the cache of one namespace has not seen the
// operator's own write, and that of the other is ahead of it. Resource versions then
// prove nothing, and by the stale Secret the token is due.
func TestACacheThatLagsMintsNothing(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: "other", Namespace: w.Payments, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
	}}
	operator.Create(t, other)
	slow := &late{match: func(req *http.Request) bool {
		return strings.HasSuffix(req.URL.Path, "/"+w.Shop+"/secrets") && req.URL.Query().Get("labelSelector") != ""
	}}
	cfg := rest.CopyConfig(operator.RESTConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		slow.next = next
		return slow
	})
	op := operator.StartSteppedOver(t, cfg, operator.Watching(w.Shop, w.Payments))
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	w.TheRequest()

	w.AS.ResetRequests()
	op.Advance(45 * time.Minute)
	slow.gate.Lock()
	open := sync.OnceFunc(slow.gate.Unlock)
	defer open()
	if err := op.ReconcileClient(cart); err != nil {
		t.Fatal(err)
	}
	w.TheRequest()
	operator.Change(t, other, func(s *corev1.Secret) { s.Data = map[string][]byte{"edited": nil} })
	operator.Eventually(t, func() error {
		var seen corev1.Secret
		if err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(other), &seen); err != nil {
			return err
		}
		if seen.ResourceVersion != other.ResourceVersion {
			return errors.New("the cache of the other namespace lags too")
		}
		return nil
	})
	for range 3 {
		op.Advance(time.Second)
		if err := op.ReconcileClient(cart); err != nil {
			t.Fatal(err)
		}
	}
	w.TheRequest()
	open()
	op.Settle(w.Payments, w.Shop)
	w.TheRequest()
	operator.IsReady(t, cart)
}

// TestAPIsThatAreNotWatched: the operator reports objects that it cannot see, and
// withdraws nothing because of them.
func TestAPIsThatAreNotWatched(t *testing.T) {
	for name, others := range map[string]int{"one namespace": 0, "two namespaces": 1} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			_, cart := w.Story()
			deploy(w, w.Shop)
			op := operator.StartStepped(t)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			token, bundle := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"), w.BundleIn(w.Shop)
			if bundle == nil {
				t.Fatal("there is no bundle")
			}
			op.Stop()

			watched := []string{w.Shop}
			for range others {
				watched = append(watched, operator.NewNamespace(t, "watched", nil))
			}
			late := w.Cart()
			late.Name = "late"
			operator.Create(t, late)
			operator.Start(t, operator.Watching(watched...))
			want := fmt.Sprintf(`APIResource "%s/payment-api" is in a namespace that the operator does not watch (--watch-namespaces)`, w.Payments)
			operator.Says(t, cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotWatched, want)
			operator.Says(t, late, v1alpha1.ConditionReady, v1alpha1.ReasonAPIResourceNotWatched, want)
			operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
			operator.Eventually(t, func() error { return operator.Idle(t, operator.EveryController...) })
			if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != token {
				t.Error("the token was withdrawn")
			}
			if got := w.BundleIn(w.Shop); got == nil || got.ResourceVersion != bundle.ResourceVersion {
				t.Error("the bundle was changed or removed")
			}
			if failed, _ := operator.MetricOf(t, "controller_runtime_reconcile_errors_total", nil); failed > 0 {
				t.Logf("%v reconciles failed so far in this suite", failed)
			}
			if logs := operator.Logs.String(); strings.Contains(logs, "unknown namespace for the cache") {
				i := strings.Index(logs, "unknown namespace for the cache")
				t.Errorf("the operator looked for objects in namespaces that it does not watch: …%s", logs[max(0, i-800):i+200])
			}
		})
	}
}
