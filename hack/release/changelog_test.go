// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

const changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- Two.\n\n## [0.1.0] - 2026-11-29\n\n- One.\n"

func TestTheNotesOfAVersion(t *testing.T) {
	for version, want := range map[string]string{"v0.2.0": "### Added\n\n- Two.\n", "v0.1.0": "- One.\n"} {
		if got, err := section([]byte(changelog), version); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", version, got, err)
		}
	}
	for version, want := range map[string]string{"v0.3.0": "has no section [0.3.0]: rename [Unreleased]", unreleased: "is empty"} {
		if _, err := section([]byte(changelog), version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", version, err)
		}
	}
}

// TestTheChangelogCanBeReleased reads the changelog of the project.
func TestTheChangelogCanBeReleased(t *testing.T) {
	content, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), "\n## [Unreleased]\n") {
		t.Error("there is no section [Unreleased] for what comes next")
	}
	headings := strings.Count(string(content), "\n## ")
	if n := len(heading.FindAll(content, -1)); n != headings {
		t.Errorf("of %d headings, %d have the form \"## [0.1.0] - 2026-11-29\"", headings, n)
	}
}
