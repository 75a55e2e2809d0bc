// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// measured are the suite's figures: one flat object whose names contain units.
type measured struct {
	mu     sync.Mutex
	names  []string // in their order
	values map[string]any

	samples map[string][]time.Duration
}

func newFigures() *measured {
	m := &measured{values: map[string]any{}, samples: map[string][]time.Duration{}}
	m.set("ok", false)
	m.set("go_version", runtime.Version())
	m.set("cpus", runtime.NumCPU())
	return m
}

func (m *measured) set(name string, value any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f, ok := value.(float64); ok {
		value = math.Round(f*1e4) / 1e4
	}
	if _, ok := m.values[name]; !ok {
		m.names = append(m.names, name)
	}
	m.values[name] = value
}

// spread records the number of values, p50, p99 and the largest, in seconds, and
// writes all of them to a file.
func (m *measured) spread(name string, all []time.Duration) {
	m.set(name+"_count", len(all))
	if len(all) == 0 {
		return
	}
	m.mu.Lock()
	m.samples[name] = all
	m.mu.Unlock()
	for suffix, q := range map[string]float64{"p50": 0.5, "p99": 0.99, "max": 1} {
		m.set(name+"_"+suffix+"_seconds", quantile(all, q).Seconds())
	}
}

// quantile returns the smallest value that a share q of them does not exceed.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, max(0, int(math.Ceil(q*float64(len(sorted))))-1))]
}

// write writes e2e.json, and e2e.txt for people.
func (m *measured) write(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	content, err := json.MarshalIndent(m.values, "", "  ")
	if err != nil {
		return err
	}
	var table strings.Builder
	for _, name := range m.names {
		fmt.Fprintf(&table, "  %-46s %v\n", name, m.values[name])
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "e2e.txt"), []byte(table.String()), 0o644); err != nil {
		return err
	}
	for name, all := range m.samples {
		var lines strings.Builder
		for _, d := range all {
			fmt.Fprintf(&lines, "%.4f\n", d.Seconds())
		}
		if err := os.WriteFile(filepath.Join(dir, "e2e", name+"_seconds.txt"), []byte(lines.String()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "e2e.json"), append(content, '\n'), 0o644)
}
