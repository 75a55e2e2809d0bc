// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// provisionReport is provision.json.
type provisionReport struct {
	Run     string         `json:"run"`
	Date    string         `json:"date"`
	OK      bool           `json:"ok"`
	Seconds float64        `json:"seconds"`
	Seed    uint64         `json:"seed"` // seed of the times at which operators are killed
	Servers []serverReport `json:"servers"`
	Checks  []checkReport  `json:"checks"`

	mu    sync.Mutex
	begun time.Time
}

type serverReport struct {
	Server string `json:"server"`
	What   string `json:"what"` // "named by the environment" or the stand-in
	Issuer string `json:"issuer,omitempty"`
	// Left are objects that the scenarios should have deleted through the operator, but
	// that were found at the server by the run's ID.
	Left []string `json:"left"`
}

type checkReport struct {
	Server  string             `json:"server"`
	Name    string             `json:"name"`
	OK      bool               `json:"ok"`
	Seconds float64            `json:"seconds"`
	Figures map[string]float64 `json:"figures,omitempty"`
}

var report = &provisionReport{Run: runID, OK: true, begun: time.Now()}

func (r *provisionReport) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.OK = r.OK && err == nil
}

func (r *provisionReport) addServer(s *subject) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Servers = append(r.Servers, serverReport{Server: s.name, What: s.what, Issuer: s.issuer, Left: []string{}})
}

func (r *provisionReport) addLeft(server string, left []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.Servers {
		if r.Servers[i].Server == server {
			r.Servers[i].Left = append(r.Servers[i].Left, left...)
		}
	}
	r.OK = r.OK && len(left) == 0
}

func (r *provisionReport) addCheck(c checkReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Checks = append(r.Checks, c)
	r.OK = r.OK && c.OK
}

// write writes provision.json to a folder, and prints it for people. An empty name writes nothing.
func (r *provisionReport) write(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if dir == "" {
		return nil
	}
	r.Date, r.Seconds, r.Seed = r.begun.UTC().Format(time.RFC3339), inSeconds(time.Since(r.begun)), seed
	slices.SortStableFunc(r.Checks, func(a, b checkReport) int {
		return strings.Compare(a.Server+"\x00"+a.Name, b.Server+"\x00"+b.Name)
	})
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := theSecrets.findIn("the report", string(encoded)); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "provision.json"), append(encoded, '\n'), 0o644)
}

func inSeconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
