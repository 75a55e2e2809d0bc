// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/paymenttest"
)

// process is a process that the demo started, and the only kind it ever ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer // nil, or what the process ends with
	stdout io.Reader
	ended  chan struct{}
	err    error // of its end, after ended
}

// start starts a command in a process group of its own, so that Ctrl-C reaches
// the demo alone, which then stops its processes in order. Its standard error
// goes to stderr, its standard output too unless piped.
func start(name string, stderr *os.File, piped bool, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr, p.cmd.Stdout = stderr, stderr
	var ours []io.Closer
	if piped {
		stdin, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		// Not StdoutPipe, which Wait closes before all is read.
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.stdin, p.stdout, p.cmd.Stdout = stdin, reader, writer
		ours = append(ours, writer)
	}
	err := p.cmd.Start()
	for _, c := range ours {
		_ = c.Close() // the process has its own
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startSelf starts this program again in another role.
func startSelf(role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(role, os.Stderr, true, self, append([]string{role}, args...)...)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// running returns an error once the process has ended.
func (p *process) running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("the process %s (pid %d) has ended too early (%v)", p.name, p.pid(), p.cmd.ProcessState)
	default:
		return nil
	}
}

// stop asks the process to end, by the end of its input or by SIGTERM, and kills
// it where it does not.
func (p *process) stop() error {
	if p.stdin != nil {
		_ = p.stdin.Close()
	} else {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(10 * time.Second):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("the process %s (pid %d) had to be killed", p.name, p.pid())
}

// calls counts what cart processes report.
type calls struct {
	total, failed atomic.Int64
	failures      chan paymenttest.Call // the first few failed calls
}

func newCalls() *calls { return &calls{failures: make(chan paymenttest.Call, 3)} }

// read counts the calls that a cart process reports, until it ends, and returns
// the last one.
func (c *calls) read(report io.Reader) (last paymenttest.Call) {
	lines := bufio.NewScanner(report)
	for lines.Scan() {
		last = paymenttest.Call{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			last = paymenttest.Call{Result: "a report that is not JSON"}
		}
		c.total.Add(1)
		if last.Status != 200 {
			c.failed.Add(1)
			select {
			case c.failures <- last:
			default:
			}
		}
	}
	return last
}

// check returns an error if a call has failed, with the first of them.
func (c *calls) check() error {
	n := c.failed.Load()
	if n == 0 {
		return nil
	}
	examples := []string{}
	for len(c.failures) > 0 {
		examples = append(examples, (<-c.failures).String())
	}
	return fmt.Errorf("%d of %d calls failed: %s", n, c.total.Load(), strings.Join(examples, "; "))
}

// output runs a command and returns what it printed.
func output(ctx context.Context, stdin []byte, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// lastLines returns the end of a file.
func lastLines(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
