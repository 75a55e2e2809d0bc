// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionsAreSemantic(t *testing.T) {
	for version, valid := range map[string]bool{
		"v0.1.0": true, "v10.20.30": true, "v1.0.0-rc.1": true,
		"": false, "0.1.0": false, "v1": false, "v0.1": false, "v01.0.0": false, "v0.1.0+build": false, "latest": false, "v0.1.0 ": false,
	} {
		if err := validVersion(version); (err == nil) != valid {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// repository makes a repository with one commit.
func repository(t *testing.T) (dir string, run func(args ...string)) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	run = func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-11-29T17:00:00Z")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("init", "-q")
	run("commit", "-q", "--allow-empty", "-m", "one")
	return dir, run
}

func TestOnlyATaggedAndCleanCommitIsReleased(t *testing.T) {
	dir, run := repository(t)
	says := func(untagged bool, want string) {
		t.Helper()
		_, err := checkout(t.Context(), dir, "v0.1.0", untagged)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	says(false, "there is no tag v0.1.0: set it with git tag")
	says(true, "")
	run("tag", "-a", "-m", "a release", "v0.1.0")
	says(false, "")
	c, err := checkout(t.Context(), dir, "v0.1.0", false)
	if err != nil || !c.at.Equal(at) || len(c.hash) != 40 {
		t.Errorf("the commit is %+v, %v", c, err)
	}
	run("commit", "-q", "--allow-empty", "-m", "two")
	says(false, "run git checkout v0.1.0")
	says(true, "")
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	says(true, "commit or remove them:\n?? new")
	run("config", "status.showUntrackedFiles", "no")
	says(true, "commit or remove them:\n?? new")
	if err := os.Remove(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{".git/info/exclude": "*.prof\n", "charts/m2m-operator/cpu.prof": ""} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says(true, "remove them:\ncharts/m2m-operator/cpu.prof")
}

func TestAReleaseNeedsTheDataOfTheLastOne(t *testing.T) {
	dir, run := repository(t)
	says := func(version, want string) {
		t.Helper()
		err := upgradable(t.Context(), dir, version)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: want %q, got %v", version, want, err)
		}
	}
	has := func(version string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "test", "upgrade", "testdata", version), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	says("v0.1.0", "make upgrade-data DATA=v0.1")
	has("v0.1")
	says("v0.1.0", "")
	has("v0.3")
	says("v0.3.0", "")
	run("tag", "v0.2.0")
	run("tag", "v0.2.1-rc.1")
	run("tag", "v0.4.0")
	says("v0.3.0", "the data of v0.2.0, to test upgrades from it, is not in "+filepath.Join("test", "upgrade", "testdata", "v0.2"))
	has("v0.2")
	says("v0.3.0", "")
}
