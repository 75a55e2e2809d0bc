// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// BundleFiles are the names of the files that every bundle has.
var BundleFiles = []string{"audience", "envoy-jwt-authn.yaml", "issuer", "jwks.json", "protected-resource.json", "verification.json"}

// BundleIn returns the bundle of an API in a namespace, nil if there is none.
func BundleIn(t *testing.T, namespace string, api *v1alpha1.APIResource) *corev1.ConfigMap {
	t.Helper()
	var m corev1.ConfigMap
	err := Kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}, &m)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return &m
}

// HasBundle waits until a namespace has an API's bundle with all its files, and
// returns it.
func HasBundle(t *testing.T, namespace string, api *v1alpha1.APIResource) (bundle *corev1.ConfigMap) {
	t.Helper()
	Eventually(t, func() error {
		if bundle = BundleIn(t, namespace, api); bundle == nil {
			return fmt.Errorf("namespace %s has no bundle", namespace)
		}
		return nil
	})
	for _, name := range BundleFiles {
		if bundle.Data[name] == "" {
			t.Errorf("the bundle has no %s", name)
		}
	}
	if got := bundle.Data["audience"]; got != string(api.Spec.Identifier) {
		t.Errorf("the bundle's audience is %q", got)
	}
	return bundle
}

// HasNoBundle waits until a namespace has no bundle of an API.
func HasNoBundle(t *testing.T, namespace string, api *v1alpha1.APIResource) {
	t.Helper()
	Eventually(t, func() error {
		if BundleIn(t, namespace, api) != nil {
			return fmt.Errorf("namespace %s still has the bundle", namespace)
		}
		return nil
	})
}

// BundledKeys returns the IDs of the keys in a bundle's jwks.json, sorted.
func BundledKeys(t *testing.T, bundle *corev1.ConfigMap) []string {
	t.Helper()
	keys, _, err := jwks.Parse([]byte(bundle.Data["jwks.json"]))
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return ids
}

// VerifyWithFiles checks a token as a workload would, using only the given files.
func VerifyWithFiles(token string, bundle *corev1.ConfigMap) error {
	keys, _, err := jwks.Parse([]byte(bundle.Data["jwks.json"]))
	if err != nil {
		return err
	}
	_, err = jwks.Verify(token, keys, jwks.Expectation{
		Issuer: bundle.Data["issuer"], Audience: bundle.Data["audience"], Now: time.Now(),
	})
	return err
}
