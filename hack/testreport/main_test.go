// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

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
			got, err := report(strings.NewReader(strings.Join(tc.events, "\n")), &out)
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
