// SPDX-License-Identifier: Apache-2.0

// Package alerts holds the tests of the alerts in config/components/alerts: Prometheus' own
// rule engine evaluates them on series as the operator publishes them. It is a module of its
// own, so that the operator does not depend on Prometheus.
package alerts

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

// step is how often Prometheus scrapes and evaluates.
const step = 30 * time.Second

// story is what Prometheus sees, and which alerts of one name fire.
type story struct {
	series  []string // in the notation of promtool, a value for each step
	moments []moment
}

// moment is when to look, and the labels that tell the firing alerts apart.
type moment struct {
	at     time.Duration
	firing []string
}

// extract writes the groups of the PrometheusRule into a file, as Prometheus reads them.
func extract(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../config/components/alerts/prometheus_rule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rule struct {
		Spec map[string]any `json:"spec"`
	}
	if err := yaml.Unmarshal(content, &rule); err != nil {
		t.Fatal(err)
	}
	groups, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, groups, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load returns the group of the alerts over some series.
func load(t *testing.T, file string, series []string) *rules.Group {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load "+step.String()+"\n  "+strings.Join(series, "\n  "))
	t.Cleanup(func() { _ = storage.Close() })
	engine := promqltest.NewTestEngine(t, false, 0, 1e6)
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), AppendableV2: storage, Context: t.Context(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: promslog.NewNopLogger(), Parser: parser.NewParser(parser.Options{}),
	})
	groups, errs := m.LoadGroups(step, labels.EmptyLabels(), "", nil, false, file)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, g := range groups {
		return g
	}
	t.Fatal("there is no group")
	return nil
}

// find returns the rule of an alert.
func find(t *testing.T, g *rules.Group, name string) *rules.AlertingRule {
	t.Helper()
	for _, r := range g.AlertingRules() {
		if r.Name() == name {
			return r
		}
	}
	t.Fatalf("there is no alert %s", name)
	return nil
}

// firing returns the labels of the firing alerts without name and severity, and checks what
// they say.
func firing(t *testing.T, r *rules.AlertingRule) []string {
	t.Helper()
	found := []string{}
	for _, a := range r.ActiveAlerts() {
		if a.State != rules.StateFiring {
			continue
		}
		found = append(found, labels.NewBuilder(a.Labels).Del("alertname", "severity").Labels().String())
		for _, name := range []string{"summary", "description", "runbook_url"} {
			if text := a.Annotations.Get(name); text == "" || strings.Contains(text, "<") || strings.Contains(text, "  ") || strings.Contains(text, "()") {
				t.Errorf("the annotation %s is %q", name, text)
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestAlerts(t *testing.T) {
	file := extract(t)
	for alert, of := range cases {
		for name, s := range of {
			t.Run(alert+"/"+name, func(t *testing.T) {
				g := load(t, file, s.series)
				r, now := find(t, g, alert), time.Unix(0, 0).UTC()
				for _, m := range s.moments {
					for ; !now.After(time.Unix(0, 0).Add(m.at)); now = now.Add(step) {
						g.Eval(t.Context(), now)
						if err := r.LastError(); err != nil {
							t.Fatal(err)
						}
					}
					if got := firing(t, r); !slices.Equal(got, m.firing) && len(got)+len(m.firing) > 0 {
						t.Errorf("after %s fire %v, want %v", m.at, got, m.firing)
					}
				}
			})
		}
	}
}

// TestEveryAlertHasItsCases: one in which it fires and resolves, and one in which it never
// fires.
func TestEveryAlertHasItsCases(t *testing.T) {
	var names []string
	for _, r := range load(t, extract(t), []string{"up 1"}).AlertingRules() {
		names = append(names, r.Name())
		var silent, fires, resolves bool
		for _, s := range cases[r.Name()] {
			fired := false
			for _, m := range s.moments {
				resolves = resolves || fired && len(m.firing) == 0
				fired = fired || len(m.firing) > 0
			}
			fires, silent = fires || fired, silent || !fired && len(s.moments) > 0
		}
		if !silent || !fires || !resolves {
			t.Errorf("%s has a case in which it stays silent: %t, fires: %t, resolves: %t", r.Name(), silent, fires, resolves)
		}
	}
	slices.Sort(names)
	if tested := slices.Sorted(maps.Keys(cases)); !slices.Equal(names, tested) {
		t.Errorf("the alerts are %v, the cases are of %v", names, tested)
	}
}
