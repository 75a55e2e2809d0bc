// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// OrdersAPI is the identifier of a second API.
const OrdersAPI = "https://orders.example.com/api"

// HasToken reports whether a client's status says that it is ready.
func HasToken(c *v1alpha1.M2MClient) bool {
	for _, cond := range c.Status.Conditions {
		if cond.Type == v1alpha1.ConditionReady {
			return cond.Status == "True" && cond.ObservedGeneration == c.Generation
		}
	}
	return false
}

// TokenIn returns the value of a key of a Secret, "" if there is none.
func TokenIn(t *testing.T, namespace, secret, key string) string {
	t.Helper()
	var s corev1.Secret
	err := Kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: secret}, &s)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return string(s.Data[key])
}

// TokensOf returns a client's Secret, nil if there is none.
func TokensOf(t *testing.T, c *v1alpha1.M2MClient) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	err := Kube.Get(t.Context(), types.NamespacedName{Namespace: c.Namespace, Name: c.SecretName()}, &s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// KeysIn returns the keys of a client's Secret.
func KeysIn(t *testing.T, c *v1alpha1.M2MClient) []string {
	t.Helper()
	if s := TokensOf(t, c); s != nil {
		return slices.Sorted(maps.Keys(s.Data))
	}
	return nil
}

// Intact reports how a client's Secret differs from what the operator wrote.
func Intact(t *testing.T, c *v1alpha1.M2MClient, keys ...string) error {
	t.Helper()
	s := TokensOf(t, c)
	if s == nil {
		return fmt.Errorf("there is no Secret")
	}
	if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(s.Data))); diff != "" {
		return fmt.Errorf("keys (-want +got):\n%s", diff)
	}
	var records tokensecret.Records
	if err := json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records); err != nil {
		return fmt.Errorf("the annotation: %w", err)
	}
	for _, k := range keys {
		if records.Tokens[k].Value != refresh.HashValue(string(s.Data[k])) {
			return fmt.Errorf("the record of %q is about another token", k)
		}
	}
	switch {
	case s.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue:
		return fmt.Errorf("the label is missing")
	case !metav1.IsControlledBy(s, c):
		return fmt.Errorf("the owner is missing")
	case ptr.Deref(s.Immutable, false):
		return fmt.Errorf("the Secret is immutable")
	}
	return nil
}

// ForgeRecord returns the annotation of a token Secret with changes.
func ForgeRecord(t *testing.T, s *corev1.Secret, edit func(map[string]any)) string {
	t.Helper()
	var records map[string]any
	if err := json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records); err != nil {
		t.Fatal(err)
	}
	edit(records)
	b, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ComesToRest reconciles the client once more after everything that happened before,
// so that counts are final.
func ComesToRest(t *testing.T, c *v1alpha1.M2MClient) {
	t.Helper()
	Change(t, c, func(c *v1alpha1.M2MClient) {
		c.Spec.Refresh.AtPercent = 60 + (c.Spec.Refresh.AtPercent+1)%10
	})
	Eventually(t, func() error {
		if err := Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if c.Status.ObservedGeneration != c.Generation {
			return fmt.Errorf("the status is about generation %d, want %d", c.Status.ObservedGeneration, c.Generation)
		}
		return nil
	})
}

// KeyOfToken returns the ID of the key that signed a token.
func KeyOfToken(t *testing.T, token string) string {
	t.Helper()
	claims, err := jwks.Inspect(token)
	if err != nil {
		t.Fatal(err)
	}
	return claims.KeyID
}

// ClusterIssuer returns the issuer and the keys of the API server's ServiceAccount
// tokens, as the API server publishes them.
func ClusterIssuer(t *testing.T) (issuer string, keys []byte) {
	t.Helper()
	cs, err := kubernetes.NewForConfig(RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) []byte {
		t.Helper()
		b, err := cs.RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var metadata struct{ Issuer string }
	if err := json.Unmarshal(get("/.well-known/openid-configuration"), &metadata); err != nil {
		t.Fatal(err)
	}
	return metadata.Issuer, get("/openid/v1/jwks")
}
