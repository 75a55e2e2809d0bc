// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// An annotation of atBound characters, including its key, has the largest size that
// all annotations together may have.
const (
	noteKey = "example.com/note"
	atBound = 64<<10 - len(noteKey)
)

// filled is a client whose metadata exceeds every bound. It is created before the
// policies.
func filled() *v1alpha1.M2MClient {
	c := plainClient("filled")
	c.Annotations = map[string]string{noteKey: strings.Repeat("x", atBound+1)}
	c.Labels = map[string]string{}
	for i := range 129 {
		c.Labels[fmt.Sprintf("label-%d", i)] = ""
	}
	for i := range 33 {
		c.Finalizers = append(c.Finalizers, fmt.Sprintf("example.com/finalizer-%d", i))
		c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: fmt.Sprintf("owner-%d", i), UID: "owner"})
	}
	return c
}

// dated is a client whose annotation is no time, as its refresh was asked for. It is created
// before the policies.
func dated() *v1alpha1.M2MClient {
	c := plainClient("dated")
	c.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: "now"}
	return c
}

func plainClient(name string) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "api"}}}},
	}
}

// TestMetadataIsBounded: no writer's metadata can make the objects that the API server
// sends to the operator much larger than specs can.
func TestMetadataIsBounded(t *testing.T) {
	probe := filled()
	probe.Name = "probe"
	kubetest.Eventually(t, func() error {
		if err := kube.Create(t.Context(), probe.DeepCopy(), client.DryRunAll); !refusedByPolicy(err) {
			return fmt.Errorf("metadata is not bounded yet: %w", err)
		}
		return nil
	})
	for name, part := range map[string]func(from, to *v1alpha1.M2MClient){
		"annotations are longer than 65536": func(from, to *v1alpha1.M2MClient) { to.Annotations = from.Annotations },
		"more than 128 labels":              func(from, to *v1alpha1.M2MClient) { to.Labels = from.Labels },
		"more than 32 finalizers":           func(from, to *v1alpha1.M2MClient) { to.Finalizers = from.Finalizers },
		"more than 32 owner references":     func(from, to *v1alpha1.M2MClient) { to.OwnerReferences = from.OwnerReferences },
	} {
		t.Run(name, func(t *testing.T) {
			over, at := plainClient("over"), plainClient("at")
			part(filled(), over)
			err := kube.Create(t.Context(), over, client.DryRunAll)
			if words := strings.Fields(name); !refusedByPolicy(err) || !strings.Contains(err.Error(), strings.Join(words[max(0, len(words)-3):], " ")) {
				t.Errorf("created: %.300v", err)
			}
			bounded := filled()
			bounded.Annotations[noteKey] = strings.Repeat("x", atBound)
			delete(bounded.Labels, "label-0")
			bounded.Finalizers, bounded.OwnerReferences = bounded.Finalizers[1:], bounded.OwnerReferences[1:]
			part(bounded, at)
			if err := kube.Create(t.Context(), at, client.DryRunAll); err != nil {
				t.Errorf("refused at the bound: %.300v", err)
			}
		})
	}
	for kind, o := range kinds("default") {
		o.SetAnnotations(filled().Annotations)
		if err := kube.Create(t.Context(), o, client.DryRunAll); !refusedByPolicy(err) {
			t.Errorf("%s: created: %.300v", kind, err)
		}
	}
}

// TestRefreshRequestsAreTimes: the operator takes any value of the annotation for a
// request, so a typing error would only be noticed by what does not happen.
func TestRefreshRequestsAreTimes(t *testing.T) {
	probe := plainClient("probe")
	probe.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: "now"}
	kubetest.Eventually(t, func() error {
		if err := kube.Create(t.Context(), probe.DeepCopy(), client.DryRunAll); !refusedByPolicy(err) || !strings.Contains(err.Error(), "must be a time") {
			return fmt.Errorf("the value is not checked yet: %w", err)
		}
		return nil
	})
	for value, good := range map[string]bool{
		"2026-11-29T17:00:00Z": true, "2026-11-29T17:00:00.123456789+01:00": true, "": true,
		"2026-11-29": false, "2026-11-29T17:00:00": false, "2026-11-29 17:00:00Z": false, "1764435600": false, "2026-11-29T17:00:00Z,": false,
	} {
		c := plainClient("asks")
		c.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: value}
		if err := kube.Create(t.Context(), c, client.DryRunAll); good != (err == nil) {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// TestWhatWasThereBeforeTheBounds: an older object that exceeds the bounds can be
// changed and deleted, but must not grow.
func TestWhatWasThereBeforeTheBounds(t *testing.T) {
	c := &v1alpha1.M2MClient{}
	update := func(change func()) error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(filled()), c); err != nil {
			t.Fatal(err)
		}
		change()
		return kube.Update(t.Context(), c)
	}
	if err := update(func() { c.Spec.DeletionPolicy = "Retain" }); err != nil {
		t.Errorf("change the spec: %.300v", err)
	}
	if err := update(func() { c.Annotations[noteKey] += "x" }); !refusedByPolicy(err) {
		t.Errorf("lengthen an annotation: %.300v", err)
	}
	for what, grow := range map[string]func(){
		"a label":     func() { c.Labels["more"] = "" },
		"a finalizer": func() { c.Finalizers = append(c.Finalizers, "example.com/more") },
		"an owner":    func() { c.OwnerReferences = append(c.OwnerReferences, owner("more")...) },
	} {
		if err := update(grow); !refusedByPolicy(err) {
			t.Errorf("add %s: %.300v", what, err)
		}
	}
	if err := update(func() { c.Finalizers = c.Finalizers[:32] }); err != nil {
		t.Errorf("remove a finalizer: %.300v", err)
	}
	if err := kube.Delete(t.Context(), c); err != nil {
		t.Error(err)
	}
	if err := update(func() { c.Finalizers = nil }); err != nil {
		t.Errorf("remove the finalizers: %.300v", err)
	}
}

// TestAnOlderRequestStays: a value that was no time before the policy does not keep its
// object from being changed, and does not become another such value.
func TestAnOlderRequestStays(t *testing.T) {
	c := dated()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	c.Spec.DeletionPolicy = "Retain"
	if err := kube.Update(t.Context(), c); err != nil {
		t.Errorf("change the spec: %v", err)
	}
	c.Annotations[v1alpha1.RefreshRequestedAnnotation] = "soon"
	if err := kube.Update(t.Context(), c); !refusedByPolicy(err) {
		t.Errorf("change the value: %v", err)
	}
}
