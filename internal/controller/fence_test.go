// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

const operatorAccount = "system:serviceaccount:m2m-operator-system:m2m-operator-controller-manager"

// TestFence attacks with the operator's own ServiceAccount. Its role allows writes in
// every namespace; the fence allows them only for the operator's own objects.
func TestFence(t *testing.T) {
	asOperator, err := client.New(fencedOperator(t, "fence.yaml"), client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ns := operator.NewNamespace(t, "fence", nil)

	own := map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	secret := func(name string, labels map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels}}
	}
	foreign, foreignMap := secret("database", nil), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "settings"}}
	operator.Create(t, foreign, foreignMap)
	// A new policy takes effect after a short delay.
	operator.Eventually(t, func() error {
		if err := asOperator.Create(t.Context(), secret("probe", nil), client.DryRunAll); !apierrors.IsInvalid(err) {
			return fmt.Errorf("the fence is not up: %w", err)
		}
		return nil
	})

	owned := func(s *corev1.Secret) *corev1.Secret {
		s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(
			&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: "cart", UID: "1"}}, v1alpha1.GroupVersion.WithKind("M2MClient"))}
		return s
	}
	lost := owned(secret("cart-token", nil))
	operator.Create(t, lost)

	labelled := func(o client.Object) client.Object {
		c := o.DeepCopyObject().(client.Object)
		c.SetLabels(own)
		return c
	}
	accountToken := owned(secret("account-token", own))
	accountToken.Type = corev1.SecretTypeServiceAccountToken
	accountToken.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
	tests := map[string]struct {
		do      func() error
		allowed bool
	}{
		"it creates a client's Secret":             {func() error { return asOperator.Create(t.Context(), owned(secret("mine", own))) }, true},
		"it updates its own Secret":                {func() error { return asOperator.Update(t.Context(), owned(secret("mine", own))) }, true},
		"it restores the lost label of its Secret": {func() error { return asOperator.Update(t.Context(), labelled(lost)) }, true},
		"it removes the label":                     {func() error { return asOperator.Update(t.Context(), owned(secret("mine", nil))) }, false},
		"it creates a Secret without label":        {func() error { return asOperator.Create(t.Context(), owned(secret("other", nil))) }, false},
		"it creates a ServiceAccount token":        {func() error { return asOperator.Create(t.Context(), accountToken) }, false},
		"it overwrites another's Secret":           {func() error { return asOperator.Update(t.Context(), foreign) }, false},
		"it labels another's Secret as its own":    {func() error { return asOperator.Update(t.Context(), labelled(foreign)) }, false},
		"it deletes another's Secret":              {func() error { return asOperator.Delete(t.Context(), foreign) }, false},
		"it labels another's ConfigMap as its own": {func() error { return asOperator.Update(t.Context(), labelled(foreignMap)) }, false},
		"it deletes another's ConfigMap":           {func() error { return asOperator.Delete(t.Context(), foreignMap) }, false},
		"somebody else updates a Secret":           {func() error { return operator.Kube.Update(t.Context(), foreign.DeepCopy()) }, true},
	}
	for _, name := range []string{"it creates a client's Secret"} { // what the others need
		if err := tests[name].do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		delete(tests, name)
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := tc.do()
			if tc.allowed && err != nil {
				t.Errorf("was denied: %v", err)
			}
			if !tc.allowed && !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
				t.Errorf("was not denied: %v", err)
			}
		})
	}
}

// fencedOperator returns a connection of the operator's ServiceAccount, which may do
// everything except what a fence of config/admission denies.
func fencedOperator(t *testing.T, fence string) *rest.Config {
	t.Helper()
	applyFence(t, fence)
	createForTest(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "fence-test"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: operatorAccount}},
	})
	cfg := rest.CopyConfig(operator.RESTConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: operatorAccount}
	return cfg
}

// applyFence installs a policy of config/admission and its binding.
func applyFence(t *testing.T, fence string) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "config", "admission", fence))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	decoder := yaml.NewYAMLOrJSONDecoder(f, 4096)
	for range 2 {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); err != nil {
			t.Fatal(err)
		}
		createForTest(t, o)
	}
}

// createForTest creates a cluster-scoped object and deletes it when the test ends.
func createForTest(t *testing.T, o client.Object) {
	t.Helper()
	operator.Create(t, o)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
}
