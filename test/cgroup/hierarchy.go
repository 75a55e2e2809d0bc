// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds this process's place in the machine's control groups, and
// makes one that limits memory, as a container's does.
package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Hierarchy is one mount of cgroup v1, and this process's place in it.
type Hierarchy struct {
	Controllers string // "memory", "cpu,cpuacct" or "name=systemd"
	Mount       string // below /sys/fs/cgroup
	Own         string // directory of this process
}

// Hierarchies lists the machine's mounted cgroup v1 hierarchies.
func Hierarchies() ([]Hierarchy, error) {
	memberships, mounts, err := ofThisProcess()
	return parse(memberships, mounts), err
}

// Has reports whether the hierarchy has all of these controllers, separated by
// commas.
func (h Hierarchy) Has(controllers string) bool { return hasAll(h.Controllers, controllers) }

func ofThisProcess() (memberships, mounts string, err error) {
	m, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	c, err := os.ReadFile("/proc/self/cgroup")
	return string(c), string(m), err
}

// parse reads /proc/self/cgroup and /proc/self/mountinfo.
func parse(memberships, mounts string) []Hierarchy {
	var found []Hierarchy
	for line := range strings.Lines(memberships) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // 4:memory:/path
		if len(parts) != 3 || parts[1] == "" {
			continue // of version 2
		}
		mount, own, ok := mounted(mounts, parts[2], func(kind, options string) bool { return kind == "cgroup" && hasAll(options, parts[1]) })
		if ok {
			found = append(found, Hierarchy{Controllers: parts[1], Mount: mount, Own: own})
		}
	}
	return found
}

// mounted finds the first mount of a wanted file system, and the directory that a
// membership means in it.
func mounted(mounts, membership string, wanted func(kind, options string) bool) (mount, own string, ok bool) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(super) < 3 || !wanted(super[0], super[2]) {
			continue
		}
		return fields[4], filepath.Join(fields[4], strings.TrimPrefix(membership, strings.TrimSuffix(fields[3], "/"))), true
	}
	return "", "", false
}

func hasAll(options, wanted string) bool {
	have := strings.Split(options, ",")
	return !slices.ContainsFunc(strings.Split(wanted, ","), func(w string) bool { return !slices.Contains(have, w) })
}
