// SPDX-License-Identifier: Apache-2.0

package kube

import "testing"

func TestJWT(t *testing.T) {
	for text, want := range map[string]bool{
		"token: eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2lnbmF0dXJl":                     true,
		`"a-eyJhbGciOiJFUzI1NiJ9.eyJz"`:                                                    true,
		`"keys": ["f_Yo14yl4y0lwcRRfmk41u56sacHWkr0bv-eyJpfo_I"]}`:                         false,
		"key eyJYo14yl4y0lwcRRfmk41u56sacHWkr0bv is in force. The next one follows":        false,
		"-----BEGIN CERTIFICATE-----\nMIIBeyJhbGciOiJFUzI1NiJ9\n-----END CERTIFICATE-----": false,
	} {
		if got := JWT.MatchString(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
