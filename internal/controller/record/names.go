// SPDX-License-Identifier: Apache-2.0

package record

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// ParseName splits "namespace/name", and reports whether there is a slash.
func ParseName(s string) (types.NamespacedName, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok
}
