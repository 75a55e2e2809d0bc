// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"errors"
	"testing"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

func TestFetchProblem(t *testing.T) {
	untrusted := &jwks.Error{Reason: jwks.Unreachable, Cause: egress.CertificateAuthority, Message: "https://auth.example.com/jwks has a certificate from an unknown authority"}
	for name, tc := range map[string]struct {
		err    error
		bundle v1alpha1.ObjectName
		want   string
	}{
		"an unknown authority": {
			err: untrusted, want: "Failed: " + untrusted.Message + "; name a bundle with that authority's certificate in spec.caBundle",
		},
		"an authority that the bundle lacks": {
			err: untrusted, bundle: "ca", want: "Failed: " + untrusted.Message + "; the bundle of spec.caBundle lacks that authority's certificate",
		},
		"another failure": {
			err: &jwks.Error{Reason: jwks.Unreachable, Cause: egress.ConnectionRefused, Message: "refused"}, want: "Failed: refused",
		},
		"a failure of our own": {err: errors.New("hidden"), want: "Failed"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &v1alpha1.AuthorizationServerSpec{}
			spec.CABundle.ConfigMapRef.Name = tc.bundle
			if got := fetchProblem("Failed", spec, tc.err); got.Message != tc.want || got.Reason != v1alpha1.ReasonUnreachable {
				t.Errorf("got %s: %s, want %s", got.Reason, got.Message, tc.want)
			}
		})
	}
}
