// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDeletedSecretsHoldNoExpiredTokens deletes a Secret while the watch is interrupted.
func TestDeletedSecretsHoldNoExpiredTokens(t *testing.T) {
	o := newObserver(nil)
	now := time.Now()
	secret := func(name string, expires time.Time) corev1.Secret {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, expires.Add(-time.Minute).Unix(), expires.Unix()))
		return corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{Name: name, Controller: new(true)}}},
			Data:       map[string][]byte{"api": []byte("e30." + claims + ".sig")},
		}
	}
	gone, fresh := secret("gone", now.Add(-time.Second)), secret("fresh", now.Add(time.Hour))
	o.listed([]corev1.Secret{gone, fresh}, now)
	o.since = now.Add(-time.Minute)
	o.listed([]corev1.Secret{fresh}, now)
	seen, err := o.take()
	if err != nil {
		t.Fatal(err)
	}
	if seen.expired != 0 || len(o.tokens) != 1 {
		t.Errorf("expired tokens were held for %s, and %d Secrets are known, want none and 1", seen.expired, len(o.tokens))
	}
}
