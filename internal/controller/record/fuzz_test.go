// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// holds reads one Secret.
type holds struct {
	client.Reader
	secret corev1.Secret
}

func (h holds) Get(_ context.Context, _ types.NamespacedName, into client.Object, _ ...client.GetOption) error {
	h.secret.DeepCopyInto(into.(*corev1.Secret))
	return nil
}

// FuzzReadCredentials: what somebody has edited in a credential Secret is read as nothing, or as
// what can be written and is then read as the same; and never for another client.
func FuzzReadCredentials(f *testing.F) {
	for _, content := range []string{"", "{}", "null", "[]", `{"server":{"name":"auth"},"current":{"clientID":"a","secret":"b"}}`, `{"server":7}`} {
		f.Add([]byte(content), "shop/cart")
	}
	name := types.NamespacedName{Namespace: "shop", Name: "cart"}
	f.Fuzz(func(t *testing.T, content []byte, owner string) {
		read := func(content []byte) []byte {
			secret := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.OwnerAnnotation: owner}}}
			secret.Data = map[string][]byte{CredentialKey: content}
			store, found, err := ReadCredentials(t.Context(), holds{secret: secret}, "system", name)
			if err != nil || found == nil {
				t.Fatalf("read %v: %v", found, err)
			}
			encoded, err := json.Marshal(store)
			if err != nil {
				t.Fatalf("%q was read and cannot be written: %v", content, err)
			}
			return encoded
		}
		nothing, err := json.Marshal(CredentialStore{})
		if err != nil {
			t.Fatal(err)
		}
		written := read(content)
		if owner != name.String() && string(written) != string(nothing) {
			t.Errorf("read %q of a Secret of %q", written, owner)
		}
		if again := read(written); string(again) != string(written) {
			t.Errorf("%q became %q, and then %q", content, written, again)
		}
	})
}
