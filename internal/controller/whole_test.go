// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestContentIsNotKeptForALabel fills a Secret and a ConfigMap and gives them the
// operator's label. The cache knows that they exist and keeps nothing else of them. A
// read before a write gets all of it.
func TestContentIsNotKeptForALabel(t *testing.T) {
	shop := operator.NewNamespace(t, "shop", nil)
	filling := strings.Repeat("x", 1000<<10)
	meta := metav1.ObjectMeta{Namespace: shop, Name: "filled", Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}}
	secret := &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"filled": []byte(filling)}}
	configMap := &corev1.ConfigMap{ObjectMeta: *meta.DeepCopy(), Data: map[string]string{"filled": filling}}
	operator.Create(t, secret, configMap)
	op := operator.StartStepped(t)
	op.CatchUp(shop)
	for name, o := range map[string]client.Object{"Secret": &corev1.Secret{}, "ConfigMap": &corev1.ConfigMap{}} {
		t.Run(name, func(t *testing.T) {
			if err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), o); err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(o)
			if err != nil || len(encoded) > 1024 {
				t.Errorf("%d bytes of it are in the cache (%v)", len(encoded), err)
			}
			if err := op.Client.Update(t.Context(), o); !apierrors.IsInvalid(err) {
				t.Errorf("the cut object can be written back: %v", err)
			}
			whole := o.DeepCopyObject().(client.Object)
			if err := op.Bundles.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), whole); err != nil {
				t.Fatal(err)
			}
			if encoded, _ := json.Marshal(whole); len(encoded) < len(filling) || cached.IsCut(whole) {
				t.Errorf("a read before a write gets %d bytes of it", len(encoded))
			}
			op.Requests.Reset()
			if err := op.Bundles.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), o, client.UnsafeDisableDeepCopy); err != nil {
				t.Fatal(err)
			}
			if reads := op.Requests.Reads(); len(reads) > 0 {
				t.Errorf("a read from the cache costs %v", reads)
			}
		})
	}
}

// fillingOf returns what others have added to an object.
func fillingOf(o client.Object) string {
	encoded, err := json.Marshal([]any{o.GetLabels(), o.GetAnnotations(), o.GetFinalizers(), o.GetOwnerReferences()})
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

// TestWhatOthersPutOnOurKindsStays fills the metadata of a client, an API and a
// server, which the cache does not keep. The operator then writes statuses and its
// finalizer, and everything else stays.
func TestWhatOthersPutOnOurKindsStays(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	auth := w.Server(w.Shop)
	op := operator.StartStepped(t)
	ours := []client.Object{api, cart, auth}
	var finalizers []string
	for i := range 100 {
		finalizers = append(finalizers, fmt.Sprintf("example.com/finalizer-of-another-controller-%d", i))
	}
	want := map[client.Object]string{}
	for _, o := range ours {
		operator.Change(t, o, func(o client.Object) {
			o.SetLabels(map[string]string{"theirs": "1"})
			o.SetAnnotations(map[string]string{"example.com/theirs": strings.Repeat("x", 200<<10), v1alpha1.RotateCredentialAnnotation: strings.Repeat("y", 1000)})
			o.SetFinalizers(finalizers)
			o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "1"}})
		})
		want[o] = fillingOf(o)
		defer func() { operator.Change(t, o, func(o client.Object) { o.SetFinalizers(nil) }) }()
	}
	stays := func(when string, finalizers int) {
		t.Helper()
		for _, o := range ours {
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				t.Fatal(err)
			}
			if len(o.GetFinalizers()) != finalizers {
				t.Errorf("%s %T has %d finalizers, want %d", when, o, len(o.GetFinalizers()), finalizers)
			}
			controllerutil.RemoveFinalizer(o, v1alpha1.ProvisioningFinalizer)
			if got := fillingOf(o); got != want[o] {
				t.Errorf("%s %T has\n%.300s, not\n%.300s", when, o, got, want[o])
			}
		}
	}

	op.Settle(w.Shop, w.Payments)
	stays("after its status was written,", len(finalizers))
	if !operator.HasToken(cart) {
		t.Errorf("the client has no token: %+v", cart.Status.Conditions)
	}
	fromCache := func(o client.Object) client.Object {
		t.Helper()
		op.CatchUp(w.Shop, w.Payments)
		c := o.DeepCopyObject().(client.Object)
		if err := op.Bundles.Client.Get(t.Context(), client.ObjectKeyFromObject(o), c); err != nil {
			t.Fatal(err)
		}
		if encoded, _ := json.Marshal(c); len(encoded) > 16<<10 || !cached.IsCut(c) {
			t.Errorf("%d bytes of %T are in the cache", len(encoded), c)
		}
		return c
	}
	for _, o := range ours {
		if err := write.Hold(t.Context(), op.Bundles.Client, fromCache(o)); err != nil {
			t.Fatal(err)
		}
	}
	stays("with ours,", len(finalizers)+1)
	for _, o := range ours {
		// The operator's finalizer need not be the last one.
		operator.Change(t, o, func(o client.Object) { o.SetFinalizers(append(o.GetFinalizers(), "example.com/a-later-one")) })
		c := fromCache(o)
		if err := write.Hold(t.Context(), op.Bundles.Client, c.DeepCopyObject().(client.Object)); err != nil {
			t.Errorf("adding the finalizer twice failed: %v", err)
		}
		stale := c.DeepCopyObject().(client.Object)
		if err := write.Release(t.Context(), op.Bundles.Client, c); err != nil {
			t.Fatal(err)
		}
		if err := write.Release(t.Context(), op.Bundles.Client, stale); err == nil {
			t.Errorf("%T is released twice, the second time from its former state", o)
		}
		operator.Change(t, o, func(o client.Object) { controllerutil.RemoveFinalizer(o, "example.com/a-later-one") })
	}
	stays("without ours,", len(finalizers))
}

// TestFilledSecretAndBundleAreWrittenWhole fills a token Secret and a bundle beyond
// what the cache keeps. The operator still updates them, and the additions of others
// stay.
func TestFilledSecretAndBundleAreWrittenWhole(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	deploy(w, w.Payments)
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	theirs := strings.Repeat("x", 100<<10)
	secret, bundle := operator.TokensOf(t, cart), w.BundleIn(w.Payments)
	files := maps.Clone(bundle.Data)
	operator.Change(t, secret, func(s *corev1.Secret) { s.Annotations["theirs"] = theirs })
	operator.Change(t, bundle, func(c *corev1.ConfigMap) {
		c.Annotations["theirs"], c.Labels["theirs"], c.Data["issuer"] = theirs, "1", "https://evil.example.com"
	})
	op.Settle(w.Payments, w.Shop)
	bundle = w.BundleIn(w.Payments)
	if diff := cmp.Diff(files, bundle.Data); diff != "" {
		t.Errorf("the bundle (-want +got):\n%s", diff)
	}
	if bundle.Annotations["theirs"] != theirs || bundle.Labels["theirs"] != "1" {
		t.Error("the bundle has lost what others added")
	}
	var cached corev1.Secret
	if err := op.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), &cached); err != nil {
		t.Fatal(err)
	}
	if encoded, _ := json.Marshal(cached); len(encoded) > 1024 {
		t.Errorf("%d bytes of the Secret are in the cache", len(encoded))
	}

	before := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	w.AS.ResetRequests()
	op.Settle(w.Payments, w.Shop)
	w.SawRequests(t, 0)
	op.Advance(50 * time.Minute)
	op.Settle(w.Payments, w.Shop)
	w.SawRequests(t, 1)
	if err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: w.Shop, Name: "cart-token"}, secret); err != nil {
		t.Fatal(err)
	}
	if secret.Annotations["theirs"] != theirs {
		t.Error("the Secret has lost what others added")
	}
	if after := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); after == before {
		t.Error("the token was not replaced")
	}
}

// TestFilledObjectsDoNotFillTheMemory starts the operator where tenants have filled
// objects to their limits: 50 MB, of which it keeps next to nothing.
func TestFilledObjectsDoNotFillTheMemory(t *testing.T) {
	w := operator.NewWorld(t)
	filling := strings.Repeat("x", 1000<<10)
	verify := map[string]string{v1alpha1.VerifyAnnotation: strings.Repeat("a,", 125<<10)}
	meta := func(i int) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: w.Shop, Name: fmt.Sprintf("filled-%d", i), Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}}
	}
	for i := range 18 {
		cart := w.Cart()
		cart.ObjectMeta = meta(i)
		cart.Annotations = map[string]string{"example.com/filled": filling[:250<<10]}
		workload := verifier(w.Shop, "payment-api")
		workload.ObjectMeta = meta(i)
		workload.Annotations, workload.Spec.Template.Annotations = verify, verify
		owned := &corev1.Secret{ObjectMeta: meta(i), Data: map[string][]byte{"filled": []byte(filling)}}
		owned.Annotations = map[string]string{v1alpha1.TokensAnnotation: "{}"}
		owned.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(
			&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: "cart", UID: "1"}}, v1alpha1.GroupVersion.WithKind("M2MClient"))}
		operator.Create(t, cart, workload, owned, &corev1.ConfigMap{ObjectMeta: meta(i), Data: map[string]string{"filled": filling}})
		t.Cleanup(func() {
			if err := operator.Kube.Delete(context.Background(), workload); err != nil {
				t.Error(err)
			}
		})
	}
	inUse := func() int {
		runtime.GC()
		runtime.GC() // what the first one let go of
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := inUse()
	op := operator.StartStepped(t)
	op.CatchUp(w.Shop)
	if kept := inUse() - before; kept > 12<<20 {
		t.Errorf("the operator keeps %d bytes", kept)
	} else {
		t.Logf("the operator keeps %d bytes", kept)
	}
	runtime.KeepAlive(op)
}
