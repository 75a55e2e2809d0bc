// SPDX-License-Identifier: Apache-2.0

package text_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/m2m-operator/m2m-operator/internal/text"
)

func TestCut(t *testing.T) {
	for name, tc := range map[string]struct {
		s            string
		most         int
		runes, bytes string
	}{
		"nothing":                {"", 3, "", ""},
		"what fits":              {"abc", 3, "abc", "abc"},
		"one too many":           {"abcdef", 5, "abcd…", "ab…"},
		"letters of two bytes":   {"üüüüü", 5, "üüüüü", "ü…"},
		"six of them":            {"üüüüüü", 5, "üüüü…", "ü…"},
		"a letter at the cut":    {"aü€€€€", 5, "aü€€…", "a…"},
		"of four bytes":          {"a😀😀😀😀😀", 6, "a😀😀😀😀😀", "a…"},
		"no room but for …":      {"abcd", 1, "…", "a"},
		"room for two bytes":     {"aüd", 2, "a…", "a"},
		"room for … in bytes":    {"abcd", 3, "ab…", "…"},
		"no room at all":         {"abc", 0, "", ""},
		"less than no room":      {"abc", -1, "", ""},
		"bytes that are no text": {"\xff\xfe\xff\xfe\xff", 4, "\xff\xfe\xff…", "\xff…"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.CutRunes(tc.s, tc.most); got != tc.runes {
				t.Errorf("CutRunes: %q, want %q", got, tc.runes)
			}
			if got := text.CutBytes(tc.s, tc.most); got != tc.bytes {
				t.Errorf("CutBytes: %q, want %q", got, tc.bytes)
			}
		})
	}
}

func TestClean(t *testing.T) {
	for name, tc := range map[string]struct{ s, line, words, ascii string }{
		"nothing":                {"", "", "", ""},
		"plain":                  {"invalid_client", "invalid_client", "invalid_client", "invalid_client"},
		"lines and tabs":         {" a\n\tb\r\nc ", " a  b  c ", "a b c", "a b c"},
		"an escape sequence":     {"\x1b[31mred", "\ufffd[31mred", "[31mred", "[31mred"},
		"letters beyond ASCII":   {"größer", "größer", "größer", "gr er"},
		"a change of direction":  {"a\u202eb", "a\ufffdb", "a b", "a b"},
		"a wide space":           {"a\u3000b", "a b", "a b", "a b"},
		"a mark of replacement":  {"a\ufffdb", "a\ufffdb", "a b", "a b"},
		"bytes that are no text": {"a\xff\xfeb", "a\ufffd\ufffdb", "a b", "a b"},
		"a NUL":                  {"a\x00b", "a\ufffdb", "a b", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.Line(tc.s); got != tc.line {
				t.Errorf("Line: %q, want %q", got, tc.line)
			}
			if got := text.Words(tc.s); got != tc.words {
				t.Errorf("Words: %q, want %q", got, tc.words)
			}
			if got := text.ASCII(tc.s, 64); got != tc.ascii {
				t.Errorf("ASCII: %q, want %q", got, tc.ascii)
			}
		})
	}
	for name, tc := range map[string]struct {
		s    string
		most int
		want string
	}{
		"cut":            {"abcdef", 3, "abc"},
		"cut at a space": {"abc def", 4, "abc"},
	} {
		if got := text.ASCII(tc.s, tc.most); got != tc.want {
			t.Errorf("ASCII, %s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestQuote(t *testing.T) {
	for name, tc := range map[string]struct {
		s    string
		most int
		want string
	}{
		"plain":           {"a", 9, `"a"`},
		"quotation marks": {`a"b\`, 9, `"a\"b\\"`},
		"lines":           {"a\nb", 9, `"a\nb"`},
		"beyond ASCII":    {"ü\u202e", 9, `"\u00fc\u202e"`},
		"cut":             {strings.Repeat("ü", 9), 9, `"\u00fc\u00fc\u00fc\u2026"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.Quote(tc.s, tc.most); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		list []string
		want string
	}{
		"none":     {nil, ""},
		"one":      {[]string{"a"}, `"a"`},
		"sorted":   {[]string{"b", "a"}, `"a", "b"`},
		"each cut": {[]string{"abcdefgh"}, `"abc\u2026"`},
		"too many": {[]string{"d", "c", "b", "a"}, `"a", "b" and 2 more`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.QuoteAll(tc.list, 6, 2); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	list := []string{"b", "a"}
	if text.QuoteAll(list, 6, 2); list[0] != "b" {
		t.Error("the caller's list is sorted")
	}
}

func TestList(t *testing.T) {
	for name, tc := range map[string]struct {
		list      []string
		separator string
		most      int
		want      string
	}{
		"nothing":                        {nil, ", ", 2, ""},
		"one":                            {[]string{"a"}, ", ", 2, "a"},
		"as many as fit, in their order": {[]string{"b", "a"}, ", ", 2, "b, a"},
		"more names":                     {[]string{"c", "b", "a"}, ", ", 2, "c, b and 1 more"},
		"more sentences":                 {[]string{"a, b", "c", "d", "e"}, "; ", 2, "a, b; c; and 2 more"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.List(tc.list, tc.separator, tc.most); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestRedact(t *testing.T) {
	values := []string{"1", "", "eyJa.b1c", "ZXlK"}
	if got, want := text.Redact("denied: eyJa.b1c and ZXlK, x", values...), "denied: [redacted] and [redacted], x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if values[0] != "1" {
		t.Error("the caller's list is sorted")
	}
	if got := text.Redact("nothing to hide"); got != "nothing to hide" {
		t.Errorf("got %q", got)
	}
}

func TestSentence(t *testing.T) {
	for s, want := range map[string]string{"": "", "it exists": "It exists", "It exists": "It exists", "über": "Über", "\xffa": "\xffa", "1 of 2": "1 of 2"} {
		if got := text.Sentence(s); got != want {
			t.Errorf("%q became %q, want %q", s, got, want)
		}
	}
}

// FuzzText holds what the callers rely on: bounds, one line, no half characters, nothing that a terminal obeys.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "abc", "a\nb\x1b[31m", "größer\u202e", "😀😀", "\xff\xfe", "a\u2028b", strings.Repeat("€", 99)} {
		f.Add(s, 5)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		most %= 100
		bound := max(0, most)
		if got := text.CutRunes(s, most); utf8.RuneCountInString(got) > bound || utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("CutRunes(%q, %d) = %q", s, most, got)
		}
		if got := text.CutBytes(s, most); len(got) > bound || utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("CutBytes(%q, %d) = %q", s, most, got)
		}
		if got := text.ASCII(s, bound); len(got) > bound || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("ASCII(%q, %d) = %q", s, bound, got)
		}
		for _, got := range []string{text.Line(s), text.Words(s), text.Quote(s, bound)} {
			if !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\t\x1b\x00\u2028\u202e") {
				t.Errorf("%q became %q", s, got)
			}
		}
		if words := text.Words(s); text.Words(words) != words {
			t.Errorf("Words of %q is not stable", words)
		}
		if got := text.Redact(s, "abc"); strings.Contains(got, "abc") {
			t.Errorf("Redact(%q) = %q", s, got)
		}
	})
}

func TestJSON(t *testing.T) {
	for name, tc := range map[string]struct{ json, want string }{
		"what is printable":   {"{\n  \"grüße\": \"😀\"\n}", "{\n  \"grüße\": \"😀\"\n}"},
		"delete":              {"\"a\x7fb\"", `"a\u007fb"`},
		"C1, a line break":    {"\"\u0085\u009b\"", `"\u0085\u009b"`},
		"another direction":   {"\"\u202eb\u2066\"", `"\u202eb\u2066"`},
		"beyond the 16 bits":  {"\"\U000e0001\"", `"\udb40\udc01"`},
		"escapes that it has": {`"\u001b\u2028"`, `"\u001b\u2028"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := text.JSON([]byte(tc.json))
			if string(got) != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			var is, was any
			if err := errors.Join(json.Unmarshal(got, &is), json.Unmarshal([]byte(tc.json), &was)); err != nil || !reflect.DeepEqual(is, was) {
				t.Errorf("it says %q, and did %q (%v)", is, was, err)
			}
		})
	}
}
