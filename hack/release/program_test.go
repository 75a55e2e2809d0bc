// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestAProgramKnowsItsVersionAndItsCommit compiles internal/build, alone in a module of
// the same name, and asks it.
func TestAProgramKnowsItsVersionAndItsCommit(t *testing.T) {
	r := a(t)
	source, err := os.ReadFile(filepath.Join(r.root, "internal", "build", "build.go"))
	if err != nil {
		t.Fatal(err)
	}
	r.root = t.TempDir()
	if err := os.MkdirAll(filepath.Join(r.root, "internal", "build"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"go.mod":                  "module " + module + "\n\ngo 1.26.0\n",
		"internal/build/build.go": string(source),
		"main.go":                 "package main\n\nimport \"" + module + "/internal/build\"\n\nfunc main() { println(build.Read().String()) }\n",
	} {
		if err := os.WriteFile(filepath.Join(r.root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := r.compile(t.Context(), ".", platform{runtime.GOOS, runtime.GOARCH}, filepath.Join(r.work, "program"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(p.path).CombinedOutput()
	if want := "v0.1.0 (commit " + r.commit.hash + ", go"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}
