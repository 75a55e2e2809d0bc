// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"strings"
	"testing"
)

// FuzzNames: a name is that of one APIResource's keys or policies, or of none.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"m2m-jwks.api.public", "m2m-jwks.a.b.public", "m2m-jwks..a", "m2m-jwks.a.", "m2m.api.public", "m2m.a.b.public", "m2m..a"} {
		f.Add(name, "api")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		if api, ok := ParseKeysName(name); ok {
			entry := strings.TrimPrefix(name, KeysName(api, ""))
			if api == "" || entry == "" || strings.Contains(entry, ".") || KeysName(api, entry) != name {
				t.Errorf("%q is of %q", name, api)
			}
			if policies := ObjectName(api, entry); !IsObjectName(api, policies) || other != api && IsObjectName(other, policies) {
				t.Errorf("%q is of %q only", policies, api)
			}
		}
		if IsObjectName(other, name) && !strings.HasPrefix(name, "m2m."+other+".") {
			t.Errorf("%q is one of %q", name, other)
		}
	})
}
