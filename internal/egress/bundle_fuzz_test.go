// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// FuzzCABundle: a client trusts a bundle if there is a certificate in it, and otherwise there
// is no client, which would trust the system's.
func FuzzCABundle(f *testing.F) {
	for _, bundle := range []string{"", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "text"} {
		f.Add([]byte(bundle))
	}
	f.Fuzz(func(t *testing.T, bundle []byte) {
		if bundle == nil {
			bundle = []byte{}
		}
		certificates := 0
		for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" && len(block.Headers) == 0 {
				if _, err := x509.ParseCertificate(block.Bytes); err == nil {
					certificates++
				}
			}
		}
		c, err := Policy{}.NewClient(bundle)
		if (err == nil) != (certificates > 0) || (c == nil) != (err != nil) {
			t.Errorf("%d certificates: %v", certificates, err)
		}
	})
}
