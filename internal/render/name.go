// SPDX-License-Identifier: Apache-2.0

package render

import "strings"

// configMapPrefix begins the name of every bundle's ConfigMap.
const configMapPrefix = "m2m-verify."

// ParseConfigMapName returns the APIResource whose bundle a ConfigMap with this
// name would hold. It is the reverse of ConfigMapName.
func ParseConfigMapName(configMap string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(configMap, configMapPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ".")
	return namespace, name, ok && namespace != "" && name != "" && ConfigMapName(namespace, name) == configMap
}
