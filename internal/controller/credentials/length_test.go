// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
)

// TestATooLongCredentialIsTold reads a client's secret from a value that is too long.
func TestATooLongCredentialIsTold(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "credentials"}, Data: map[string][]byte{
		v1alpha1.ClientIDKey: []byte("cart"), v1alpha1.ClientSecretKey: bytes.Repeat([]byte("x"), foreign.MaxCredential+1)}}
	s := &Source{Config: Config{Foreign: foreign.Of(fake.NewClientBuilder().WithObjects(secret).Build())}}
	_, _, bad, err := s.read(t.Context(), client.ObjectKeyFromObject(secret), keys{content: v1alpha1.ClientSecretKey, id: v1alpha1.ClientIDKey})
	if err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCredentialsInvalid || !strings.Contains(bad.Message, "65536") {
		t.Errorf("%+v, %v", bad, err)
	}
}
