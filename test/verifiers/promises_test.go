// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// promise is a line of the table in docs/verifying/README.md, which says of each verifier
// what becomes of a token.
type promise struct {
	name   string
	status int
	// bundle is what the operator distributes first, if the case is about a change.
	bundle func(t *testing.T, w *world) map[string]string
	tokens func(t *testing.T, w *world) []string
}

// promises are what the pages say. The last one leaves the bundle as nobody else wants it.
func promises() []promise {
	changed := func(name string) promise {
		return promise{name: name, status: bad[name].status, tokens: func(t *testing.T, w *world) []string {
			return []string{token(t, w.keys, w.signs[0], bad[name].change)}
		}}
	}
	return []promise{
		{name: "a good token", status: 200, tokens: func(t *testing.T, w *world) []string {
			return []string{token(t, w.keys, w.signs[0], nil)}
		}},
		changed("another audience"), changed("another issuer"), changed("expired"), changed("not yet valid"), changed("no scope"),
		{name: "alg none", status: 401, tokens: func(t *testing.T, w *world) []string {
			return []string{unsigned(t, "none", w.signs[0], nil)}
		}},
		{name: "HS256 with the public key as secret", status: 401, tokens: func(t *testing.T, w *world) (all []string) {
			for _, secret := range publicTexts(t, w.keys[w.signs[0]]) {
				all = append(all, unsigned(t, "HS256", w.signs[0], secret))
			}
			return all
		}},
		{name: "a new key", status: 200,
			bundle: func(t *testing.T, w *world) map[string]string {
				w.keys["promised"] = newSigners(t)[w.signs[0]]
				return bundle(t, w.example, w.keys, w.ids()...)
			},
			tokens: func(t *testing.T, w *world) []string { return []string{token(t, w.keys, "promised", nil)} }},
		{name: "another type of token", status: 401,
			bundle: func(t *testing.T, w *world) map[string]string {
				return typedBundle(t, w.example, "at+jwt", w.keys, w.ids()...)
			},
			tokens: func(t *testing.T, w *world) []string { return []string{token(t, w.keys, w.signs[0], nil)} }},
	}
}

// kept returns what a verifier must answer to keep a promise, and how the table says it.
func (p promise) kept(v verifier) (status int, words string) {
	status, words = p.status, "refused"
	if slices.Contains(v.lax, p.name) {
		status = 200
	}
	if status == 200 {
		words = "passes"
	}
	if p.bundle != nil && v.reload != 0 {
		words += " after a reload"
	}
	return status, words
}

// testPromises tests each line of the table, under its name.
func (w *world) testPromises(t *testing.T) {
	for _, p := range promises() {
		t.Run(p.name, func(t *testing.T) {
			want, _ := p.kept(w.verifier)
			check := w.is
			if p.bundle != nil {
				w.publish(t, p.bundle(t, w))
				check = w.becomes
			}
			for _, token := range p.tokens(t, w) {
				check(t, p.name, want, token)
			}
		})
	}
	delete(w.keys, "promised")
	w.publish(t, bundle(t, w.example, w.keys, w.ids()...))
	w.becomes(t, "a good token afterwards", 200, token(t, w.keys, w.signs[0], nil))
}

// TestPagesSayWhatIsTested compares the table in docs/verifying/README.md with what the
// tests above demand.
func TestPagesSayWhatIsTested(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(pages, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	columns := map[string][]verifier{"languages": programs()}
	for _, v := range verifiers()[:4] {
		columns[map[string]string{"nginx": "nginx", "haproxy": "HAProxy", "apache": "Apache", "envoy": "Envoy"}[v.name]] = []verifier{v}
	}
	_, table, found := strings.Cut(string(raw), "\n| case |")
	if !found {
		t.Fatal("the page has no table of cases")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	lines := strings.Split(table, "\n")
	headings := cells(lines[0])
	if missing := len(columns) - len(headings); missing != 0 {
		t.Fatalf("the columns are %q, want those of %q", headings, slices.Sorted(maps.Keys(columns)))
	}
	rows := map[string][]string{}
	for _, line := range lines[2:] {
		row := cells(strings.TrimPrefix(line, "|"))
		rows[row[0]] = row[1:]
	}
	if len(rows) != len(promises()) {
		t.Errorf("the table has %d lines, want %d", len(rows), len(promises()))
	}
	for _, p := range promises() {
		for i, heading := range headings {
			for _, v := range columns[heading] {
				if _, want := p.kept(v); len(rows[p.name]) <= i || strings.Trim(rows[p.name][i], "*") != want {
					t.Errorf("%q, %s: the page says %q, and the test of %s demands %q", p.name, heading, rows[p.name], v.name, want)
				}
			}
		}
	}
}

// cells returns the cells of a table's line, without what is around them.
func cells(line string) []string {
	var all []string
	for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
		all = append(all, strings.TrimSpace(cell))
	}
	return all
}

// TestPagesShowTheExamples: the files on the web servers' pages are those of docs/examples,
// which the tests run.
func TestPagesShowTheExamples(t *testing.T) {
	for _, v := range verifiers() {
		if v.example == "" {
			continue
		}
		shown := filesOf(t, v.example, "")
		files, err := os.ReadDir(filepath.Join(examples, v.example))
		if err != nil {
			t.Fatal(err)
		}
		if len(shown) != len(files) {
			t.Errorf("%s.md shows %q, and the example has %d files", v.example, slices.Sorted(maps.Keys(shown)), len(files))
		}
		for _, f := range files {
			content, err := os.ReadFile(filepath.Join(examples, v.example, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if shown[f.Name()] != string(content) {
				t.Errorf("%s.md shows another %s than docs/examples/%s has", v.example, f.Name(), v.example)
			}
		}
	}
}
