// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// TestATooLongCABundleIsTold: the problem says that a CA bundle is too long.
func TestATooLongCABundleIsTold(t *testing.T) {
	ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ca"}, Data: map[string][]byte{v1alpha1.CABundleKey: bytes.Repeat([]byte("x"), foreign.MaxCABundle+1)}}
	c := NewConnections(NewLives(), egress.Policy{}, foreign.Of(fake.NewClientBuilder().WithObjects(ca).Build()), "")
	auth := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: ca.Namespace}}
	auth.Spec.CABundle.SecretRef.Name = v1alpha1.ObjectName(ca.Name)
	if _, _, bad, err := c.caBundle(t.Context(), auth); err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCABundleInvalid || !strings.Contains(bad.Message, "262144") {
		t.Errorf("%+v, %v", bad, err)
	}
}
