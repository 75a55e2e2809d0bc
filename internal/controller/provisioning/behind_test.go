// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// TestACredentialSecretThatIsBehind compares what the cache had of a credential Secret with what is there.
func TestACredentialSecretThatIsBehind(t *testing.T) {
	owner := types.NamespacedName{Namespace: "shop", Name: "cart"}
	secret := func(version string, labels map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: "operator", Name: record.CredentialSecretName(owner), ResourceVersion: version, Labels: labels,
			Annotations: map[string]string{v1alpha1.OwnerAnnotation: owner.String()},
		}}
	}
	ours := map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	for name, tc := range map[string]struct {
		cached, live *corev1.Secret
		is           bool
	}{
		"none":                {nil, nil, true},
		"the same":            {secret("2", ours), secret("2", ours), true},
		"changed meanwhile":   {secret("1", ours), secret("2", ours), false},
		"made meanwhile":      {nil, secret("2", ours), false},
		"deleted meanwhile":   {secret("2", ours), nil, false},
		"without its label":   {nil, secret("2", nil), false},
		"with another's mark": {nil, secret("2", map[string]string{v1alpha1.ManagedByLabel: "helm"}), false},
	} {
		t.Run(name, func(t *testing.T) {
			builder := fake.NewClientBuilder()
			if tc.live != nil {
				builder.WithObjects(tc.live)
			}
			cluster := builder.Build()
			r := &ClientReconciler{loop: loop{Config: Config{Client: cluster, Live: cluster, Servers: &Administration{AdministrationConfig: AdministrationConfig{OperatorNamespace: "operator"}}}}}
			s := &clientSubject{r: r, client: &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Namespace, Name: owner.Name}}, secret: tc.cached}
			if is, err := s.isCurrent(t.Context()); is != tc.is || err != nil {
				t.Errorf("it is current: %t, %v; want %t", is, err, tc.is)
			}
			var after corev1.Secret
			err := cluster.Get(t.Context(), client.ObjectKeyFromObject(secret("", nil)), &after)
			if tc.live != nil && (err != nil || after.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue) {
				t.Errorf("the Secret has the labels %v, %v", after.Labels, err)
			}
		})
	}

	unreadable := errors.New("not now")
	dead := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
		return unreadable
	}}).Build()
	r := &ClientReconciler{loop: loop{Config: Config{Live: dead, Servers: &Administration{}}}}
	s := &clientSubject{r: r, client: &v1alpha1.M2MClient{}}
	if is, err := s.isCurrent(t.Context()); is || !errors.Is(err, unreadable) {
		t.Errorf("what cannot be read is current: %t, %v", is, err)
	}
}
