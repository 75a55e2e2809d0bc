// SPDX-License-Identifier: Apache-2.0

// Package render turns values into files: the data of a client's token Secret, and
// the verification bundle of an API (the issuer's public keys and what to check a
// token for, in several formats). It does no I/O and reads no clock, and the same
// input gives the same bytes. It treats everything that a tenant writes as hostile,
// above all file names and templates.
package render

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/m2m-operator/m2m-operator/internal/text"
)

const (
	// MaxTotal bounds the sum of all names and contents of a Secret or a
	// ConfigMap. The API server takes 1 MiB for the whole object.
	MaxTotal = 900 << 10

	// maxFileName is how long Kubernetes allows a key of a Secret or ConfigMap to
	// be.
	maxFileName = 253
)

// TokenSecret returns the data of a client's token Secret: each token under its
// key, and each of templates (file name to template) rendered.
//
// A template shows tokens by {{ token "key" }}. known lists the keys of all tokens
// that the client's spec declares. A key that is not among them is an error, as is
// a template's name that is one of them or not a valid file name (ValidFileName).
// If a template names a known token that is missing or empty in tokens, because it
// has not been minted yet, TokenSecret leaves the template out of data and returns
// its name in waiting, sorted. No error holds a token.
func TokenSecret(tokens, templates map[string]string, known []string) (data map[string][]byte, waiting []string, err error) {
	data = map[string][]byte{}
	for _, key := range slices.Sorted(maps.Keys(tokens)) {
		if err := ValidFileName(key); err != nil {
			return nil, nil, fmt.Errorf("token key: %w", err)
		}
		if !slices.Contains(known, key) {
			return nil, nil, fmt.Errorf("token %q is not declared; the tokens are: %s", key, quoted(known))
		}
		if tokens[key] != "" {
			data[key] = []byte(tokens[key])
		}
	}

	for _, name := range slices.Sorted(maps.Keys(templates)) {
		if err := ValidFileName(name); err != nil {
			return nil, nil, fmt.Errorf("template key: %w", err)
		}
		if slices.Contains(known, name) {
			return nil, nil, fmt.Errorf("template key %q is also the key of a token; rename one of them", name)
		}
		out, ready, err := secretFile(templates[name], data, known)
		if err != nil {
			return nil, nil, fmt.Errorf("template %q: %w", name, err)
		}
		if !ready {
			waiting = append(waiting, name)
			continue
		}
		data[name] = []byte(out)
	}

	total := 0
	for name, content := range data {
		total += len(name) + len(content)
	}
	if total > MaxTotal {
		return nil, nil, fmt.Errorf("the Secret would hold %d bytes, more than %d", total, MaxTotal)
	}
	return data, waiting, nil
}

// secretFile renders a template, unless it waits for a token.
func secretFile(src string, tokens map[string][]byte, known []string) (out string, ready bool, err error) {
	t, err := parseTemplate(secretRules, src)
	if err != nil {
		return "", false, err
	}
	ready = true
	for _, key := range t.tokens {
		if !slices.Contains(known, key) {
			return "", false, fmt.Errorf("unknown token %.100q; the tokens are: %s", key, quoted(known))
		}
		ready = ready && tokens[key] != nil
	}
	if !ready {
		return "", false, nil
	}
	out, err = t.execute(nil, func(key string) string { return string(tokens[key]) })
	return out, true, err
}

// ValidFileName reports whether a name can be a key of a Secret or ConfigMap, and
// so a file in a directory that pods mount: 1 to 253 letters, digits, dots, hyphens
// and underscores, but not "." and nothing that begins with "..".
func ValidFileName(s string) error {
	switch {
	case s == "":
		return errors.New("a file name must not be empty")
	case len(s) > maxFileName:
		return fmt.Errorf("file name %.20q... is longer than %d characters", s, maxFileName)
	case s == "." || strings.HasPrefix(s, ".."):
		return fmt.Errorf("file name %q must not be \".\" or begin with \"..\"", s)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("file name %q must consist of letters, digits, \".\", \"-\" and \"_\"", s)
		}
	}
	return nil
}

// quoted lists names for an error message.
func quoted(names []string) string {
	return cmp.Or(text.QuoteAll(names, maxFileName, len(names)), "none")
}
