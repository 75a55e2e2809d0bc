// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheWorkflowsBuildWithTheGoOfTheDockerfile looks at the versions of Go, and at how
// actions are pinned.
func TestTheWorkflowsBuildWithTheGoOfTheDockerfile(t *testing.T) {
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	image := regexp.MustCompile(`golang:([0-9.]+)@sha256:`).FindSubmatch(dockerfile)
	if image == nil {
		t.Fatal("the Dockerfile has no pinned version of Go")
	}
	workflows, err := filepath.Glob("../../.github/workflows/*.yaml")
	if err != nil || len(workflows) < 2 {
		t.Fatalf("there are only the workflows %q, %v", workflows, err)
	}
	pinned := regexp.MustCompile(`^\s*(- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, path := range workflows {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSuffix(line, "\n")
			if version, ok := strings.CutPrefix(strings.TrimSpace(line), "go-version: "); ok {
				n++
				if version != string(image[1]) {
					t.Errorf("%s has Go %s, the Dockerfile %s", path, version, image[1])
				}
			}
			if strings.Contains(line, "uses: ") && !pinned.MatchString(line) {
				t.Errorf("%s: an action is not pinned by its commit, with its version as a comment: %s", path, line)
			}
		}
		if n == 0 {
			t.Errorf("%s says no version of Go", path)
		}
	}
}

// TestPipesFailInWorkflows: without "shell: bash" a step runs without pipefail, and what fails
// before a pipe is not noticed.
func TestPipesFailInWorkflows(t *testing.T) {
	workflows, err := filepath.Glob("../../.github/workflows/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pipe := regexp.MustCompile(`\bmake [^|]*\|[^|]`)
	for _, path := range workflows {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for step := range strings.SplitSeq(string(content), "\n      - ") {
			if pipe.MatchString(step) && !strings.Contains(step, "shell: bash") {
				t.Errorf("%s: a step pipes what make prints, without shell: bash:\n%s", path, step)
			}
		}
	}
}
