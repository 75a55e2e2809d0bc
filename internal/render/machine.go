// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"text/template"
)

const (
	// maxWork bounds the bytes that the functions of one execution read and write,
	// so that calls whose results are discarded count too.
	maxWork = 2 << 20

	// callWork is the least that a call costs, however little it reads.
	callWork = 64

	// maxIndent is more than any nesting of YAML needs.
	maxIndent = 32
)

// cause is why an execution failed, in fixed words without any value.
type cause string

func (c cause) Error() string { return string(c) }

const (
	errArgument cause = "a function cannot work with its arguments, or an index is out of range"
	errCompare  cause = "eq and ne compare two strings, two whole numbers or two booleans"
	errJSON     cause = "json takes a string, a list, a whole number or a boolean"
	errIndent   cause = "indent takes 0 to 32 spaces"
	errValue    cause = "a value becomes too long"
	errWork     cause = "the template does too much work"
	errOutput   cause = "the output is too long"
	errEncoding cause = "the output is not valid UTF-8"
)

// machine runs one execution: it provides the functions, counts their cost and
// takes the output. It is not safe for concurrent use.
type machine struct {
	limit int // of the output and of each value, in bytes
	token func(key string) string
	work  int
	out   strings.Builder
}

// funcs are our functions. The rules say which of them, and of those of
// text/template, a template may use. eq and ne replace those of text/template,
// whose cost cannot be counted.
func (m *machine) funcs() template.FuncMap {
	return template.FuncMap{
		"token":  func(key string) (string, error) { return m.result(m.token(key)) },
		"base64": m.base64,
		"json":   m.json,
		"quote":  func(s string) (string, error) { return m.json(s) },
		"join":   m.join,
		"indent": m.indent,
		"eq":     m.equal,
		"ne": func(a, b any) (bool, error) {
			equal, err := m.equal(a, b)
			return !equal, err
		},
	}
}

// Write accepts output up to the limit.
func (m *machine) Write(p []byte) (int, error) {
	if m.out.Len()+len(p) > m.limit {
		return 0, errOutput
	}
	return m.out.Write(p)
}

// spend counts a call that reads or writes n bytes.
func (m *machine) spend(n int) error {
	if m.work += n + callWork; m.work > maxWork {
		return errWork
	}
	return nil
}

// reserve counts a value of n bytes before it is made, so that a value that is too
// long never is.
func (m *machine) reserve(n int) error {
	if n > m.limit {
		return errValue
	}
	return m.spend(n)
}

func (m *machine) result(s string) (string, error) {
	if err := m.reserve(len(s)); err != nil {
		return "", err
	}
	return s, nil
}

// base64 returns the standard encoding with padding, as in Basic credentials.
func (m *machine) base64(s string) (string, error) {
	if err := m.reserve(base64.StdEncoding.EncodedLen(len(s))); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString([]byte(s)), nil
}

// json encodes a value. An encoded string is also a double-quoted string in YAML.
func (m *machine) json(v any) (string, error) {
	size := 0
	switch v := v.(type) {
	case string:
		size = len(v)
	case []string:
		for _, s := range v {
			size += len(s)
		}
	case int, bool:
	default:
		return "", errJSON
	}
	if err := m.reserve(size); err != nil {
		return "", err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", errJSON
	}
	return m.result(strings.TrimSuffix(b.String(), "\n"))
}

// join takes the separator first, so that a list can be piped to it.
func (m *machine) join(separator string, list []string) (string, error) {
	size := len(separator) * len(list)
	for _, s := range list {
		size += len(s)
	}
	if err := m.reserve(size); err != nil {
		return "", err
	}
	return strings.Join(list, separator), nil
}

// indent puts spaces before every line that is not empty.
func (m *machine) indent(spaces int, s string) (string, error) {
	if spaces < 0 || spaces > maxIndent {
		return "", errIndent
	}
	if err := m.reserve(len(s) + spaces*(1+strings.Count(s, "\n"))); err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(s) {
		if line != "\n" {
			b.WriteString(strings.Repeat(" ", spaces))
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

func (m *machine) equal(a, b any) (bool, error) {
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			return a == b, m.spend(min(len(a), len(b)))
		}
	case int:
		if b, ok := b.(int); ok {
			return a == b, m.spend(0)
		}
	case bool:
		if b, ok := b.(bool); ok {
			return a == b, m.spend(0)
		}
	}
	return false, errCompare
}
