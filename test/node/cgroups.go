// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/test/cgroup"
)

// makeCgroups makes a cgroup of the given name below this process's own in each hierarchy.
func makeCgroups(all []cgroup.Hierarchy, name string) error {
	for _, needed := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"} {
		if !slices.ContainsFunc(all, func(h cgroup.Hierarchy) bool { return h.Has(needed) }) {
			return fmt.Errorf("this machine has no cgroup v1 hierarchy for %s, and this node knows no other: "+
				"set KUBECONFIG to a cluster of yours instead", needed)
		}
	}
	for _, h := range all {
		dir := filepath.Join(h.Own, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make a cgroup for the node: %w", err)
		}
		if !h.Has("cpuset") {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // a new cpuset is empty, and then no process can enter
			value, err := os.ReadFile(filepath.Join(h.Own, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// enter moves this process into the cgroup name below its own, or back to its own
// if the name is empty.
func enter(all []cgroup.Hierarchy, name string) error {
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.Own, name, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter the cgroup: %w", err)
		}
	}
	return nil
}

// findCgroups looks for cgroups of a name anywhere: the shell that made them may
// have been in another cgroup than this one.
func findCgroups(all []cgroup.Hierarchy, name string) []string {
	var found []string
	for _, h := range all {
		_ = filepath.WalkDir(h.Mount, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || !d.IsDir():
				return nil // others make and remove theirs meanwhile
			case d.Name() == name:
				found = append(found, path)
				return fs.SkipDir
			}
			return nil
		})
	}
	return found
}

// members lists the processes of a cgroup and of those below it, and all of these
// cgroups, the innermost first.
func members(cgroup string) (pids []int, dirs []string) {
	_ = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		dirs = append(dirs, path)
		procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Reverse(dirs)
	return pids, dirs
}

// removeCgroups kills every process in the cgroups of a name and removes the cgroups.
func removeCgroups(all []cgroup.Hierarchy, name string) error {
	var left []string
	for range 100 {
		cgroups := findCgroups(all, name)
		if len(cgroups) == 0 {
			return nil
		}
		left = nil
		for _, cgroup := range cgroups {
			pids, dirs := members(cgroup)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if len(pids) > 0 {
				left = append(left, fmt.Sprintf("%s holds processes %v", cgroup, pids))
				continue
			}
			for _, dir := range dirs {
				if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					left = append(left, fmt.Sprintf("%s: %v", dir, err))
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("cannot remove what is left of the node: %s", strings.Join(left, "; "))
}
