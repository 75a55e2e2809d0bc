// SPDX-License-Identifier: Apache-2.0

package build

import (
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestMakeStampsItsPrograms: whatever GOFLAGS says, make build tells both programs their version and commit.
func TestMakeStampsItsPrograms(t *testing.T) {
	head, err := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "rev-parse", "HEAD").Output()
	if err != nil {
		t.Skipf("this is no checkout: %v", err)
	}
	if _, err := os.Stat("../../Makefile"); err != nil { // so that go test runs again when it changes
		t.Fatal(err)
	}
	recipe, err := exec.CommandContext(t.Context(), "make", "--dry-run", "-C", "../..", "build").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, recipe)
	}
	ours := reflect.TypeFor[Info]().PkgPath()
	stamp := regexp.MustCompile(`-ldflags='-X ` + regexp.QuoteMeta(ours) + `\.Version=(\S+) \s*-X ` + regexp.QuoteMeta(ours) + `\.Revision=(\S+)'`)
	found := stamp.FindAllStringSubmatch(string(recipe), -1)
	if len(found) != 2 {
		t.Fatalf("%d programs are stamped, want 2:\n%s", len(found), recipe)
	}
	for _, f := range found {
		if f[1] == "unknown" || f[2] != strings.TrimSpace(string(head)) {
			t.Errorf("version %q, commit %q, want %s", f[1], f[2], head)
		}
	}
}
