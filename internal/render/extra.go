// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// eachKey in a file's name makes it a file for each key.
const eachKey = "*"

// fileOf returns the name of a key's file.
func fileOf(name, thumbprint string) string {
	return strings.Replace(name, eachKey, thumbprint, 1)
}

// extraFile renders one of the owner's templates, and passes each file to add, or
// why there is none.
func extraFile(name, src string, data map[string]any, add func(name, content string, err error)) {
	keys := data[fieldKeys].([]keyData)
	names := []string{name}
	if strings.Contains(name, eachKey) {
		names = apply(keys, func(k keyData) string { return fileOf(name, k.Thumbprint) })
	}
	t, err := checkExtraFile(name, src, len(keys))
	if err != nil {
		for _, name := range names {
			add(name, "", err)
		}
		return
	}
	m := &machine{limit: t.maxOutput}
	for i, n := range names {
		if n != name {
			data = maps.Clone(data)
			data[fieldKey] = keys[i]
		}
		content, err := t.executeOn(m, data)
		if err != nil {
			err = fmt.Errorf("extra file %q: %w", name, err)
		}
		if n == name || content != "" || err != nil {
			add(n, content, err)
		}
	}
}

// checkExtraFile checks everything that can be checked before the template runs.
func checkExtraFile(name, src string, keys int) (*checked, error) {
	example := fileOf(name, strings.Repeat("x", thumbprintLength))
	if err := ValidFileName(example); err != nil {
		return nil, fmt.Errorf("extra file: %w", err)
	}
	if slices.Contains(fixedFiles, name) {
		return nil, fmt.Errorf("extra file %q is part of every bundle; choose another name", name)
	}
	if keys > MaxKeys {
		return nil, fmt.Errorf("extra file %q: there are %d keys, more than the %d that a template can walk", name, keys, MaxKeys)
	}
	t, err := parseTemplate(rulesOf(name), src)
	if err != nil {
		return nil, fmt.Errorf("extra file %q: %w", name, err)
	}
	return t, nil
}
