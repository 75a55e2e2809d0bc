// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// FuzzRecords: whoever may edit a token Secret writes its annotation. What is read of it can be
// written, and is then read as the same.
func FuzzRecords(f *testing.F) {
	for _, text := range []string{
		"", "{}", "null", "[]", `{"client":"a","tokens":{"api":{"inputs":"a","issuedAt":"2026-11-24T12:00:00Z","expiresAt":"0000-01-01T00:00:00+23:59"}}}`,
		`{"tokens":{"api":{"issuedAt":"9999-12-31T23:59:59-23:59"}},"labels":[""]}`,
	} {
		f.Add(text)
	}
	read := func(text string) Records {
		return recordsIn(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.TokensAnnotation: text}}})
	}
	f.Fuzz(func(t *testing.T, text string) {
		records := read(text)
		written := records.encoded()
		if again := read(written); again.encoded() != written {
			t.Errorf("%q became %q, and then %q", text, written, again.encoded())
		}
		for _, r := range records.Tokens {
			r.Digest()
		}
	})
}
