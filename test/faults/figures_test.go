// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// figures are what out/faults.json says. All tests of a run share them.
type figures struct {
	mu sync.Mutex
	// Cases is the number of cases by scenario and kind of fault, Failures those that failed.
	Cases    map[string]map[string]int `json:"cases"`
	Failures map[string]map[string]int `json:"failures"`
	Total    int                       `json:"total"`
	Failed   int                       `json:"failed"`
	Seconds  float64                   `json:"seconds"`
	// BusySeconds is how long all cases took, one after the other.
	BusySeconds float64 `json:"busySeconds"`
	Short       bool    `json:"short"`

	start time.Time
}

// shared are the figures of the run.
var shared = sync.OnceValue(func() *figures {
	return &figures{Cases: map[string]map[string]int{}, Failures: map[string]map[string]int{}, Short: os.Getenv("SHORT") != "", start: time.Now()}
})

// newFigures returns the figures of the run, which are written to out/faults.json when the test ends.
func newFigures(t *testing.T) *figures {
	f := shared()
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.Seconds = time.Since(f.start).Seconds()
		b, err := json.MarshalIndent(f, "", "  ")
		if err == nil {
			err = os.MkdirAll("../../out", 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join("../../out", "faults.json"), append(b, '\n'), 0o600)
		}
		if err != nil {
			t.Error(err)
		}
		t.Logf("%d cases, %d failed, %.0f s", f.Total, f.Failed, f.Seconds)
	})
	return f
}

func (f *figures) add(scenario string, fault Fault, failed bool, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := func(of map[string]map[string]int, n int) {
		if of[scenario] == nil {
			of[scenario] = map[string]int{}
		}
		of[scenario][string(fault)] += n
	}
	count(f.Cases, 1)
	f.Total++
	f.BusySeconds += took.Seconds()
	if failed {
		count(f.Failures, 1)
		f.Failed++
	}
}
