// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/plugin/report"
)

// FuzzLogLines: a log, in which tenants' words are, is shown as lines of JSON without what looks
// like a token or would be seen as another line.
func FuzzLogLines(f *testing.F) {
	f.Add(`{"level":"info","msg":"Issued access token","namespace":"shop"}` + "\nplain\n")
	f.Add(`{"msg":"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2lnbmF0dXJl","error":"a\u001b[31m"}`)
	f.Fuzz(func(t *testing.T, log string) {
		lines, left := report.LogLines(log)
		if len(lines)+left > strings.Count(log, "\n")+1 {
			t.Errorf("%d and %d lines of %q", len(lines), left, log)
		}
		for _, line := range lines {
			if !json.Valid([]byte(line)) || strings.ContainsAny(line, "\n\r\x1b") || strings.Contains(line, "eyJhbGciOiJFUzI1NiJ9.") {
				t.Errorf("shows %q", line)
			}
		}
	})
}
