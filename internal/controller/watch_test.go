// SPDX-License-Identifier: Apache-2.0

package controller

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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func watching(namespaces ...string) func(*Options) {
	return func(o *Options) { o.WatchNamespaces = namespaces }
}

// bundleIn returns the verification bundle of a world's API in a namespace, nil
// if it is not there.
func (w *world) bundleIn(namespace string) *corev1.ConfigMap {
	w.t.Helper()
	var m corev1.ConfigMap
	err := kube.Get(w.t.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(w.payments, "payment-api")}, &m)
	if client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return &m
}

// deploy creates a workload that verifies tokens of the world's API, until the
// test ends.
func (w *world) deploy(namespace string) {
	w.t.Helper()
	d := verifier(namespace, w.payments+"/payment-api")
	create(w.t, d)
	w.t.Cleanup(func() {
		if err := client.IgnoreNotFound(kube.Delete(w.t.Context(), d)); err != nil && w.t.Context().Err() == nil {
			w.t.Error(err)
		}
	})
}

// TestWatchedNamespaces: an operator that is limited to some namespaces does its
// job there, and touches nothing elsewhere.
func TestWatchedNamespaces(t *testing.T) {
	for name, tc := range map[string]struct {
		one bool // everything is in one namespace
	}{
		"one namespace":  {true},
		"two namespaces": {false},
	} {
		t.Run(name, func(t *testing.T) {
			w, elsewhere := newWorld(t), newWorld(t)
			if tc.one {
				w.payments = w.shop
			}
			secret := newSecret()
			w.setClient(cartID, secret)
			api, cart := w.api(), w.cart()
			create(t, w.server(w.shop), w.secret("cart-credentials", cartID, secret), api, cart)
			if !tc.one {
				create(t, w.server(w.payments))
			}
			w.deploy(w.shop)
			_, foreign := elsewhere.story()
			elsewhere.deploy(elsewhere.shop)

			watched := []string{w.shop, w.payments}
			if tc.one {
				watched = watched[:1]
			}
			op := startOperator(t, watching(watched...))
			isReady(t, cart)
			isReady(t, api)
			eventually(t, func() error {
				if w.bundleIn(w.shop) == nil {
					return fmt.Errorf("there is no bundle")
				}
				return idle(t, everyController...)
			})
			w.theRequest()

			op.stop()
			if n := elsewhere.as.Count(oidc.Token) + elsewhere.as.Count(oidc.Discovery) + elsewhere.as.Count(oidc.JWKS); n != 0 {
				t.Errorf("the server of other namespaces was asked %d times", n)
			}
			created := foreign.DeepCopy()
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(created.Status, foreign.Status); diff != "" {
				t.Errorf("the status of a client elsewhere was written (-want +got):\n%s", diff)
			}
			if elsewhere.bundleIn(elsewhere.shop) != nil || tokenIn(t, elsewhere.shop, "cart-token", "payment-api") != "" {
				t.Error("there is a bundle or a token elsewhere")
			}
			op.requests.mu.Lock()
			defer op.requests.mu.Unlock()
			for _, r := range op.requests.all {
				if strings.Contains(r, "/"+elsewhere.shop+"/") || strings.Contains(r, "/"+elsewhere.payments+"/") {
					t.Errorf("a request went elsewhere: %s", r)
				}
			}
		})
	}
}

// TestTwoNamespacesMintNothingTwice: the cache of several namespaces is several
// caches, which makes it harder to read one's own writes.
func TestTwoNamespacesMintNothingTwice(t *testing.T) {
	const clients = 40
	w := newWorld(t)
	w.story()
	for i := range clients - 1 {
		c := w.cart()
		c.Name = fmt.Sprintf("cart-%02d", i)
		create(t, c)
	}
	startOperator(t, watching(w.shop, w.payments))
	all := func(requests int) {
		t.Helper()
		eventually(t, func() error {
			if n := len(w.as.TokenRequests()); n < requests {
				return fmt.Errorf("%d of %d token requests were sent", n, requests)
			}
			var list v1alpha1.M2MClientList
			if err := kube.List(t.Context(), &list, client.InNamespace(w.shop)); err != nil {
				return err
			}
			for i := range list.Items {
				if c := &list.Items[i]; !hasToken(c) || tokenIn(t, w.shop, c.Name+"-token", "payment-api") == "" {
					return fmt.Errorf("client %s is not ready", c.Name)
				}
			}
			return idle(t, everyController...)
		})
		asked := map[string]bool{}
		for _, r := range w.as.TokenRequests() {
			if r.Status != 200 || asked[r.TokenHash] {
				t.Errorf("a request was refused, or a token issued twice")
			}
			asked[r.TokenHash] = true
		}
		if n := len(w.as.TokenRequests()); n != requests {
			t.Errorf("%d token requests were sent, want %d", n, requests)
		}
	}
	all(clients)

	// A rotated credential, which all of them share.
	secret := newSecret()
	w.setClient(cartID, secret)
	change(t, w.secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	all(2 * clients)

	// Every token is gone at once.
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	if err := kube.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(w.shop), own); err != nil {
		t.Fatal(err)
	}
	all(3 * clients)
}

// late lets the answers to some requests come as late as the test wants.
type late struct {
	next  http.RoundTripper
	match func(*http.Request) bool
	gate  sync.RWMutex // held for writing: nothing comes
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
// operator's own write, and that of the other is ahead of it. Then a resource
// version proves nothing, and the stale Secret says that its token is due.
func TestACacheThatLagsMintsNothing(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: "other", Namespace: w.payments, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
	}}
	create(t, other)
	slow := &late{match: func(req *http.Request) bool {
		return strings.HasSuffix(req.URL.Path, "/"+w.shop+"/secrets") && req.URL.Query().Get("labelSelector") != ""
	}}
	cfg := rest.CopyConfig(restConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		slow.next = next
		return slow
	})
	op := startSteppedOver(t, cfg, watching(w.shop, w.payments))
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	w.theRequest()

	w.as.ResetRequests()
	op.advance(45 * time.Minute)
	slow.gate.Lock()
	open := sync.OnceFunc(slow.gate.Unlock)
	defer open()
	if err := op.reconcileClient(cart); err != nil {
		t.Fatal(err)
	}
	w.theRequest()
	change(t, other, func(s *corev1.Secret) { s.Data = map[string][]byte{"edited": nil} })
	eventually(t, func() error {
		var seen corev1.Secret
		if err := op.client.Get(t.Context(), client.ObjectKeyFromObject(other), &seen); err != nil {
			return err
		}
		if seen.ResourceVersion != other.ResourceVersion {
			return errors.New("the cache of the other namespace lags too")
		}
		return nil
	})
	for range 3 {
		op.advance(time.Second)
		if err := op.reconcileClient(cart); err != nil {
			t.Fatal(err)
		}
	}
	w.theRequest()
	open()
	op.settle(w.payments, w.shop)
	w.theRequest()
	isReady(t, cart)
}

// TestAPIsThatAreNotWatched: what cannot be seen is said to be out of sight, and
// nothing is taken away for it.
func TestAPIsThatAreNotWatched(t *testing.T) {
	for name, others := range map[string]int{"one namespace": 0, "two namespaces": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, cart := w.story()
			w.deploy(w.shop)
			op := startStepped(t)
			op.settle(w.payments, w.shop)
			isReady(t, cart)
			token, bundle := tokenIn(t, w.shop, "cart-token", "payment-api"), w.bundleIn(w.shop)
			if bundle == nil {
				t.Fatal("there is no bundle")
			}
			op.stop()

			watched := []string{w.shop}
			for range others {
				watched = append(watched, newNamespace(t, "watched", nil))
			}
			late := w.cart()
			late.Name = "late"
			create(t, late)
			startOperator(t, watching(watched...))
			want := fmt.Sprintf(`APIResource "%s/payment-api" is in a namespace that the operator does not watch (--watch-namespaces)`, w.payments)
			says(t, cart, v1alpha1.ConditionGranted, v1alpha1.ReasonAPIResourceNotWatched, want)
			says(t, late, v1alpha1.ConditionReady, v1alpha1.ReasonAPIResourceNotWatched, want)
			hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
			eventually(t, func() error { return idle(t, everyController...) })
			if tokenIn(t, w.shop, "cart-token", "payment-api") != token {
				t.Error("the token was withdrawn")
			}
			if got := w.bundleIn(w.shop); got == nil || got.ResourceVersion != bundle.ResourceVersion {
				t.Error("the bundle was changed or removed")
			}
			if failed, _ := metricOf(t, "controller_runtime_reconcile_errors_total", nil); failed > 0 {
				t.Logf("%v reconciles failed so far in this suite", failed)
			}
			if logs := suiteLogs.String(); strings.Contains(logs, "unknown namespace for the cache") {
				i := strings.Index(logs, "unknown namespace for the cache")
				t.Errorf("the operator looked for objects in namespaces that it does not watch: …%s", logs[max(0, i-800):i+200])
			}
		})
	}
}
