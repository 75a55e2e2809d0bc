// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	tests := map[string]struct {
		events    []string
		want      counts
		wantLines []string
		notLines  []string
	}{
		"a package that passes is one line, and its tests' output is not shown": {
			events: []string{
				`{"Action":"start","Package":"a"}`,
				`{"Action":"output","Package":"a","Test":"TestX","Output":"chatter\n"}`,
				`{"Action":"pass","Package":"a","Test":"TestX","Elapsed":0.1}`,
				`{"Action":"skip","Package":"a","Test":"TestY"}`,
				`{"Action":"output","Package":"a","Output":"coverage: 97.1% of statements\n"}`,
				`{"Action":"pass","Package":"a","Elapsed":1.2}`,
			},
			want:      counts{Passed: 1, Skipped: 1},
			wantLines: []string{"ok   a", "2 tests, coverage 97.1% of statements"},
			notLines:  []string{"chatter"},
		},
		"a package without tests is not mentioned": {
			events: []string{
				`{"Action":"output","Package":"a","Output":"?   a [no test files]\n"}`,
				`{"Action":"skip","Package":"a","Elapsed":0}`,
			},
			notLines: []string{"a"},
		},
		"the output of a failed test is shown": {
			events: []string{
				`{"Action":"output","Package":"a","Test":"TestX","Output":"want 1, got 2\n"}`,
				`{"Action":"fail","Package":"a","Test":"TestX"}`,
				`{"Action":"output","Package":"a","Output":"FAIL\n"}`,
				`{"Action":"fail","Package":"a"}`,
			},
			want:      counts{Failed: 1},
			wantLines: []string{"want 1, got 2"},
			notLines:  []string{"ok "},
		},
		"a package that does not build is one failure": {
			events: []string{
				`{"Action":"build-output","ImportPath":"a","Output":"undefined: x\n"}`,
				`{"Action":"build-fail","ImportPath":"a"}`,
				`{"Action":"fail","Package":"a","FailedBuild":"a"}`,
			},
			want:      counts{Failed: 1},
			wantLines: []string{"undefined: x"},
		},
		"a test that never ended is a failure": {
			events:    []string{`{"Action":"output","Package":"a","Test":"TestX","Output":"=== RUN TestX\n"}`},
			want:      counts{Failed: 1},
			wantLines: []string{"never ended: a TestX"},
		},
		"what the go command says outside of JSON is passed on": {
			events:    []string{"go: updates to go.mod needed"},
			wantLines: []string{"go: updates to go.mod needed"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := report(strings.NewReader(strings.Join(tc.events, "\n")), &out, io.Discard)
			if err != nil {
				t.Fatalf("report: %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			for _, line := range tc.wantLines {
				if !strings.Contains(out.String(), line) {
					t.Errorf("output lacks %q:\n%s", line, out.String())
				}
			}
			for _, line := range tc.notLines {
				if strings.Contains(out.String(), line) {
					t.Errorf("output has %q:\n%s", line, out.String())
				}
			}
		})
	}
}

func TestFailuresAreRepeatedInShort(t *testing.T) {
	var events []string
	for i := range excerptLines + 3 {
		events = append(events, fmt.Sprintf(`{"Action":"output","Package":"a","Test":"TestX","Output":"line %d %s\n"}`, i, strings.Repeat("é", excerptWidth)))
	}
	events = append(events, `{"Action":"fail","Package":"a","Test":"TestX"}`,
		`{"Action":"output","Package":"a","Test":"TestY","Output":"fine\n"}`, `{"Action":"pass","Package":"a","Test":"TestY"}`)
	var out, failures bytes.Buffer
	total, err := report(strings.NewReader(strings.Join(events, "\n")), &out, &failures)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(failures.String(), "\n"), "\n")
	if len(lines) != excerptLines+1 || lines[excerptLines] != "    … 3 more lines" || len(lines[0]) > excerptWidth+len("…") || !utf8.ValidString(lines[0]) {
		t.Errorf("repeated %d lines, the last %q, the first of %d bytes", len(lines), lines[len(lines)-1], len(lines[0]))
	}
	if strings.Contains(failures.String(), "fine") {
		t.Error("what passed is repeated")
	}

	path := filepath.Join(t.TempDir(), "a.json")
	failed := strings.TrimSuffix(path, ".json") + ".failed"
	if err := save(path, total, failures.String()); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(failed); err != nil || string(kept) != failures.String() {
		t.Errorf("kept %q: %v", kept, err)
	}
	if err := save(path, counts{Passed: 1}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(failed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a run without failures the former ones are still there: %v", err)
	}
}
