// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const dashboardFile = "config/components/dashboard/dashboard.json"

// panel is what the tests read of a panel, or of a row.
type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Links []struct {
		Title string `json:"title"`
		URL   string `json:"url"`
	} `json:"links"`
	Targets []struct {
		Expr       string            `json:"expr"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

// dashboard returns the panels, and the queries by which Grafana fills its variables.
func dashboard(t *testing.T) (panels []panel, variables []string) {
	t.Helper()
	var d struct {
		Templating struct {
			List []struct {
				Type       string `json:"type"`
				Definition string `json:"definition"`
			} `json:"list"`
		} `json:"templating"`
		Panels []panel `json:"panels"`
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(root, dashboardFile))), &d); err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			variables = append(variables, v.Definition)
		}
	}
	if len(d.Panels) == 0 || len(variables) == 0 {
		t.Fatalf("%s has %d panels and %d variables", dashboardFile, len(d.Panels), len(variables))
	}
	return d.Panels, variables
}

// TestDashboardUsesMetricsThatExist: a query over a metric or a label that nobody publishes
// shows nothing, which looks like good news.
func TestDashboardUsesMetricsThatExist(t *testing.T) {
	ofTarget := []string{"job", "instance"} // Prometheus adds these
	existing := registered()
	shown := map[string]bool{}
	panels, queries := dashboard(t)
	for i := range panels {
		for _, target := range panels[i].Targets {
			queries = append(queries, target.Expr)
		}
	}
	for _, query := range queries {
		for _, found := range metricName.FindAllString(query, -1) {
			name := strings.TrimSuffix(found, "_bucket")
			shown[name] = true
			if _, ok := existing[name]; !ok {
				t.Errorf("%s: the operator does not publish %s", query, name)
			}
		}
		for _, s := range selector.FindAllStringSubmatch(query, -1) {
			name := strings.TrimSuffix(s[1], "_bucket")
			if !strings.HasPrefix(name, "m2m_") {
				continue
			}
			labels := slices.Concat(ofTarget, strings.Split(existing[name][0], ","))
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("%s: %s has the labels %v, not %s", query, name, labels, m[1])
				}
			}
		}
	}
	for name := range existing {
		if !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestPanelsExplainThemselves: each says what it shows and in which unit, is for the chosen
// data source and operator, and links to runbooks that exist. Each runbook is linked.
func TestPanelsExplainThemselves(t *testing.T) {
	var names []string
	linked := map[string]bool{}
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
	}
	panels, _ := dashboard(t)
	for i := range panels {
		p := &panels[i]
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || !strings.HasSuffix(p.Description, ".") || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q has the description %q, the unit %q and %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource["uid"] != "${datasource}" || !strings.Contains(target.Expr, `job=~"$job"`) {
				t.Errorf("panel %q does not ask the chosen data source for the chosen operator: %s", p.Title, target.Expr)
			}
		}
		for _, l := range p.Links {
			linked[l.Title] = true
			if l.URL != "https://github.com/m2m-operator/m2m-operator/blob/main/docs/runbooks/"+l.Title+".md" {
				t.Errorf("panel %q links %s to %s", p.Title, l.Title, l.URL)
			}
		}
	}
	var titles []string
	for title := range linked {
		titles = append(titles, title)
	}
	sameSet(t, "runbook", titles, names)
}

// TestPanelsDoNotOverlap: each has a number of its own and a place of its own.
func TestPanelsDoNotOverlap(t *testing.T) {
	ids := map[int]string{}
	places := map[[2]int]string{}
	panels, _ := dashboard(t)
	for i := range panels {
		p := &panels[i]
		if other, taken := ids[p.ID]; taken {
			t.Errorf("%q and %q have the number %d", other, p.Title, p.ID)
		}
		ids[p.ID] = p.Title
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%q lies outside of the 24 columns: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := places[[2]int{x, y}]; taken {
					t.Fatalf("%q lies upon %q", p.Title, other)
				}
				places[[2]int{x, y}] = p.Title
			}
		}
	}
}
