// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsOfAPage(t *testing.T) {
	page := "# A page\n\n```sh\nnot run\n```\n\n<!-- run -->\n```sh\ncat <<EOF\n```not a fence\nEOF\n```\n\n" +
		"<!-- run -->\n```console\n$ echo a\na\n$ true\n$ seq 3\n1\n…\n```\n"
	want := []command{
		{text: "cat <<EOF\n```not a fence\nEOF\n"}, {text: "echo a\n", want: []string{"a"}}, {text: "true\n"},
		{text: "seq 3\n", want: []string{"1", "…"}},
	}
	if diff := cmp.Diff(want, commandsOf(page), cmp.AllowUnexported(command{})); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestAnswersAreCompared(t *testing.T) {
	tests := map[string]struct {
		want   []string
		answer string
		ok     bool
	}{
		"nothing is shown":                   {answer: "a\n", ok: true},
		"the lines are there":                {want: []string{"a", "b"}, answer: "a\nb\n", ok: true},
		"columns are wider than on the page": {want: []string{"a  b"}, answer: "  a      b \n", ok: true},
		"more lines are between":             {want: []string{"a", "b"}, answer: "0\na\n1\nb\n2\n", ok: true},
		"an ellipsis stands for anything":    {want: []string{"until … (in …)"}, answer: "until 12:00 (in 3m)\n", ok: true},
		"a line is missing":                  {want: []string{"a", "b"}, answer: "a\n"},
		"the order differs":                  {want: []string{"a", "b"}, answer: "b\na\n"},
		"a line goes on":                     {want: []string{"a"}, answer: "a b\n"},
		"a dot is a dot":                     {want: []string{"a.b"}, answer: "axb\n"},
		"one line does not count twice":      {want: []string{"a", "a"}, answer: "a\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := command{want: tc.want}.compare(tc.answer)
			if (err == nil) != tc.ok {
				t.Errorf("got %v, want an error: %t", err, !tc.ok)
			}
		})
	}
}

func TestTutorialIsFollowedInOneShell(t *testing.T) {
	tests := map[string]struct {
		commands []command
		wantDone int
		wantErr  string
	}{
		"a variable is known to later commands": {
			commands: []command{{text: "A=1\n"}, {text: "echo $A\n", want: []string{"1"}}}, wantDone: 2,
		},
		"a document is given to a command": {
			commands: []command{{text: "cat <<EOF\na\nEOF\n", want: []string{"a"}}}, wantDone: 1,
		},
		"a command in the background ends with the shell": {
			commands: []command{{text: "sleep 600 | cat &\n"}, {text: "true\n"}}, wantDone: 2,
		},
		"a command fails": {
			commands: []command{{text: "true\n"}, {text: "echo because; false\n"}, {text: "true\n"}}, wantDone: 1, wantErr: "because",
		},
		"the last command fails":         {commands: []command{{text: "false\n"}}, wantErr: "exit status 1"},
		"a part of a pipe fails":         {commands: []command{{text: "false | true\n"}, {text: "true\n"}}, wantErr: "exit status 1"},
		"a variable does not exist":      {commands: []command{{text: "echo $NOT_THERE\n"}}, wantErr: "NOT_THERE"},
		"a command says something else":  {commands: []command{{text: "echo b\n", want: []string{"a"}}}, wantErr: "another answer"},
		"an error is shown on the page":  {commands: []command{{text: "echo a >&2 || true\n", want: []string{"a"}}}, wantDone: 1},
		"a failure is shown on the page": {commands: []command{{text: "false || echo $?\n", want: []string{"1"}}}, wantDone: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done, err := follow(ctx, t.TempDir(), tc.commands)
			if done != tc.wantDone {
				t.Errorf("%d commands were done, want %d", done, tc.wantDone)
			}
			switch {
			case tc.wantErr == "" && err != nil:
				t.Error(err)
			case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
				t.Errorf("got the error %v, want one with %q", err, tc.wantErr)
			}
		})
	}
}

func TestTutorialEndsInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done, err := follow(ctx, t.TempDir(), []command{{text: "true\n"}, {text: "exec sleep 600\n"}})
	if done != 1 || err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("%d commands were done: %v", done, err)
	}
}

// TestTutorialIsRun requires that the demo runs every block with commands on the page,
// except the one that starts the demo.
func TestTutorialIsRun(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", tutorialPage))
	if err != nil {
		t.Fatal(err)
	}
	rest := runBlock.ReplaceAllString(string(page), "")
	var others []string
	for _, m := range regexp.MustCompile("(?ms)^```(?:sh|console)\n(.*?)^```$").FindAllStringSubmatch(rest, -1) {
		others = append(others, m[1])
	}
	if diff := cmp.Diff([]string{"make demo KEEP=1\n"}, others); diff != "" {
		t.Errorf("blocks that are not run (-want +got):\n%s", diff)
	}
	commands, answers := commandsOf(string(page)), 0
	for _, c := range commands {
		answers += len(c.want)
	}
	if len(commands) < 20 || answers < 25 || !strings.Contains(commands[0].text, environmentPath) {
		t.Errorf("%d commands with %d lines of answers, the first is %q", len(commands), answers, commands[0].text)
	}
}
