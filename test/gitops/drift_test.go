// SPDX-License-Identifier: Apache-2.0

package gitops_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// What Argo CD and Flux put on every object that they apply. Something that carries it, and
// is not in Git, they delete.
var (
	trackingLabels = map[string]string{
		"app.kubernetes.io/instance":                "shop",
		"argocd.argoproj.io/instance":               "shop",
		"kustomize.toolkit.fluxcd.io/name":          "shop",
		"kustomize.toolkit.fluxcd.io/namespace":     "flux-system",
		"helm.toolkit.fluxcd.io/name":               "shop",
		"app.kubernetes.io/managed-by":              "Helm",
		"kustomize.toolkit.fluxcd.io/prune-is-ours": "true",
	}
	trackingAnnotations = map[string]string{
		"argocd.argoproj.io/tracking-id": "shop:m2m-operator.io/M2MClient:shop/cart",
		"argocd.argoproj.io/sync-wave":   "3",
		"meta.helm.sh/release-name":      "shop",
	}
)

// TestGitIsNotContradicted applies the story at both kinds of servers, and every sample, as
// Argo CD and Flux do. When the operator has worked, they must see no difference: neither by
// server-side apply, which then writes nothing, nor by comparing with what was applied last.
// What the operator created must not look as if these tools had applied it.
func TestGitIsNotContradicted(t *testing.T) {
	tenant := operator.NewTenant(t)
	w := operator.NewWorld(t)
	right := operator.NewSecret()
	w.SetClient(operator.CartID, right)
	cart := tenant.Cart()
	story := []client.Object{
		w.Server(w.Payments), w.Server(w.Shop), w.API(), w.Secret("cart-credentials", operator.CartID, right), w.Cart(),
		operator.VerifyWith(w.Payments, "payment", "payment-api"),
		tenant.Management(), tenant.Server(), tenant.API(), cart,
	}
	var applied []*unstructured.Unstructured
	for _, obj := range story {
		applied = append(applied, manifest(t, obj))
	}
	applied = append(applied, samples(t)...)
	for _, m := range applied {
		m.SetLabels(merged(m.GetLabels(), trackingLabels))
		m.SetAnnotations(merged(m.GetAnnotations(), trackingAnnotations))
	}
	for _, m := range applied {
		apply(t, m)
	}
	letGoLater(t, applied)
	operator.Start(t)
	operator.IsReady(t, cart)
	operator.IsReady(t, w.Cart())
	comesToRest(t)

	for _, m := range applied {
		isAsApplied(t, m)
	}
	if len(applied) < 30 {
		t.Errorf("only %d objects were applied", len(applied))
	}
	if n := areNotTracked(t, w.Shop, w.Payments, tenant.Shop, tenant.Payments, operator.Namespace); n < 4 {
		t.Errorf("the operator created only %d objects", n)
	}
}

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(b)
	maps.Copy(m, a)
	return m
}

// manifest returns an object as it would be in Git.
func manifest(t *testing.T, obj client.Object) *unstructured.Unstructured {
	t.Helper()
	gvk, err := apiutil.GVKForObject(obj, operator.Kube.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	u.SetCreationTimestamp(metav1.Time{})
	delete(u.Object, "status")
	return u
}

// example matches the addresses of the samples' servers.
var example = regexp.MustCompile(`(?m)^( *(?:issuer|endpoint|token|jwks|registration): )https://[a-z.]*example\.com(?:/oidc)?`)

// samples returns the objects of config/samples. Their servers are replaced by an address
// of this machine where nothing listens.
func samples(t *testing.T) (all []*unstructured.Unstructured) {
	t.Helper()
	files, err := filepath.Glob(filepath.FromSlash(root + "/config/samples/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(b), "\n---\n") {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if u.GetKind() == "Kustomization" {
				continue
			}
			if strings.HasSuffix(u.GetKind(), "AuthorizationServer") {
				if err := yaml.Unmarshal([]byte(example.ReplaceAllString(document, "${1}http://127.0.0.1:1")), &u.Object); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, u)
		}
	}
	// Namespaces first, as every tool does.
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(first(a), first(b))
	})
	return all
}

func first(u *unstructured.Unstructured) string {
	if u.GetKind() == "Namespace" {
		return "0"
	}
	return "1"
}

// apply applies a manifest as Argo CD with server-side apply, and Flux, do.
func apply(t *testing.T, m *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	got := m.DeepCopy()
	err := operator.Kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(got), client.FieldOwner("argocd-controller"), client.ForceOwnership)
	if err != nil {
		t.Fatalf("apply %s %s/%s: %v", m.GetKind(), m.GetNamespace(), m.GetName(), err)
	}
	return got
}

// letGoLater deletes objects when the test ends, without their finalizers, which no operator
// will remove. Namespaces stay: nothing here would finish their deletion.
func letGoLater(t *testing.T, applied []*unstructured.Unstructured) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		for _, m := range applied {
			if m.GetKind() == "Namespace" {
				continue
			}
			patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
			for _, err := range []error{operator.Kube.Patch(ctx, m.DeepCopy(), patch), operator.Kube.Delete(ctx, m.DeepCopy())} {
				if client.IgnoreNotFound(err) != nil {
					t.Error(err)
				}
			}
		}
	})
}

// isAsApplied fails if a tool would see a difference between a manifest and its object.
func isAsApplied(t *testing.T, m *unstructured.Unstructured) {
	t.Helper()
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(m.GroupVersionKind())
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(m), live); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s %s/%s", m.GetKind(), m.GetNamespace(), m.GetName())
	if again := apply(t, m); again.GetResourceVersion() != live.GetResourceVersion() {
		t.Errorf("%s: applying it again changes it", name)
	}
	if m.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
		return // patched by another rule, and the operator does not write it
	}
	want, err := m.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	is, err := live.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(want, want, is)
	if err != nil {
		t.Fatal(err)
	}
	if string(patch) != "{}" {
		t.Errorf("%s: kubectl apply would send %s", name, patch)
	}
}

// areNotTracked fails if an object that the operator created carries anything by which
// Argo CD, Flux or Helm recognises its own. It returns how many objects it saw.
func areNotTracked(t *testing.T, namespaces ...string) (n int) {
	t.Helper()
	for _, ns := range namespaces {
		for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ConfigMapList{}} {
			if err := operator.Kube.List(t.Context(), list, client.InNamespace(ns), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
				t.Fatal(err)
			}
			err := meta.EachListItem(list, func(o runtime.Object) error {
				obj := o.(client.Object)
				n++
				for _, m := range []map[string]string{obj.GetLabels(), obj.GetAnnotations()} {
					for k := range m {
						if k != v1alpha1.ManagedByLabel && !strings.HasPrefix(k, "m2m-operator.io/") {
							t.Errorf("%T %s/%s carries %s", obj, ns, obj.GetName(), k)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}
