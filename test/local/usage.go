// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of times in /proc: Linux reports 100 per second to all
// programs.
const userHz = 100

// Usage holds the kernel's figures of a process.
type Usage struct {
	CPU            time.Duration // user and system, since its start
	Resident, Peak float64       // MiB
}

// UsageOf asks the kernel about a process.
func UsageOf(pid int) (u Usage, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may contain spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("process %d: %q is no stat line", pid, stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	u.CPU = time.Duration(user+system) * time.Second / userHz
	status, err3 := os.ReadFile(filepath.Join(dir, "status"))
	u.Resident, u.Peak = sizeIn(string(status), "VmRSS"), sizeIn(string(status), "VmHWM")
	return u, errors.Join(err1, err2, err3)
}

// sizeIn returns a size of /proc/PID/status in MiB.
func sizeIn(status, name string) float64 {
	_, rest, _ := strings.Cut(status, name+":")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, _ := strconv.ParseFloat(value, 64)
	return kib / 1024
}
