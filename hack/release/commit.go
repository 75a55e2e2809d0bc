// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// commit identifies the commit that a release is built from.
type commit struct {
	hash string
	at   time.Time
}

// validVersion checks the form of a version.
func validVersion(version string) error {
	switch {
	case version == "":
		return errors.New("which version? Say VERSION=v0.1.0, say")
	case !semver.IsValid(version) || semver.Canonical(version) != version:
		return fmt.Errorf("VERSION=%s is no version such as v0.1.0 or v0.2.0-rc.1: write a v, three numbers, and no build metadata", version)
	}
	return nil
}

// checkout checks that a version can be released from the repository in a directory, and
// returns its commit.
func checkout(ctx context.Context, root, version string, allowUntagged bool) (commit, error) {
	changed, err := git(ctx, root, "status", "--porcelain", "--untracked-files=all")
	if err != nil {
		return commit{}, err
	}
	if changed != "" {
		return commit{}, fmt.Errorf("the tree has changes that are not committed, and a release is made of a commit; commit or remove them:\n%s", changed)
	}
	ignored, err := git(ctx, root, "ls-files", "--others", "--ignored", "--exclude-standard", "--", "charts")
	if err != nil {
		return commit{}, err
	}
	if ignored != "" {
		return commit{}, fmt.Errorf("git ignores files that would get into the chart; remove them:\n%s", ignored)
	}
	head, err := git(ctx, root, "log", "-1", "--format=%H %ct")
	if err != nil {
		return commit{}, err
	}
	hash, seconds, _ := strings.Cut(head, " ")
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("read the time of commit %s: %w", hash, err)
	}
	c := commit{hash, time.Unix(at, 0).UTC()}
	if allowUntagged {
		return c, nil
	}
	tagged, err := git(ctx, root, "rev-parse", "--quiet", "--verify", "refs/tags/"+version+"^{commit}")
	switch {
	case err != nil:
		return c, fmt.Errorf("there is no tag %s: set it with git tag -s %s, or say ALLOW_UNTAGGED=1 to only try it", version, version)
	case tagged != hash:
		return c, fmt.Errorf("the tag %s is commit %s, and HEAD is %s: run git checkout %s, or say ALLOW_UNTAGGED=1 to only try it", version, tagged, hash, version)
	}
	return c, nil
}

// upgradable checks that the tests know the data of the version and of the last release
// before it: every release is upgraded from.
func upgradable(ctx context.Context, root, version string) error {
	merged, err := git(ctx, root, "tag", "--list", "v*", "--merged", "HEAD")
	if err != nil {
		return err
	}
	var last string
	for tag := range strings.FieldsSeq(merged) {
		if semver.IsValid(tag) && semver.Prerelease(tag) == "" && semver.Compare(tag, version) < 0 && (last == "" || semver.Compare(tag, last) > 0) {
			last = tag
		}
	}
	for _, v := range []string{last, version} {
		dir := filepath.Join("test", "upgrade", "testdata", semver.MajorMinor(v))
		if v == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			return fmt.Errorf("the data of %s, to test upgrades from it, is not in %s: run make upgrade-data DATA=%s in a checkout of %s, and commit what it writes", v, dir, semver.MajorMinor(v), v)
		}
	}
	return nil
}

// git runs git and returns what it prints.
func git(ctx context.Context, root string, args ...string) (string, error) {
	out, err := command(ctx, root, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// command runs a program and returns what it prints.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}
