// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sentinel stands for a token in tests; no error may contain any of it.
const sentinel = "eyJhbGciOiJSUzI1NiJ9.SENTINEL"

func TestTokenSecret(t *testing.T) {
	known := []string{"payment-api", "orders"}
	both := map[string]string{"payment-api": sentinel, "orders": "two"}
	tests := map[string]struct {
		tokens    map[string]string
		templates map[string]string
		known     []string
		want      map[string]string
		waiting   []string
		wantErr   []string
	}{
		"tokens alone": {
			tokens: both, known: known,
			want: map[string]string{"payment-api": sentinel, "orders": "two"}},
		"nothing at all": {
			want: map[string]string{}},
		"a bearer credential": {
			tokens: both, known: known, templates: map[string]string{"credential": `Bearer {{ token "payment-api" }}`},
			want: map[string]string{"payment-api": sentinel, "orders": "two", "credential": "Bearer " + sentinel}},
		"a file with two tokens": {
			tokens: both, known: known, templates: map[string]string{"all.json": `{"a":{{ token "orders" | json }},"b":{{ json (token "orders") }}}`},
			want: map[string]string{"payment-api": sentinel, "orders": "two", "all.json": `{"a":"two","b":"two"}`}},
		"a file without a token": {
			templates: map[string]string{"static": "text"}, want: map[string]string{"static": "text"}},
		"a token that is not minted yet leaves its files out": {
			tokens: map[string]string{"orders": "two"}, known: known,
			templates: map[string]string{
				"z-credential": `{{ token "payment-api" }}`, "both": `{{ token "orders" }}{{ token "payment-api" }}`, "ready": `{{ token "orders" }}`},
			want: map[string]string{"orders": "two", "ready": "two"}, waiting: []string{"both", "z-credential"}},
		"a token in a branch that is not taken counts too": {
			known: known, templates: map[string]string{"f": `{{ if false }}{{ token "orders" }}{{ end }}`},
			want: map[string]string{}, waiting: []string{"f"}},
		"an empty token is not minted yet": {
			tokens: map[string]string{"orders": ""}, known: known, templates: map[string]string{"f": `{{ token "orders" }}`},
			want: map[string]string{}, waiting: []string{"f"}},

		"an unknown token": {
			tokens: both, known: known, templates: map[string]string{"f": `{{ token "payments" }}`},
			wantErr: []string{`template "f"`, `unknown token "payments"`, `"orders", "payment-api"`}},
		"an unknown token where there are none": {
			templates: map[string]string{"f": `{{ token "x" }}`}, wantErr: []string{"the tokens are: none"}},
		"a token that is not declared": {
			tokens: map[string]string{"other": sentinel}, known: known, wantErr: []string{`token "other"`, `"orders"`}},
		"a template that takes a token's place": {
			tokens: both, known: known, templates: map[string]string{"orders": "x"}, wantErr: []string{`"orders"`, "rename"}},
		"a template that takes the place of a token not minted yet": {
			known: known, templates: map[string]string{"orders": "x"}, wantErr: []string{`"orders"`, "rename"}},
		"a path in a token's key": {
			tokens: map[string]string{"../x": sentinel}, known: []string{"../x"}, wantErr: []string{"token key", `"../x"`}},
		"a path in a template's key": {
			templates: map[string]string{"a/b": "x"}, wantErr: []string{"template key", `"a/b"`}},
		"a template that is wrong": {
			templates: map[string]string{"f": "{{ .Env }}"}, wantErr: []string{`template "f"`, "line 1, column 4"}},
		"a Secret that is too large": {
			tokens:  map[string]string{"a": strings.Repeat("a", 500<<10), "b": strings.Repeat("b", 500<<10)},
			known:   []string{"a", "b"},
			wantErr: []string{"more than 921600"}},
		"a Secret that just fits": {
			tokens: map[string]string{"a": strings.Repeat("a", MaxTotal-len("ab")), "b": ""}, known: []string{"a", "b"}, templates: map[string]string{"f": ""},
			want: map[string]string{"a": strings.Repeat("a", MaxTotal-len("ab")), "f": ""}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			data, waiting, err := TokenSecret(tc.tokens, tc.templates, tc.known)
			checkError(t, err, tc.wantErr...)
			if err != nil {
				return
			}
			got := map[string]string{}
			for k, v := range data {
				got[k] = string(v)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.waiting, waiting); diff != "" {
				t.Errorf("waiting (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidFileName(t *testing.T) {
	tests := map[string]bool{
		"payment-api": true, "tls.crt": true, "_a": true, ".hidden": true, "A.b_C-9": true, "a..b": true, "azAZ09": true, strings.Repeat("a", 253): true,
		"": false, ".": false, "..": false, "..data": false, "../x": false, "a/b": false, "/a": false, `a\b`: false, "a b": false,
		"a\x00": false, "a\n": false, "é": false, "a:b": false, strings.Repeat("a", 254): false,
	}
	for name, want := range tests {
		if err := ValidFileName(name); (err == nil) != want {
			t.Errorf("ValidFileName(%.30q) = %v", name, err)
		}
	}
}
