// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// TestRotationHasNoGap rotates the signing key unannounced while a client is to
// get another token, and replays every state of the token and of the bundles:
// at no moment is there a bundle that does not verify the token.
func TestRotationHasNoGap(t *testing.T) {
	startOperator(t)
	for name, rotate := range map[string]func(*oidc.Server) error{
		"the old key stays": func(as *oidc.Server) error { _, err := as.RotateKey(); return err },
		"a hard cut":        (*oidc.Server).RotateKeyHard,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			api, cart := w.story()
			namespaces := []string{w.payments, w.shop}
			for range 6 {
				namespaces = append(namespaces, newNamespace(t, "verifier", nil))
			}
			for _, n := range namespaces {
				create(t, verifyWith(n, "payment", w.payments+"/payment-api"))
			}
			isReady(t, cart)
			eventually(t, func() error {
				for _, n := range namespaces {
					if bundleIn(t, n, api) == nil {
						return fmt.Errorf("namespace %s has no bundle", n)
					}
				}
				return nil
			})
			history := recordingOf(t, w.shop, namespaces)

			if err := rotate(w.as); err != nil {
				t.Fatal(err)
			}
			change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
			eventually(t, func() error {
				if keyOfToken(t, tokenIn(t, w.shop, "cart-token", "payment-api")) != w.as.KeyID() {
					return fmt.Errorf("the token is still signed by the old key")
				}
				return nil
			})
			states := history()
			var token string
			bundles := map[string]*corev1.ConfigMap{}
			tokens, changes := map[string]bool{}, 0
			for _, o := range states {
				switch o := o.(type) {
				case *corev1.Secret:
					token = string(o.Data["payment-api"])
					tokens[token] = true
				case *corev1.ConfigMap:
					bundles[o.Namespace] = o
					changes++
				}
				for namespace, b := range bundles {
					if err := verifyWithFiles(token, b); token != "" && err != nil {
						t.Errorf("at %s the bundle of %s does not verify the token: %v", o.GetResourceVersion(), namespace, err)
					}
				}
			}
			if len(tokens) != 2 || changes < 2*len(namespaces) {
				t.Errorf("%d tokens and %d states of bundles were seen: the replay proves nothing", len(tokens), changes)
			}
		})
	}
}

// verifyWithFiles checks a token as a workload would, with nothing but the
// files that it is given.
func verifyWithFiles(token string, bundle *corev1.ConfigMap) error {
	keys, _, err := jwks.Parse([]byte(bundle.Data["jwks.json"]))
	if err != nil {
		return err
	}
	_, err = jwks.Verify(token, keys, jwks.Expectation{
		Issuer: bundle.Data["issuer"], Audience: bundle.Data["audience"], Now: time.Now(),
	})
	return err
}

// record watches the token Secret and the bundles of namespaces from now on. The
// function that it returns gives all their states, the present ones first, in
// the order in which they were written.
func recordingOf(t *testing.T, tokens string, namespaces []string) (history func() []client.Object) {
	t.Helper()
	watcher, err := client.NewWithWatch(restConfig, client.Options{Scheme: Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var states []client.Object
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ConfigMapList{}} {
		w, err := watcher.Watch(t.Context(), list, own)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		go func() {
			for e := range w.ResultChan() {
				o, ok := e.Object.(client.Object)
				_, secret := e.Object.(*corev1.Secret)
				// A token that waits lies in a Secret that no pod mounts.
				if secret && (o.GetNamespace() != tokens || strings.HasSuffix(o.GetName(), "-waiting")) {
					continue
				}
				if !ok || e.Type == watch.Deleted || !slices.Contains(namespaces, o.GetNamespace()) {
					continue
				}
				mu.Lock()
				states = append(states, o)
				mu.Unlock()
			}
		}()
	}
	return func() []client.Object {
		t.Helper()
		// Both watches have come this far when they have shown these.
		marks := []client.Object{
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tokens}}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: tokens}},
		}
		for _, o := range marks {
			o.SetName("the-end")
			o.SetLabels(own)
			create(t, o)
		}
		var all []client.Object
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			ends := 0
			all = all[:0]
			for _, o := range states {
				if o.GetName() == "the-end" {
					ends++
				} else {
					all = append(all, o)
				}
			}
			if ends < len(marks) {
				return fmt.Errorf("the watches are behind")
			}
			return nil
		})
		slices.SortFunc(all, func(a, b client.Object) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
		return all
	}
}

// revisionOf returns etcd's revision, which orders the writes of all kinds.
func revisionOf(o client.Object) uint64 {
	n, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
