// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strings"
	"testing"
)

// FuzzParseConfigMapName: a name is that of one bundle, or of none.
func FuzzParseConfigMapName(f *testing.F) {
	for _, name := range []string{"m2m-verify.shop.api", "m2m-verify.shop", "m2m-verify..a", "m2m-verify.a.", "m2m-verify.a.b.c", "settings", "m2m-verify." + strings.Repeat("a", 250) + ".b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, configMap string) {
		namespace, name, ok := ParseConfigMapName(configMap)
		if ok != (namespace != "" && name != "") && ok {
			t.Fatalf("%q is of %q and %q", configMap, namespace, name)
		}
		if ok && (ConfigMapName(namespace, name) != configMap || strings.Contains(namespace, ".")) {
			t.Errorf("%q is of %q and %q, whose is %q", configMap, namespace, name, ConfigMapName(namespace, name))
		}
	})
}
