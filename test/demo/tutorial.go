// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	tutorialPage = "docs/tutorial.md"
	// environmentPath is the file that the tutorial's readers source.
	environmentPath = outDir + "/demo.env"
	// tutorialPatience bounds the whole tutorial, on a busy machine too.
	tutorialPatience = 6 * time.Minute
)

// command is what the tutorial's readers type, and lines of the answer as the page
// shows them.
type command struct {
	text string
	want []string
}

// runBlock finds the blocks of a page that readers run: the line <!-- run --> is above
// them. A block of sh is one command without an answer. In a block of console each line
// that begins with a dollar sign is a command, and the lines below are its answer.
var runBlock = regexp.MustCompile("(?ms)^<!-- run -->\n```(sh|console)\n(.*?)^```$")

func commandsOf(page string) (all []command) {
	for _, m := range runBlock.FindAllStringSubmatch(page, -1) {
		if m[1] == "sh" {
			all = append(all, command{text: m[2]})
			continue
		}
		for line := range strings.Lines(m[2]) {
			line = strings.TrimSuffix(line, "\n")
			if text, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, command{text: text + "\n"})
			} else if last := len(all) - 1; last >= 0 {
				all[last].want = append(all[last].want, line)
			}
		}
	}
	return all
}

// compare returns an error unless an answer has all lines that the page shows, in their
// order. Other lines may be between them. White space counts as one space, and an
// ellipsis stands for anything.
func (c command) compare(answer string) error {
	lines := strings.Split(answer, "\n")
	for _, want := range c.want {
		pattern := regexp.QuoteMeta(strings.Join(strings.Fields(want), " "))
		shown := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "…", ".*") + "$")
		for len(lines) > 0 && !shown.MatchString(strings.Join(strings.Fields(lines[0]), " ")) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return fmt.Errorf("the page shows the line\n  %s\nand the answer is\n%s", want, answer)
		}
		lines = lines[1:]
	}
	return nil
}

// script is the session of a reader who types all commands into one shell, which ends
// with the first that fails. The answer to each is in a file of the directory that is
// the script's argument. What runs in the background ends with the shell.
func script(commands []command) string {
	var b strings.Builder
	b.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n")
	for i, c := range commands {
		fmt.Fprintf(&b, "{\n%s} >%s 2>&1\n", c.text, answerFile(`"$1"`, i))
	}
	return b.String()
}

func answerFile(dir string, i int) string { return fmt.Sprintf("%s/answer-%02d", dir, i) }

// follow runs commands in one shell, and compares the answers. It returns how many
// commands had been run when it ended.
func follow(ctx context.Context, dir string, commands []command) (done int, err error) {
	path := filepath.Join(dir, "session.sh")
	if err := os.WriteFile(path, []byte(script(commands)), 0o600); err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(dir, "session.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close() // the shell has its own
	shell, err := local.Start("tutorial", log, false, "bash", path, dir)
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- shell.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), shell.Stop())
	}
	for i, c := range commands {
		answer, readErr := os.ReadFile(answerFile(dir, i))
		if readErr != nil {
			return i, errors.Join(err, readErr)
		}
		last := i+1 == len(commands)
		if _, statErr := os.Stat(answerFile(dir, i+1)); err != nil && (last || statErr != nil) {
			return i, fmt.Errorf("the command\n%sfailed: %w:\n%s", c.text, err, answer)
		}
		if err := c.compare(string(answer)); err != nil {
			return i, fmt.Errorf("the command\n%shas another answer: %w", c.text, err)
		}
	}
	return len(commands), nil
}

// writeEnvironment writes the file that makes a shell use the demo's control plane and
// authorization server.
func (d *demo) writeEnvironment() error {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	content := fmt.Sprintf("export KUBECONFIG='%s'\nexport PATH='%s:%s':\"$PATH\"\nexport ISSUER='%s'\nexport INITIAL_ACCESS_TOKEN='%s'\n",
		d.cluster.Kubeconfig, bin, filepath.Dir(d.cluster.KubectlPath), d.server.Issuer(), d.initialToken)
	d.onCleanUp(func() error { return os.Remove(environmentPath) })
	return os.WriteFile(environmentPath, []byte(content), 0o600)
}

// followTutorial does what the tutorial's page says, and checks that nothing is left
// of it at the server.
func (d *demo) followTutorial(ctx context.Context) error {
	page, err := os.ReadFile(tutorialPage)
	if err != nil {
		return err
	}
	if err := d.writeEnvironment(); err != nil {
		return err
	}
	dir := filepath.Join(d.dir, "tutorial")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tutorialPatience)
	defer cancel()
	commands := commandsOf(string(page))
	done, err := follow(ctx, dir, commands)
	d.figures["tutorial_commands"] = done
	if err != nil {
		return fmt.Errorf("%s: %w", tutorialPage, err)
	}
	d.say("all %d commands and blocks of %s ran in one shell, and answered as the page says", done, tutorialPage)
	return d.registeredAre(cartName.Name)
}
