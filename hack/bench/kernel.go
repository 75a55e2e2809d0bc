// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of the times in /proc, which Linux has kept at 100 for all
// programs.
const userHz = 100

// usage is what the kernel says of a process.
type usage struct {
	cpu            time.Duration // user and system, since its start
	resident, peak float64       // MiB
}

func usageOf(pid int) (u usage, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may hold spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("process %d: %q is no stat line", pid, stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	u.cpu = time.Duration(user+system) * time.Second / userHz
	status, err3 := os.ReadFile(filepath.Join(dir, "status"))
	u.resident, u.peak = sizeIn(string(status), "VmRSS"), sizeIn(string(status), "VmHWM")
	return u, errors.Join(err1, err2, err3)
}

// sizeIn returns a size of /proc/PID/status in MiB.
func sizeIn(status, name string) float64 {
	_, rest, _ := strings.Cut(status, name+":")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, _ := strconv.ParseFloat(value, 64)
	return kib / 1024
}

// childNamed returns the process of this name that this process started.
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
