// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestTheLimitHolds: the kernel kills a process that exceeds its limit. Where no cgroup
// can be made, the error says so; callers then measure memory instead.
func TestTheLimitHolds(t *testing.T) {
	m, err := LimitMemory(fmt.Sprintf("m2m-test-%d", os.Getpid()), 32<<20)
	if err != nil {
		if m != nil || strings.TrimSpace(err.Error()) == "" {
			t.Errorf("a cgroup %v, and the error %q", m, err)
		}
		return
	}
	defer func() {
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
	}()
	for mib, survives := range map[int]bool{4: true, 128: false} {
		// dd keeps a block in memory.
		args := append(m.Command(), "dd", "if=/dev/zero", "of=/dev/null", "count=1", fmt.Sprintf("bs=%dM", mib))
		err := exec.CommandContext(t.Context(), args[0], args[1:]...).Run()
		if (err == nil) != survives {
			t.Errorf("a process that needs %d of 32 MiB ended with %v", mib, err)
		}
	}
}
