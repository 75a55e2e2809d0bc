// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// namespaces are those that the operator watches; none: all of them.
type namespaces []string

// watches reports whether the operator sees the objects of a namespace. The cache
// answers questions about others with errors.
func (n namespaces) watches(namespace string) bool {
	return len(n) == 0 || slices.Contains(n, namespace)
}

// newDirectory answers who may have what, by what may be believed of the servers.
func newDirectory(reader client.Reader, watched namespaces, e *endpoints) rules.Resolver {
	return rules.Resolver{Reader: reader, Watches: watched.watches, Cut: isCut, Status: e.trustedStatus}
}
