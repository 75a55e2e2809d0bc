// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
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
	pipe := regexp.MustCompile(`(\bmake|/release) [^|]*\|[^|]`)
	for _, path := range workflows {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for step := range strings.SplitSeq(string(content), "\n      - ") {
			if pipe.MatchString(step) && !strings.Contains(step, "shell: bash") {
				t.Errorf("%s: a step pipes what make or a release prints, without shell: bash:\n%s", path, step)
			}
		}
	}
}

// workflow is a workflow, as far as its rights matter.
type workflow struct {
	Permissions any            `json:"permissions"`
	Jobs        map[string]job `json:"jobs"`
}

type job struct {
	Permissions map[string]string `json:"permissions"`
	Steps       []step            `json:"steps"`
}

type step struct {
	Uses string `json:"uses"`
	Run  string `json:"run"`
}

// mayWrite reports whether a job has a right to write.
func (j job) mayWrite() bool {
	return slices.Contains(slices.Collect(maps.Values(j.Permissions)), "write")
}

// TestJobsThatMayWriteBuildNothing: what compiles the repository, its tools and the modules of
// others may write nothing; what may write takes what was built, and checks first that it is that.
func TestJobsThatMayWriteBuildNothing(t *testing.T) {
	content, err := os.ReadFile("../../.github/workflows/release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var w workflow
	if err := yaml.Unmarshal(content, &w); err != nil {
		t.Fatal(err)
	}
	if none, ok := w.Permissions.(map[string]any); !ok || len(none) > 0 {
		t.Errorf("jobs without permissions of their own have %v, and not none", w.Permissions)
	}
	builds := regexp.MustCompile(`\b(make|go|git|npm|bash|hack/\S+) `)
	allowed := regexp.MustCompile(`^actions/(download-artifact|attest-build-provenance)@`)
	rights := map[string][]string{}
	for name, j := range w.Jobs {
		if !j.mayWrite() {
			continue
		}
		for right := range j.Permissions {
			rights[right] = append(rights[right], name)
		}
		if len(j.Steps) < 3 || !strings.HasPrefix(j.Steps[0].Uses, "actions/download-artifact@") || strings.Count(j.Steps[1].Run, "sha256sum --check --strict") != 3 {
			t.Errorf("the job %s does not begin with downloading and checking what was built", name)
		}
		for _, s := range j.Steps {
			if s.Uses != "" && !allowed.MatchString(s.Uses) {
				t.Errorf("the job %s may write, and uses %s", name, s.Uses)
			}
			if found := builds.FindString(s.Run); found != "" {
				t.Errorf("the job %s may write, and runs %q", name, found)
			}
		}
	}
	if diff := cmp.Diff(map[string][]string{"packages": {"push"}, "id-token": {"attest"}, "attestations": {"attest"}, "contents": {"draft"}}, rights); diff != "" {
		t.Errorf("each job has one purpose and the rights for it: %s", diff)
	}
}
