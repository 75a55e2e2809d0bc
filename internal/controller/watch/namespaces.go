// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Namespaces are the namespaces that the operator watches; empty means all.
type Namespaces []string

// Watches reports whether the operator sees the objects of a namespace. For other
// namespaces, the cache returns errors.
func (n Namespaces) Watches(namespace string) bool {
	return len(n) == 0 || slices.Contains(n, namespace)
}

// watchesAll reports whether the operator sees the objects of all these namespaces. An empty
// name stands for cluster-scoped objects.
func (n Namespaces) watchesAll(namespaces []string) bool {
	return !slices.ContainsFunc(namespaces, func(namespace string) bool { return namespace != "" && !n.Watches(namespace) })
}

// In returns the namespace of a request, for Reconciler.
func In(req reconcile.Request) []string { return []string{req.Namespace} }
