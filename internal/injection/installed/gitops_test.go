// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// beginning is how a caBundle with a certificate begins, in base64.
var beginning = base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE"))[:24]

// TestGitOpsSeesNoDifference applies the webhook configuration as Argo CD and Flux do, which
// know nothing of its caBundle. Once the operator has written it, they must see no
// difference, and applying the configuration again must not take the caBundle away.
func TestGitOpsSeesNoDifference(t *testing.T) {
	r := start(t)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(configured(r.port))
	if err != nil {
		t.Fatal(err)
	}
	manifest := &unstructured.Unstructured{Object: content}
	manifest.SetGroupVersionKind(admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"))
	manifest.SetCreationTimestamp(metav1.Time{})
	apply := func() *unstructured.Unstructured {
		t.Helper()
		u := manifest.DeepCopy()
		err := kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("argocd-controller"), client.ForceOwnership)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	apply()
	t.Cleanup(func() {
		if err := kube.Delete(context.Background(), manifest); err != nil {
			t.Error(err)
		}
	})
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(manifest.GroupVersionKind())
	eventually(t, func() error { // the operator writes it twice
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(manifest), live); err != nil {
			return err
		}
		webhooks, _, _ := unstructured.NestedSlice(live.Object, "webhooks")
		bundle, _, _ := unstructured.NestedString(webhooks[0].(map[string]any), "clientConfig", "caBundle")
		if !strings.HasPrefix(bundle, beginning) {
			return errors.New("there is no certificate in the caBundle")
		}
		if again := apply(); again.GetResourceVersion() != live.GetResourceVersion() {
			return errors.New("applying it again changes it")
		}
		return nil
	})

	// What kubectl apply would send, and what Argo CD shows as a difference.
	original, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	current, err := json.Marshal(live)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(&admissionregistrationv1.MutatingWebhookConfiguration{})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(original, original, current, schema, true)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "what kubectl apply would send", "{}", string(patch))
}
