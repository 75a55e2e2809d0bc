// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"
)

// Namespaces are those that the operator watches; none: all of them.
type Namespaces []string

// Watches reports whether the operator sees the objects of a namespace. The cache
// answers questions about others with errors.
func (n Namespaces) Watches(namespace string) bool {
	return len(n) == 0 || slices.Contains(n, namespace)
}
