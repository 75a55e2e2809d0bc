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
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

// Config identifies a Logto, and the application that the driver acts as.
type Config = management.Config

// Driver implements provision.Driver. It is safe for concurrent use.
type Driver struct {
	logto    *management.API
	clientID string // of the application that the driver acts as
	now      func() time.Time
	catalog  catalog
}

var _ provision.Driver = (*Driver)(nil)

// New returns a driver. It makes no request.
func New(c Config) *Driver {
	return &Driver{logto: management.New(c), clientID: c.ClientID, now: c.Now, catalog: newCatalog()}
}

// Check gets a token and makes the smallest request there is.
func (d *Driver) Check(ctx context.Context) error {
	return d.logto.Call(ctx, management.Request{Doing: "read the applications", Method: http.MethodGet, Path: "/applications",
		Query: url.Values{"page": {"1"}, "page_size": {"1"}}}, new([]application))
}

func forbidden(message string) error {
	return &provision.Error{Kind: provision.Forbidden, Message: message}
}

const managementAPIForbidden = "the identifier is that of Logto's Management API, to which the operator grants no access"
