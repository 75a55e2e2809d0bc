// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a process that was started here; no other kind is ever ended.
type Process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer // nil, or closing it ends the process
	Stdout io.Reader // nil, or what it prints
	ended  chan struct{}
	err    error // how it ended; valid after ended is closed
}

// Start starts a command in a process group of its own, so that Ctrl-C reaches
// only its parent, which then stops its processes in order. Standard error goes
// to stderr, and so does standard output unless it is piped.
func Start(name string, stderr *os.File, piped bool, path string, args ...string) (*Process, error) {
	p := &Process{name: name, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr, p.cmd.Stdout = stderr, stderr
	var ours []io.Closer
	if piped {
		stdin, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		// Not StdoutPipe: Wait closes that before everything is read.
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.stdin, p.Stdout, p.cmd.Stdout = stdin, reader, writer
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

// StartSelf starts this program again in another role.
func StartSelf(role string, args ...string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return Start(role, os.Stderr, true, self, append([]string{role}, args...)...)
}

// Name returns the name under which the process was started.
func (p *Process) Name() string { return p.name }

// PID returns the process's ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running returns an error once the process has ended.
func (p *Process) Running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("the process %s (pid %d) has ended too early (%v)", p.name, p.PID(), p.cmd.ProcessState)
	default:
		return nil
	}
}

// Wait waits until the process ends by itself, and returns how it ended.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Stop asks the process to end, by closing its input or by SIGTERM, and kills it
// if it does not.
func (p *Process) Stop() error {
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
	return fmt.Errorf("the process %s (pid %d) had to be killed", p.name, p.PID())
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

// LastLines returns the last lines of a file.
func LastLines(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Kill ends the process at once, as a crash would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}
