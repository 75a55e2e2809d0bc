// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const alertsFile = "config/components/alerts/prometheus_rule.yaml"

// alert is a rule of the PrometheusRule.
type alert struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var rule struct {
		Spec struct {
			Groups []struct {
				Rules []alert `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(read(t, filepath.Join(root, alertsFile))), &rule); err != nil {
		t.Fatal(err)
	}
	for _, g := range rule.Spec.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no alerts", alertsFile)
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\bm2m_\w+`)
	selector   = regexp.MustCompile(`(\w+)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
)

// TestAlertsUseMetricsThatExist: a rule over a metric or a label that nobody publishes never
// fires, and nobody notices.
func TestAlertsUseMetricsThatExist(t *testing.T) {
	existing := registered()
	for _, a := range alerts(t) {
		names := metricName.FindAllString(a.Expr, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric of the operator", a.Alert)
		}
		for _, name := range names {
			if _, ok := existing[name]; !ok {
				t.Errorf("%s asks for %s, which the operator does not publish", a.Alert, name)
			}
		}
		for _, s := range selector.FindAllStringSubmatch(a.Expr, -1) {
			labels := strings.Split(existing[s[1]][0], ",")
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("%s asks for the label %s of %s, which has %v", a.Alert, m[1], s[1], labels)
				}
			}
		}
	}
}

// TestAlertsHaveRunbooks: every alert leads to a page that says what to do, and every page is
// that of an alert.
func TestAlertsHaveRunbooks(t *testing.T) {
	const dir = "docs/runbooks"
	var names, documented []string
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		if want := "https://github.com/m2m-operator/m2m-operator/blob/main/" + dir + "/" + a.Alert + ".md"; a.Annotations["runbook_url"] != want {
			t.Errorf("the runbook of %s is at %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if s := a.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("the severity of %s is %q", a.Alert, s)
		}
	}
	files, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".md")
		if !ok || name == "README" {
			continue
		}
		documented = append(documented, name)
		text := read(t, filepath.Join(root, dir, f.Name()))
		for _, part := range []string{"# " + name + "\n", "\n## What you see\n", "\n## Why\n", "\n## What to type\n", "\n```sh\n", "\n## When it is over\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("the runbook of %s lacks %q", name, part)
			}
		}
	}
	sameSet(t, "alert", documented, names)
}

// TestAlertsAreListed compares the table of alerts with the rules.
func TestAlertsAreListed(t *testing.T) {
	var names, documented []string
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| \\[`(M2M\\w+)`\\]\\(runbooks/\\w+\\.md\\) \\| (.*?) \\| (.*?) \\|").FindAllStringSubmatch(read(t, filepath.Join(root, operationsPage)), -1) {
		documented = append(documented, m[1])
		rows[m[1]] = m[2] + ", " + m[3]
	}
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		after := "at once"
		if minutes, ok := strings.CutSuffix(a.For, "m"); ok {
			after = minutes + " min"
		}
		if want := a.Labels["severity"] + ", " + after; rows[a.Alert] != want {
			t.Errorf("the page says of %s %q, the rule %q", a.Alert, rows[a.Alert], want)
		}
	}
	sameSet(t, "alert", documented, names)
}
