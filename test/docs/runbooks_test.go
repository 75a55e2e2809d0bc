// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
)

var (
	shellBlock  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	placeholder = regexp.MustCompile(`\b(API-NAMESPACE|NAMESPACE|NAME|API|SHARD)\b`)
	// beyond are the commands that need a node or an editor.
	beyond = regexp.MustCompile(`^kubectl .*\b(run|logs|edit)\b`)
)

// inline is a command in a sentence or table.
var inline = regexp.MustCompile("`(kubectl [^`]+)`")

// commandsOf returns the commands of a page for the night, one a line.
func commandsOf(text string) (all []string) {
	for _, block := range shellBlock.FindAllStringSubmatch(text, -1) {
		all = append(all, slices.Collect(strings.Lines(block[1]))...)
	}
	for _, m := range inline.FindAllStringSubmatch(shellBlock.ReplaceAllString(text, ""), -1) {
		all = append(all, m[1])
	}
	return all
}

// plugin runs a command of kubectl m2m. An answer of no is one. No operator runs here, so
// nothing is waited for.
func plugin(ctx context.Context, kubeconfig, line string) error {
	c := command.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: io.Discard}, time.Now)
	args := append(strings.Fields(strings.TrimPrefix(line, "kubectl m2m ")), "--kubeconfig", kubeconfig)
	if args[0] == "refresh" || args[0] == "rotate" {
		args = append(args, "--timeout", "1ms")
	}
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if code, message := command.Code(err); code == command.CodeFailed || code == command.CodeUsage {
		return fmt.Errorf("exit code %d: %s", code, message)
	}
	return nil
}

// TestRunbookCommands types every command of the runbooks and of the page for the night, when
// nobody should have to correct one.
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
		if !strings.HasPrefix(p.path, "docs/runbooks/") && p.path != "docs/night.md" {
			continue
		}
		for _, command := range commandsOf(p.text) {
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
			if strings.HasPrefix(filled, "kubectl m2m ") {
				if err := plugin(t.Context(), config, filled); err != nil {
					t.Errorf("%s: %s: %v", p.path, filled, err)
				}
				continue
			}
			shell := exec.CommandContext(t.Context(), "bash", "-c", "set -o pipefail; "+filled)
			shell.Env = append(os.Environ(), "KUBECONFIG="+config, "PATH="+os.Getenv("KUBEBUILDER_ASSETS")+":"+os.Getenv("PATH"))
			if out, err := shell.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", p.path, filled, err, out)
			}
		}
	}
	if len(tried) < 25 {
		t.Errorf("there are only %d commands", len(tried))
	}
}

// TestPagesNameMetricsThatExist: what a page tells to watch or to ask for is published.
func TestPagesNameMetricsThatExist(t *testing.T) {
	existing, found := registered(), 0
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, p := range pages(t) {
		if p.path == "docs/verifying/nginx.md" {
			continue // its files have variables with such names
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
