// SPDX-License-Identifier: Apache-2.0

// Package logto provisions at Logto through its Management API. An API is an API resource with its scopes. A client is
// a machine-to-machine application with one role of its own, which carries exactly the granted scopes. A credential is
// a client secret of the application. Names of applications are not unique, and lists are paged and unordered. So the
// driver finds what it created by its name and by the mark of its owner, which is in the description of an application,
// a role and a scope, in an application's custom data, and in the name of an API resource and a secret.
package logto

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Config identifies a Logto, and the application that the driver acts as.
type Config struct {
	// Endpoint is the server's base URL.
	Endpoint string
	// ManagementAPI is the identifier of the Management API; "" means ManagementAPI(Endpoint).
	ManagementAPI string
	// ClientID and ClientSecret are those of a machine-to-machine application with the Management API role.
	ClientID     string
	ClientSecret provision.Sensitive
	// HTTP makes the requests. It bounds time and bodies, and sets the pace.
	HTTP *http.Client
	// Now returns the time.
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
	// Never follow redirects, whatever the caller's client does: they would carry the token elsewhere.
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Driver{
		endpoint: endpoint, managementAPI: c.ManagementAPI, clientID: c.ClientID, clientSecret: c.ClientSecret,
		http: &client, now: c.Now, token: tokenCache{turn: make(chan struct{}, 1)}, catalog: newCatalog(),
	}
}

// ManagementAPI returns the identifier of the Management API behind an endpoint: https://<tenant>.logto.app/api at
// Logto Cloud, and https://default.logto.app/api everywhere else.
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

// Check gets a token and makes the smallest request there is.
func (d *Driver) Check(ctx context.Context) error {
	_, err := d.call(ctx, request{doing: "read the applications", method: http.MethodGet, path: "/applications",
		query: url.Values{"page": {"1"}, "page_size": {"1"}}}, new([]application))
	return err
}

// reserved reports whether an identifier is that of a Management API, of this server or of any tenant of Logto Cloud.
// Logto compares identifiers byte by byte, but proxies and people do not, so different spellings are reserved too.
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
