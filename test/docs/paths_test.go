// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// named finds a path of the repository in a text: it begins with a directory of the top level, and nothing before it
// makes it a part of another path, of an address or of a variable. Before it may be the module's path, or **/.
var named = regexp.MustCompile(`(?:^|[^\w./~$}{@:-]|m2m-operator/m2m-operator/|\*\*/)((?:\./)?(?:\.ci|api|charts|cmd|config|docs|hack|internal|test)/[\w./*@{,}$<>…-]*[\w/*…])`)

// TestPaths requires that every path of the repository exists that a Markdown file, a comment, a script or a
// configuration names.
func TestPaths(t *testing.T) {
	found := map[string]int{}
	for _, file := range writtenFiles(t) {
		kind := filepath.Ext(file)
		for _, text := range texts(t, file) {
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				found[kind]++
				if !exists(t, m[1]) {
					t.Errorf("%s names %s, which does not exist", file, m[1])
				}
			}
		}
	}
	for kind, least := range map[string]int{".md": 20, ".go": 50, ".sh": 10, ".yml": 20} {
		if found[kind] < least {
			t.Errorf("%d paths in files *%s: the expression finds too few", found[kind], kind)
		}
	}
	t.Log(found)
}

// writtenFiles returns the files of the repository that people write and that are no test data, from the root.
func writtenFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "out", "dist", "testdata", "node_modules"}, d.Name()):
			return fs.SkipDir
		case d.Type().IsRegular() && slices.Contains([]string{".md", ".go", ".sh", ".yaml", ".yml", ".mk", ""}, filepath.Ext(name)):
			all = append(all, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// texts returns the comments of a Go file, and of any other file the whole.
func texts(t *testing.T, file string) []string {
	t.Helper()
	content := read(t, filepath.Join(root, file))
	if filepath.Ext(file) != ".go" {
		return []string{content}
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, group := range parsed.Comments {
		for _, c := range group.List {
			all = append(all, c.Text)
		}
	}
	return all
}

// exists reports whether a path leads somewhere. Of one with a placeholder, it looks at what is before that.
func exists(t *testing.T, path string) bool {
	t.Helper()
	var known []string
	for part := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(path, "./"), "/"), "/") {
		if part == "..." || strings.ContainsAny(part, "{}$<>…") || part == strings.ToUpper(part) && strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
			break
		}
		known = append(known, part)
	}
	matches, err := filepath.Glob(filepath.Join(root, filepath.Join(known...)))
	if err != nil {
		t.Fatal(err)
	}
	return len(matches) > 0
}

// TestPackagesAreListed requires that CONTRIBUTING.md lists every package below internal, and no other.
func TestPackagesAreListed(t *testing.T) {
	_, table, _ := strings.Cut(read(t, filepath.Join(root, "CONTRIBUTING.md")), "## Where things are")
	_, table, _ = strings.Cut(table, "```\n")
	table, _, _ = strings.Cut(table, "```")
	var listed, existing []string
	above := ""
	for line := range strings.Lines(table) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if below, ok := strings.CutPrefix(name, "…/"); ok {
			listed = append(listed, above+"/"+below)
		} else if strings.HasPrefix(name, "internal/") {
			above = name
			listed = append(listed, name)
		}
	}
	for _, file := range goFiles(t, "internal") {
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		if dir = filepath.ToSlash(dir); !slices.Contains(existing, dir) {
			existing = append(existing, dir)
		}
	}
	listed = slices.DeleteFunc(listed, func(dir string) bool { // internal/testing has only packages below it
		_, err := os.Stat(filepath.Join(root, dir))
		return err == nil && !slices.Contains(existing, dir)
	})
	sameSet(t, "package", listed, existing)
}
