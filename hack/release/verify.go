// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// verify builds a release twice, in clones in different directories, and compares all
// files. The second build compiles everything anew, unless the cache may be used. If both
// are the same, the first one is the release: nothing is built a third time.
func verify(ctx context.Context, o options, stdout io.Writer) error {
	r, _, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	first, err := beside(o.directory())
	if err != nil {
		return err
	}
	defer os.RemoveAll(first)
	results := [2]string{first, filepath.Join(work, "result")}
	for i, name := range []string{"one", filepath.Join("somewhere", "else")} {
		dir := filepath.Join(work, name)
		if err := r.clone(ctx, dir); err != nil {
			return err
		}
		var env []string
		if i == 1 && !o.cached {
			env = []string{"GOCACHE=" + filepath.Join(work, "cache")}
		}
		if err := again(ctx, o, dir, results[i], env); err != nil {
			return fmt.Errorf("build %d of 2: %w", i+1, err)
		}
	}
	different, err := compare(results[0], results[1])
	if err != nil {
		return err
	}
	if len(different) > 0 {
		return fmt.Errorf("two builds of %s differ in %s", r.version, strings.Join(different, ", "))
	}
	if err := replace(o.directory(), first); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "two builds of %s, commit %s, are the same; they are in %s\n", r.version, r.commit.hash, o.directory())
	return err
}

// clone clones the repository into a directory, at the release's commit.
func (r *release) clone(ctx context.Context, dir string) error {
	if _, err := git(ctx, r.root, "clone", "--quiet", "--no-checkout", r.root, dir); err != nil {
		return err
	}
	_, err := git(ctx, dir, "checkout", "--quiet", "--detach", r.commit.hash)
	return err
}

// again runs this program's build in a clone.
func again(ctx context.Context, o options, dir, out string, env []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil { // it runs in the clone
		return err
	}
	args := []string{"build", "-version=" + o.version, "-o=" + out, "-registry=" + o.registry, "-only=" + o.only}
	if o.allowUntagged {
		args = append(args, "-allow-untagged")
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), env...), os.Stderr
	return cmd.Run()
}

// compare returns the names of the files that two directories do not both have with the
// same content.
func compare(a, b string) (different []string, err error) {
	found := map[sum]int{}
	for _, dir := range []string{a, b} {
		sums, err := sumsIn(dir)
		if err != nil {
			return nil, err
		}
		for _, s := range sums {
			found[s]++
		}
	}
	for s, n := range found {
		if n != 2 && !slices.Contains(different, s.name) {
			different = append(different, s.name)
		}
	}
	slices.Sort(different)
	return different, nil
}
