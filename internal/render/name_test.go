// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strings"
	"testing"
)

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

func TestConfigMapName(t *testing.T) {
	long := strings.Repeat("a", 200) + "." + strings.Repeat("b", 52)
	namespace := strings.Repeat("n", 63)
	got := ConfigMapName(namespace, long)
	if len(got) > 253 || !strings.HasPrefix(got, "m2m-verify."+namespace+".aaa") {
		t.Errorf("%d characters: %s", len(got), got)
	}
	if got == ConfigMapName(namespace, long[:251]+"c") {
		t.Error("two long names meet")
	}
	// Where the cut falls on a dot, the label before the hash must not end in one.
	for cut := range 60 {
		name := strings.Repeat("a", 120+cut) + "." + strings.Repeat("b", 252-120-cut)
		if got := ConfigMapName(namespace, name); strings.Contains(got, ".-") || len(got) > 253 {
			t.Errorf("%s", got)
		}
	}
	fits := strings.Repeat("a", 253-len("m2m-verify.")-len(namespace)-1)
	for name, want := range map[[2]string]string{
		{namespace, fits}:           "m2m-verify." + namespace + "." + fits,
		{"payments", "payment-api"}: "m2m-verify.payments.payment-api",
		{"a", "b.c"}:                "m2m-verify.a.b.c",
	} {
		if got := ConfigMapName(name[0], name[1]); got != want {
			t.Errorf("%v: %q", name, got)
		}
	}
}
