// SPDX-License-Identifier: Apache-2.0

// Package text makes texts fit to be shown. What servers, tokens and tenants say is foreign: it may be of any length,
// hold line breaks that forge a line of a log, escape sequences that colour a terminal, or the secret that it was sent.
//
//	Line      keeps a sentence of ours that quotes something foreign on one line
//	Words     makes a sentence of foreign prose: printable characters and single spaces
//	ASCII     does so for an identifier, which has no other characters, and cuts it without a mark
//	Quote     puts a foreign value into a sentence of ours, with all its characters told apart
//	QuoteAll  does so for a list
//	List      names the first of a list, and says how many others there are
//	Redact    takes values out, such as credentials that a server repeats
//	JSON      escapes the characters of JSON that are not printable
//	CutRunes  fits a text into a field that is bounded in characters, as those of the API are
//	CutBytes  fits a text into a field that is bounded in bytes, as those of events are
//	Sentence  begins a fragment with a capital
package text

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Redacted stands where Redact took something out.
const Redacted = "[redacted]"

// mark stands at the end of what was cut.
const mark = "…"

// CutRunes returns s, or its beginning and "…" where it has more than most characters. The result has at most most.
func CutRunes(s string, most int) string {
	end, n := 0, 0
	for i := range s {
		if n++; n == most {
			end = i // the mark takes this one's place
		} else if n > most {
			return s[:end] + strings.Repeat(mark, min(1, max(0, most)))
		}
	}
	return s
}

// CutBytes returns s, or its beginning and "…" where it has more than most bytes. The result has at most most, and no
// part of a character.
func CutBytes(s string, most int) string {
	switch {
	case len(s) <= most:
		return s
	case most < len(mark):
		return whole(s[:max(0, most)])
	}
	return whole(s[:most-len(mark)]) + mark
}

// whole drops the part of a character at the end of a text that was cut.
func whole(s string) string {
	for i := 1; i < utf8.UTFMax && i <= len(s); i++ {
		if b := s[len(s)-i]; utf8.RuneStart(b) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return s[:len(s)-i]
			}
			break
		}
	}
	return s
}

// Line returns a text of one line: white space becomes spaces, one for each, and what else is not printable U+FFFD.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}

// JSON escapes the characters of JSON that are not printable. encoding/json leaves some as they are: control characters
// from U+007F on, which YAML forbids, and those that turn the direction of writing.
func JSON(b []byte) []byte {
	clean := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == '\n' || unicode.IsPrint(r) {
			clean = append(clean, b[:size]...)
		} else {
			for _, unit := range utf16.Encode([]rune{r}) {
				clean = fmt.Appendf(clean, `\u%04x`, unit)
			}
		}
		b = b[size:]
	}
	return clean
}

// Words returns the printable characters of a text, with one space for whatever is between them.
func Words(s string) string {
	return fold(s, func(r rune) bool { return unicode.IsPrint(r) && r != unicode.ReplacementChar })
}

// ASCII is Words for what has only printable ASCII, such as an identifier of a server, cut at most bytes.
func ASCII(s string, most int) string {
	s = fold(s, func(r rune) bool { return r <= unicode.MaxASCII && unicode.IsPrint(r) })
	if len(s) > most {
		s = strings.TrimSpace(s[:most])
	}
	return s
}

// fold puts single spaces where there is something else than characters to keep.
func fold(s string, keep func(rune) bool) string {
	s = strings.Map(func(r rune) rune {
		if !keep(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// Quote returns at most most bytes of a text between quotation marks, with escapes for all but printable ASCII.
func Quote(s string, most int) string { return strconv.QuoteToASCII(CutBytes(s, most)) }

// QuoteAll quotes the first of a list, and says how many others there are. It sorts the list, so that the order in
// which a server happens to write it does not change the message.
func QuoteAll(list []string, bytes, most int) string {
	sorted := slices.Sorted(slices.Values(list))
	shown := make([]string, 0, most)
	for _, s := range sorted[:min(len(sorted), most)] {
		shown = append(shown, Quote(s, bytes))
	}
	return rest(strings.Join(shown, ", "), ", ", len(sorted)-len(shown))
}

// List returns the first of a list, at most most, and says how many others there are. The separator is ", " for names
// and "; " for what has commas itself.
func List(list []string, separator string, most int) string {
	shown := list[:min(len(list), most)]
	return rest(strings.Join(shown, separator), separator, len(list)-len(shown))
}

// rest adds how many more there are to the first of a list.
func rest(shown, separator string, more int) string {
	switch {
	case more == 0:
		return shown
	case separator == ", ":
		separator = " "
	}
	return shown + separator + "and " + strconv.Itoa(more) + " more"
}

// Redact replaces each of the values in a text, the longest first: a short one that is a part of a token must not cut
// it into pieces that stay.
func Redact(s string, values ...string) string {
	values = slices.SortedStableFunc(slices.Values(values), func(a, b string) int { return len(b) - len(a) })
	for _, v := range values {
		if v != "" { // it would be found between all letters
			s = strings.ReplaceAll(s, v, Redacted)
		}
	}
	return s
}

// Sentence returns a fragment with a capital at its beginning.
func Sentence(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if size == 0 || first == utf8.RuneError {
		return s
	}
	return string(unicode.ToUpper(first)) + s[size:]
}
