// SPDX-License-Identifier: Apache-2.0

package management

import (
	"net/url"
	"strings"
)

// Identifier returns the identifier of the Management API behind an endpoint: https://<tenant>.logto.app/api at
// Logto Cloud, and https://default.logto.app/api everywhere else.
func Identifier(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil {
		host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
		if tenant, ok := strings.CutSuffix(host, cloudSuffix); ok && tenant != "" {
			return "https://" + host + "/api"
		}
	}
	return "https://default" + cloudSuffix + "/api"
}

const cloudSuffix = ".logto.app"

// Reserved reports whether an identifier is that of a Management API, of this server or of any tenant of Logto Cloud.
// Logto compares identifiers byte by byte, but proxies and people do not, so different spellings count too.
func (a *API) Reserved(identifier string) bool {
	got := normalize(identifier)
	if got == normalize(a.identifier) {
		return true
	}
	tenant, ok := strings.CutSuffix(got, cloudSuffix+"/api")
	return ok && strings.HasPrefix(tenant, "https://") && len(tenant) > len("https://")
}

func normalize(identifier string) string {
	u, err := url.Parse(strings.ToLower(strings.TrimSpace(identifier)))
	if err != nil {
		return identifier
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	if port := u.Port(); port != "" && port != "443" {
		host += ":" + port
	}
	scheme := u.Scheme
	if scheme == "http" {
		scheme = "https"
	}
	return scheme + "://" + host + strings.TrimRight(u.Path, "/")
}
