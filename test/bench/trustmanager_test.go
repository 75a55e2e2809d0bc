// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestModuleDir(t *testing.T) {
	dir, err := moduleDir([]byte(`{"Path": "example.com/m", "Version": "v1.2.3", "Dir": "/cache/example.com/m@v1.2.3"}`))
	if dir != "/cache/example.com/m@v1.2.3" || err != nil {
		t.Errorf("the directory is %q (%v)", dir, err)
	}
	_, err = moduleDir([]byte(`{"Path": "example.com/m", "Error": "no such host"}`))
	if err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a module that cannot be had: %v", err)
	}
	if _, err := moduleDir([]byte("usage: go mod download")); err == nil {
		t.Error("what is no JSON passes")
	}
}

func TestCertificatesOfASize(t *testing.T) {
	for _, size := range []int{0, 5000} {
		before, after, err := certificates(size)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(before.all()); got < size || got > size+2000 {
			t.Errorf("asked for %d bytes, there are %d", size, got)
		}
		if len(before) != len(after) || before[1] != after[0] || before.all() == after.all() {
			t.Errorf("of %d certificates, %d are there after the change", len(before), len(after))
		}
		for _, holder := range []pems{before, after} {
			c := &corev1.ConfigMap{Data: map[string]string{trustKey: holder.all()}}
			if isAfter := &holder[0] == &after[0]; holdsLast(after)(c) != isAfter {
				t.Errorf("that the new certificate is there is told wrongly: %v", !isAfter)
			}
			if !x509.NewCertPool().AppendCertsFromPEM([]byte(holder.all())) {
				t.Error("there is no certificate in it")
			}
		}
	}
}
