// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/test/local"
)

// usage is the kernel's figures of a process.
type usage struct {
	cpu            time.Duration // user and system, since its start
	resident, peak float64       // MiB
}

func usageOf(pid int) (usage, error) {
	u, err := local.UsageOf(pid)
	return usage{cpu: u.CPU, resident: u.Resident, peak: u.Peak}, err
}

// childNamed returns the child of this process that has this name.
func childNamed(name string) (pid int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		before, after, _ := strings.Cut(string(stat), " (")
		comm, rest, _ := strings.Cut(after, ") ")
		fields := strings.Fields(rest)
		if comm == name && len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			return strconv.Atoi(before)
		}
	}
	return 0, fmt.Errorf("no child process is named %q", name)
}
