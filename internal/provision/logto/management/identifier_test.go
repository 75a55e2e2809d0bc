// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

func TestIdentifier(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://auth.example.com":      "https://default.logto.app/api",
		"https://auth.example.com:3001": "https://default.logto.app/api",
		"https://t4x7.logto.app":        "https://t4x7.logto.app/api",
		"https://T4X7.logto.app./":      "https://t4x7.logto.app/api",
		"https://logto.app":             "https://default.logto.app/api",
		"https://logto.app.example.com": "https://default.logto.app/api",
		"::":                            "https://default.logto.app/api",
	} {
		if got := management.Identifier(endpoint); got != want {
			t.Errorf("of %s it is %s, want %s", endpoint, got, want)
		}
	}
}

func TestReserved(t *testing.T) {
	for identifier, want := range map[string]bool{
		"https://manage.example.com/api":      true,
		"HTTPS://Manage.Example.com/API":      true,
		" https://manage.example.com/api\n":   true,
		"https://manage.example.com/api/":     true,
		"https://manage.example.com./api":     true,
		"https://manage.example.com:443/api":  true,
		"http://manage.example.com/api":       true,
		"https://manage.example.com/%61pi":    true,
		"https://manage.example.com/api?a=b":  true,
		"https://manage.example.com:8443/api": false,
		"https://manage.example.com":          false,
		"https://manage.example.com/api/v2":   false,
		"https://payment.example.com/api":     false,
		"payment":                             false,
		"::":                                  false,
		// Those of Logto Cloud.
		"https://t4x7.logto.app/api":         true,
		"http://T4X7.logto.app.:443/api/":    true,
		"https://default.logto.app/api":      true,
		"https://t4x7.logto.app:8443/api":    false,
		"https://t4x7.logto.app/payment":     false,
		"https://.logto.app/api":             false,
		"https://logto.app/api":              false,
		"ftp://t4x7.logto.app/api":           false,
		"https://t4x7.logto.app.example/api": false,
	} {
		w := newWorld(t)
		c := w.config()
		c.ManagementAPI = "https://manage.example.com/api"
		if got := management.New(c).Reserved(identifier); got != want {
			t.Errorf("Reserved(%q) = %t", identifier, got)
		}
	}
}
