// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

// However often a server decodes the path, and whichever slashes it knows, the path stays below the endpoint's.
func FuzzBelow(f *testing.F) {
	for _, s := range []string{"/reg/1", "/reg", "/reg/..;/x", "/reg/%2e%2e/x", "/reg/%252e%252e%255cx", "/regx", "/reg//..//x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse("https://as.example.com" + s)
		if err != nil || u.Host != "as.example.com" || !below(u.EscapedPath(), "/reg") {
			return
		}
		for reading, more := u.EscapedPath(), true; more; {
			plain := path.Clean(strings.ReplaceAll(reading, `\`, "/"))
			if plain != "/reg" && !strings.HasPrefix(plain, "/reg/") {
				t.Fatalf("%q was taken, and can be read as %q", s, plain)
			}
			decoded, err := url.PathUnescape(reading)
			more, reading = err == nil && decoded != reading, decoded
		}
	})
}
