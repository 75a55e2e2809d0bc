// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// modules returns the names, with versions, of all modules that programs are built from.
func modules(programs []program) []string {
	found := map[string]bool{}
	for _, p := range programs {
		for _, m := range p.info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			found[m.Path+"@"+m.Version] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// texts are licences and the files that have them, in the order in which they were added.
type texts struct {
	order []string
	files map[string][]string
}

func newTexts() *texts { return &texts{files: map[string][]string{}} }

// add adds what a directory has: at its top, or anywhere below it. There must be some.
func (t *texts) add(name, dir string, below bool) error {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != dir && (!below || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !licenceFile.MatchString(d.Name()) || strings.HasSuffix(d.Name(), ".go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		n++
		text := strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))
		if t.files[text] == nil {
			t.order = append(t.order, text)
		}
		t.files[text] = append(t.files[text], name+": "+filepath.ToSlash(relative))
		return nil
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("no licence is in %s", dir)
	}
	if err != nil {
		return fmt.Errorf("the licence of %s: %w", name, err)
	}
	return nil
}

func (t *texts) bytes() []byte {
	var b bytes.Buffer
	b.WriteString("The programs contain code of others under the licences below.\n")
	for _, text := range t.order {
		fmt.Fprintf(&b, "\n%s\n\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(t.files[text], "\n"), text)
	}
	return b.Bytes()
}
