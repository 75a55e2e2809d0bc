// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	shellBlock  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	placeholder = regexp.MustCompile(`\b(API-NAMESPACE|NAMESPACE|NAME|API|SHARD)\b`)
	// beyond are the commands that need a node or an editor.
	beyond = regexp.MustCompile(`^kubectl .*\b(run|logs|edit)\b`)
)

// TestRunbookCommands types every command of the runbooks: at night nobody should have to
// correct one.
func TestRunbookCommands(t *testing.T) {
	const namespace, name = "runbooks", "cart"
	made := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "m2m-operator", Namespace: operatorNamespace}},
	}
	for _, kind := range []string{"AuthorizationServer", "APIResource", "M2MClient"} {
		made = append(made, patched(t, valid[kind], `{metadata: {name: `+name+`, namespace: `+namespace+`}}`))
	}
	for _, o := range made {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, environment.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}

	tried := map[string]bool{}
	for _, p := range pages(t) {
		if !strings.HasPrefix(p.path, "docs/runbooks/") {
			continue
		}
		for _, block := range shellBlock.FindAllStringSubmatch(p.text, -1) {
			for command := range strings.Lines(block[1]) {
				command = strings.TrimSpace(command)
				if tried[command] || beyond.MatchString(command) {
					continue
				}
				tried[command] = true
				filled := placeholder.ReplaceAllStringFunc(command, func(s string) string {
					if strings.HasSuffix(s, "NAMESPACE") {
						return namespace
					}
					return name
				})
				shell := exec.CommandContext(t.Context(), "bash", "-c", "set -o pipefail; "+filled)
				shell.Env = append(os.Environ(), "KUBECONFIG="+config, "PATH="+os.Getenv("KUBEBUILDER_ASSETS")+":"+os.Getenv("PATH"))
				if out, err := shell.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", p.path, filled, err, out)
				}
			}
		}
	}
	if len(tried) < 15 {
		t.Errorf("there are only %d commands", len(tried))
	}
}

// TestPagesNameMetricsThatExist: what a page tells to watch or to ask for is published.
func TestPagesNameMetricsThatExist(t *testing.T) {
	existing, found := registered(), 0
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, p := range pages(t) {
		if p.path == "docs/verification.md" {
			continue // its examples have variables with such names
		}
		for _, name := range metricName.FindAllString(p.text, -1) {
			found++
			_, plain := existing[name]
			_, part := existing[suffix.ReplaceAllString(name, "")]
			if !plain && !part {
				t.Errorf("%s names the metric %s, which the operator does not publish", p.path, name)
			}
		}
	}
	if found < 30 {
		t.Errorf("the pages name only %d metrics", found)
	}
}
