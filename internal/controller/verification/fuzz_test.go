// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"encoding/json"
	"testing"
)

// FuzzReadContents: the annotation of a bundle is known or not, and what is known is written
// and read again as the same.
func FuzzReadContents(f *testing.F) {
	for _, text := range []string{"", "{}", "null", "[]", `{"terms":"a","keys":["b"]}`, `{"terms":7}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		contents, known := ReadContents(text)
		if !known {
			return
		}
		written, err := json.Marshal(contents)
		if err != nil {
			t.Fatal(err)
		}
		again, known := ReadContents(string(written))
		rewritten, err := json.Marshal(again)
		if err != nil || !known || string(rewritten) != string(written) {
			t.Errorf("%q became %q, and then %q: %v", text, written, rewritten, err)
		}
	})
}
