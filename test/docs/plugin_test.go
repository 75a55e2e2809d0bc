// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
)

// TestCommandsAreListed compares the table of docs/kubectl-m2m.md, and the changelog's list, with the plugin's commands.
func TestCommandsAreListed(t *testing.T) {
	want := map[string]string{}
	var walk func(parent string, c *cobra.Command)
	walk = func(parent string, c *cobra.Command) {
		for _, sub := range c.Commands() {
			name := strings.TrimSpace(parent + " " + sub.Name())
			want[name] = sub.Short
			walk(name, sub)
		}
	}
	walk("", command.New(genericiooptions.NewTestIOStreamsDiscard(), time.Now))

	_, table, _ := strings.Cut(read(t, filepath.Join(root, "docs", "kubectl-m2m.md")), "| command | what it does |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	got := map[string]string{}
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "| "), " | ")
		name, anchor, ok := strings.Cut(strings.TrimPrefix(cells[0], "[`"), "`](#")
		if len(cells) != 2 || !ok || anchor != strings.ReplaceAll(name, " ", "-")+")" {
			t.Errorf("this row does not name a command and lead to its section: %s", row)
			continue
		}
		got[name] = cells[1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/kubectl-m2m.md (-the plugin +the page):\n%s", diff)
	}
	changelog := read(t, filepath.Join(root, "CHANGELOG.md"))
	for name := range want {
		if !strings.Contains(name, " ") && !strings.Contains(changelog, "`"+name+"`") {
			t.Errorf("the changelog does not mention %s", name)
		}
	}
}
