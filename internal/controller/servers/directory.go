// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"sigs.k8s.io/controller-runtime/pkg/client"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// NewDirectory returns a resolver that trusts of a server's status only the endpoints that
// may be used.
func NewDirectory(reader client.Reader, watched watch.Namespaces, e *Endpoints) rules.Resolver {
	return rules.Resolver{Reader: reader, Watches: watched.Watches, Cut: cached.IsCut, Status: e.trustedStatus}
}
