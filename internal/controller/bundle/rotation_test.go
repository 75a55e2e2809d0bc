// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestRotationHasNoGap rotates the signing key unannounced while a client is due for
// another token, and replays every state of the token and of the bundles. At no time
// does a bundle fail to verify the token.
func TestRotationHasNoGap(t *testing.T) {
	operator.Start(t)
	for name, rotate := range map[string]func(*oidc.Server) error{
		"the old key stays": func(as *oidc.Server) error { _, err := as.RotateKey(); return err },
		"a hard cut":        (*oidc.Server).RotateKeyHard,
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			api, cart := w.Story()
			namespaces := []string{w.Payments, w.Shop}
			for range 6 {
				namespaces = append(namespaces, operator.NewNamespace(t, "verifier", nil))
			}
			for _, n := range namespaces {
				operator.Create(t, operator.VerifyWith(n, "payment", w.Payments+"/payment-api"))
			}
			operator.IsReady(t, cart)
			operator.Eventually(t, func() error {
				for _, n := range namespaces {
					if operator.BundleIn(t, n, api) == nil {
						return fmt.Errorf("namespace %s has no bundle", n)
					}
				}
				return nil
			})
			history := recordingOf(t, w.Shop, namespaces)

			if err := rotate(w.AS); err != nil {
				t.Fatal(err)
			}
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
			operator.Eventually(t, func() error {
				if operator.KeyOfToken(t, operator.TokenIn(t, w.Shop, "cart-token", "payment-api")) != w.AS.KeyID() {
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
					if err := operator.VerifyWithFiles(token, b); token != "" && err != nil {
						t.Errorf("at %s, the bundle of %s does not verify the token: %v", o.GetResourceVersion(), namespace, err)
					}
				}
			}
			if len(tokens) != 2 || changes < 2*len(namespaces) {
				t.Errorf("%d tokens and %d states of bundles were seen: the replay proves nothing", len(tokens), changes)
			}
		})
	}
}

// record watches the token Secret and the bundles of namespaces from now on. It
// returns a function that gives all their states, the present ones first, in the order
// in which they were written.
func recordingOf(t *testing.T, tokens string, namespaces []string) (history func() []client.Object) {
	t.Helper()
	watcher, err := client.NewWithWatch(operator.RESTConfig, client.Options{Scheme: controller.Scheme()})
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
				// A waiting token is in a Secret that no pod mounts.
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
		// Each watch is complete up to here once it has shown one of these.
		marks := []client.Object{
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tokens}}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: tokens}},
		}
		for _, o := range marks {
			o.SetName("the-end")
			o.SetLabels(own)
			operator.Create(t, o)
		}
		var all []client.Object
		operator.Eventually(t, func() error {
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
