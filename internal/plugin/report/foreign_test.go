// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/m2m-operator/m2m-operator/internal/plugin/report"
)

// TestNothingForeignDeceives: whoever looks through a report in a terminal sees its characters in
// their order, and on their lines, whatever a tenant wrote.
func TestNothingForeignDeceives(t *testing.T) {
	const hostile = "fine\u202eenif\u2066 \x7f\x1b[31mred\u0085\u2028\u200bnext"
	var r report.Report
	if err := r.Add("objects/a.yaml", map[string]any{
		"message": hostile, "claim": hostile, "issuer": "https://" + hostile, "lastHandledRefreshAt": hostile, hostile: hostile, "args": []string{"--shard=" + hostile},
		"metadata": map[string]any{"annotations": map[string]any{"m2m-operator.io/" + hostile: hostile, "m2m-operator.io/client": hostile}},
	}); err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{"msg": hostile, "reason": hostile, hostile: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.AddLog("a.log", string(line))
	r.Miss("events "+hostile, hostile)
	for name, content := range files(t, &r) {
		if !strings.Contains(content, "fine") {
			t.Errorf("%s has nothing hostile:\n%s", name, content)
		}
		for _, c := range content {
			if c != '\n' && !unicode.IsPrint(c) {
				t.Errorf("%s has %U:\n%q", name, c, content)
				break
			}
		}
	}
}

// files returns the files of a report's archive.
func files(t *testing.T, r *report.Report) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	all, archive := map[string]string{}, tar.NewReader(zip)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(content)
	}
}
