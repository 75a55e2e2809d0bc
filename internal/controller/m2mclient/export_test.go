// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// Remembered returns which of some accesses of a client the process remembers the token of,
// and "Secret" if it remembers the Secret.
func (r *Reconciler) Remembered(name types.NamespacedName, keys ...string) (remembered []string) {
	for _, key := range keys {
		if _, ok := r.written.Get(name, key); ok {
			remembered = append(remembered, key)
		}
	}
	if r.secrets.Remembers(name) {
		remembered = append(remembered, "Secret")
	}
	return remembered
}

// NeedOfFirst returns the expiry that is recorded of the token of a client's first access,
// and how much the access needs a request.
func (r *Reconciler) NeedOfFirst(t *testing.T, c *v1alpha1.M2MClient, now time.Time) (expiresAt time.Time, need traffic.Need) {
	t.Helper()
	p := &pass{Client: c, Now: now}
	if err := r.resolve(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := r.readSecret(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	a := p.Accesses[0]
	r.present(p, a)
	return a.Record.ExpiresAt, r.need(p, a, a.Record.Inputs)
}
