// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"testing"
	"time"
)

// FuzzParseMoment: whatever a pod's annotation says, it is read as the zero time, or as a time
// that is written and read again the same.
func FuzzParseMoment(f *testing.F) {
	for _, s := range []string{"", "now", "2026-11-24T12:00:00Z", "2026-11-24T12:00:00.123456789+01:00", "0000-01-01T00:00:00-23:59", "9999-12-31T23:59:60Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		read := ParseMoment(s)
		if read.IsZero() {
			return
		}
		written := Moment(read)
		if again := ParseMoment(written); read.UTC().Year() >= 0 && read.UTC().Year() <= 9999 && !again.Equal(read.Truncate(time.Millisecond)) {
			t.Errorf("%q was read as %v, written as %q, and read as %v", s, read, written, again)
		}
	})
}
