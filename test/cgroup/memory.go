// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is a cgroup that limits the memory of all its processes together: the
// kernel kills one of them rather than exceed the limit.
type Memory struct{ dir string }

// LimitMemory makes a cgroup with a limit below this process's own, of version 1
// or 2. It needs root, and a machine that permits it.
func LimitMemory(name string, bytes int64) (*Memory, error) {
	memberships, mounts, err := ofThisProcess()
	if err != nil {
		return nil, err
	}
	own, file := "", "memory.limit_in_bytes"
	for _, h := range parse(memberships, mounts) {
		if h.Has("memory") {
			own = h.Own
		}
	}
	if own == "" {
		file = "memory.max"
		if own, err = unified(memberships, mounts); err != nil {
			return nil, err
		}
	}
	m := &Memory{dir: filepath.Join(own, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, file), []byte(strconv.FormatInt(bytes, 10)), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("limit a cgroup's memory: %w", err), m.Remove())
	}
	return m, nil
}

// unified returns this process's cgroup of version 2, with memory switched on for
// the cgroups below it.
func unified(memberships, mounts string) (string, error) {
	for line := range strings.Lines(memberships) {
		membership, isUnified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !isUnified {
			continue
		}
		_, own, ok := mounted(mounts, membership, func(kind, _ string) bool { return kind == "cgroup2" })
		if !ok {
			break
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
			return "", fmt.Errorf("switch on the memory controller: %w", err)
		}
		return own, nil
	}
	return "", errors.New("this machine has no cgroups with a memory controller")
}

// Command returns a command that runs another one in the cgroup. The process ID
// stays the same, and the limit holds from the first page on.
func (m *Memory) Command() []string {
	return []string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(m.dir, "cgroup.procs")}
}

// Remove removes the cgroup. Its processes must have ended.
func (m *Memory) Remove() error { return os.Remove(m.dir) }
