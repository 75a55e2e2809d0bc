// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// prompts are the commands of a block of console: what follows a dollar sign, up to the first line
// that does not continue it.
var prompts = regexp.MustCompile(`(?m)^\$ ((?:.*\\\n)*.*)$`)

// shellOf returns the shell commands that a page shows.
func shellOf(text string) (all []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		switch m[2] {
		case "sh":
			all = append(all, m[3])
		case "", "console":
			for _, p := range prompts.FindAllStringSubmatch(m[3], -1) {
				all = append(all, p[1])
			}
		}
	}
	return all
}

// TestShellCommandsParse lets bash read every command that the pages show, without running it:
// nothing here could run all of them.
func TestShellCommandsParse(t *testing.T) {
	count := 0
	for _, p := range pages(t) {
		for _, command := range shellOf(p.text) {
			count++
			bash := exec.CommandContext(t.Context(), "bash", "-n")
			bash.Stdin = strings.NewReader(command + "\n")
			// An open here-document is only a warning to bash.
			if out, err := bash.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: bash does not read\n%s\n%s", p.path, command, out)
			}
		}
	}
	if count < 100 {
		t.Errorf("the pages show %d commands only", count)
	}
}
