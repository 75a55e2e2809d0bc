// SPDX-License-Identifier: Apache-2.0

package render

import "testing"

func TestParseConfigMapNameReversesConfigMapName(t *testing.T) {
	tests := map[string]struct {
		configMap           string
		wantNamespace, want string
		wantOK              bool
	}{
		"the name of a bundle":                      {ConfigMapName("payments", "payment-api"), "payments", "payment-api", true},
		"a name with dots belongs to one namespace": {ConfigMapName("a-b", "c.d.e"), "a-b", "c.d.e", true},
		"another's name":                            {"kube-root-ca.crt", "", "", false},
		"a prefix alone":                            {"m2m-verify.", "", "", false},
		"no name":                                   {"m2m-verify.payments.", "payments", "", false},
		"no namespace":                              {"m2m-verify..payment-api", "", "payment-api", false},
		"no dot behind the namespace":               {"m2m-verify.payments", "payments", "", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			namespace, got, ok := ParseConfigMapName(tc.configMap)
			if ok != tc.wantOK || (ok && (namespace != tc.wantNamespace || got != tc.want)) {
				t.Errorf("ParseConfigMapName(%q) = %q, %q, %v", tc.configMap, namespace, got, ok)
			}
		})
	}
}
