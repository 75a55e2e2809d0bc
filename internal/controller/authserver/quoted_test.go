// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"strings"
	"testing"
)

func TestQuotedIDs(t *testing.T) {
	long := strings.Repeat("k", 64)
	for name, tc := range map[string]struct {
		ids  []string
		want string
	}{
		"one":              {[]string{"a"}, `"a"`},
		"two":              {[]string{"a", "b"}, `"a", "b"`},
		"in another order": {[]string{"b", "a"}, `"a", "b"`},
		"quotation marks":  {[]string{`a"b\`}, `"a\"b\\"`},
		"the longest":      {[]string{long}, `"` + long + `"`},
		"as many as fit":   {[]string{"a", "b", "c", "d", "e"}, `"a", "b", "c", "d", "e"`},
		"more":             {[]string{"a", "b", "c", "d", "e", "f", "g"}, `"a", "b", "c", "d", "e" and 2 more`},
		"one too long":     {[]string{long + "k"}, `"` + long[:61] + `\u2026"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := quotedIDs(tc.ids); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
