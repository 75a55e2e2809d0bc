// SPDX-License-Identifier: Apache-2.0

// Package logto provisions at Logto through its Management API: an API is an API resource with its scopes, a client is
// a machine-to-machine application with one role of its own that carries exactly the granted scopes, a credential is a
// client secret of the application. Names are not unique for applications, and lists are paged and unordered, so
// whatever is created is found again by its name and the mark of its owner, which is in the description of an
// application, a role and a scope, in an application's custom data, and in the name of an API resource and a secret.
package logto

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Config says which Logto it is and who asks.
type Config struct {
	// Endpoint is the server's base URL.
	Endpoint string
	// ManagementAPI is the identifier of the Management API, "" for ManagementAPI(Endpoint).
	ManagementAPI string
	// ClientID and ClientSecret are those of a machine-to-machine application with the Management API role.
	ClientID     string
	ClientSecret provision.Sensitive
	// HTTP carries the requests. It bounds time and bodies, and paces.
	HTTP *http.Client
	// Now is the time.
	Now func() time.Time
}

// Driver implements provision.Driver. It is safe for concurrent use.
type Driver struct {
	endpoint      string
	managementAPI string
	clientID      string
	clientSecret  provision.Sensitive
	http          *http.Client
	now           func() time.Time
	token         tokenCache
	catalog       catalog
}

var _ provision.Driver = (*Driver)(nil)

// New returns a driver. It makes no request.
func New(c Config) *Driver {
	endpoint := strings.TrimRight(c.Endpoint, "/")
	if c.ManagementAPI == "" {
		c.ManagementAPI = ManagementAPI(endpoint)
	}
	// Redirects are refused whatever the caller's client does with them: they would carry the token elsewhere.
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Driver{
		endpoint: endpoint, managementAPI: c.ManagementAPI, clientID: c.ClientID, clientSecret: c.ClientSecret,
		http: &client, now: c.Now, token: tokenCache{turn: make(chan struct{}, 1)}, catalog: newCatalog(),
	}
}

// ManagementAPI is the identifier of the Management API behind an endpoint: https://<tenant>.logto.app/api at Logto
// Cloud, and https://default.logto.app/api wherever else.
func ManagementAPI(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil {
		host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
		if tenant, ok := strings.CutSuffix(host, cloudSuffix); ok && tenant != "" {
			return "https://" + host + "/api"
		}
	}
	return "https://default" + cloudSuffix + "/api"
}

const cloudSuffix = ".logto.app"

// Check gets a token and reads the least there is to read.
func (d *Driver) Check(ctx context.Context) error {
	_, err := d.call(ctx, request{doing: "read the applications", method: http.MethodGet, path: "/applications",
		query: url.Values{"page": {"1"}, "page_size": {"1"}}}, new([]application))
	return err
}

// reserved reports whether an identifier is that of a Management API, this server's or that of any tenant of Logto Cloud.
// Logto compares identifiers byte by byte, and proxies and people do not, so that what differs from one only in its
// spelling is reserved too.
func (d *Driver) reserved(identifier string) bool {
	got := normalize(identifier)
	if got == normalize(d.managementAPI) {
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

func forbidden(message string) error {
	return &provision.Error{Kind: provision.Forbidden, Message: message}
}

const managementAPIForbidden = "the identifier is that of Logto's Management API, which the operator never gives to anyone"
