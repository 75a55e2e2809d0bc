// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// withoutCertificates reports whether this is the process on a system without
// certificates. It needs no control plane.
func withoutCertificates() bool { return os.Getenv("SSL_CERT_FILE") == "/nowhere" }

// TestPublicCertificatesAreTrustedInAnEmptyImage starts this program on a system without
// certificates, as in the image. It needs a process of its own, because Go reads the
// system's certificates only once.
func TestPublicCertificatesAreTrustedInAnEmptyImage(t *testing.T) {
	if withoutCertificates() {
		roots, err := x509.SystemCertPool()
		if err != nil || roots.Equal(x509.NewCertPool()) {
			t.Errorf("no authority is trusted: %v", err)
		}
		return
	}
	empty := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	empty.Env = append(os.Environ(), "SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere")
	if out, err := empty.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
