// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

const operationsPage = "docs/operations.md"

// TestFlags compares the table of flags with what the program itself says.
func TestFlags(t *testing.T) {
	program := filepath.Join(t.TempDir(), "manager")
	if err := kubetest.BuildOperator(root, program); err != nil {
		t.Fatal(err)
	}
	help := exec.Command(program, "-help")
	help.Env = append(os.Environ(), "POD_NAMESPACE=")
	out, _ := help.CombinedOutput() // with --help, it fails

	type entry struct{ value, usage string }
	existing := map[string]entry{}
	for _, m := range regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?\n((?:    .*\n)+)`).FindAllStringSubmatch(string(out), -1) {
		usage := strings.Join(strings.Fields(m[3]), " ")
		e := entry{value: "", usage: usage}
		if found := regexp.MustCompile(`^(.*) \(default "?([^"]*)"?\)$`).FindStringSubmatch(usage); found != nil {
			e = entry{found[2], found[1]}
		} else if m[2] == "" {
			e.value = "false"
		}
		existing["--"+m[1]] = e
	}
	var documented, flags []string
	for _, r := range rowsOf(t, operationsPage, "## Flags") {
		documented = append(documented, r.id)
		e, ok := existing[r.id]
		if !ok {
			continue
		}
		if code(r.cells[0]) != e.value {
			t.Errorf("the page says of %s that it is %q by default, the program %q", r.id, code(r.cells[0]), e.value)
		}
		ours := !strings.HasPrefix(r.id, "--zap") && r.id != "--kubeconfig"
		if ours && strings.ReplaceAll(r.cells[1], "`", "") != e.usage {
			t.Errorf("the page says of %s\n  %s\nthe program\n  %s", r.id, r.cells[1], e.usage)
		}
	}
	for name := range existing {
		flags = append(flags, name)
	}
	sameSet(t, "flag", documented, flags)
}

// registered returns labels and help of the operator's metrics.
func registered() map[string][2]string {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		metrics.Registry.(prometheus.Collector).Describe(descriptions)
		close(descriptions)
	}()
	pattern := regexp.MustCompile(`^Desc\{fqName: "(m2m_\w+)", help: "(.*?)", .*variableLabels: \{(.*)\}\}$`)
	existing := map[string][2]string{}
	for d := range descriptions {
		if m := pattern.FindStringSubmatch(d.String()); m != nil {
			existing[m[1]] = [2]string{m[3], m[2]}
		}
	}
	return existing
}

// TestMetrics compares the table of metrics with the registry.
func TestMetrics(t *testing.T) {
	existing := registered()
	var documented, names []string
	for _, r := range rowsOf(t, operationsPage, "## Metrics") {
		documented = append(documented, r.id)
		is, ok := existing[r.id]
		if !ok {
			continue
		}
		labels := strings.NewReplacer("`", "", " ", "").Replace(r.cells[0])
		if labels != is[0] || r.cells[1] != is[1] {
			t.Errorf("the page says of %s %q, the registry %q", r.id, []string{labels, r.cells[1]}, is)
		}
	}
	for name := range existing {
		names = append(names, name)
	}
	slices.Sort(names)
	sameSet(t, "metric", documented, names)
}
