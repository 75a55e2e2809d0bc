// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	// envoyScript prints where Envoy is, and downloads it if it can.
	envoyScript = "hack/envoy.sh"
	// envoyPatience is how long the story waits for a download that began with it.
	envoyPatience = 5 * time.Second
	// envoyExample is the configuration that the documentation shows.
	envoyExample = "docs/examples/envoy/envoy.yaml"
)

// envoySearch is a search for the program envoy. It runs beside the story, because it may
// have to download the program.
type envoySearch struct {
	cancel context.CancelFunc
	ended  chan struct{}
	path   string // valid after ended is closed, as is err
	err    error
}

func findEnvoy(script string) *envoySearch {
	ctx, cancel := context.WithCancel(context.Background())
	s := &envoySearch{cancel: cancel, ended: make(chan struct{})}
	cmd := exec.CommandContext(ctx, "bash", script)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A group of its own: a download ends with the script, and removes what it has of the file.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	go func() {
		defer close(s.ended)
		if s.err = cmd.Run(); s.err != nil {
			s.err = errors.New(lastLine(stderr.String(), s.err.Error()))
		}
		s.path = lastLine(stdout.String(), "")
	}()
	return s
}

// lastLine returns the last line of a text that is not empty.
func lastLine(text, otherwise string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return otherwise
}

// result returns where Envoy is, or why there is none.
func (s *envoySearch) result(ctx context.Context, limit time.Duration) (path string, err error) {
	select {
	case <-s.ended:
		return s.path, s.err
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(limit):
		return "", errors.New("pip is still downloading it")
	}
}

// stop ends the search.
func (s *envoySearch) stop() error {
	s.cancel()
	<-s.ended
	return nil
}

// envoyConfig is the example's configuration, for a bundle in another directory, another
// address to listen at and another API. It returns an error unless the example has all
// that is replaced.
func envoyConfig(example, bundle, entry, listen, api string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	_, apiPort, err := net.SplitHostPort(api)
	if err != nil {
		return "", err
	}
	for _, change := range [][2]string{
		{filepath.Join(filepath.Dir(v1alpha1.TokenDir), "verify", keyName), bundle},
		{"/" + render.FileEnvoyRBAC, "/" + render.EnvoyRBACFile(entry)},
		{"address: 0.0.0.0, port_value: 8080", "address: " + host + ", port_value: " + port},
		{"port_value: 8081", "port_value: " + apiPort},
	} {
		if !strings.Contains(example, change[0]) {
			return "", fmt.Errorf("%s has no %q", envoyExample, change[0])
		}
		example = strings.ReplaceAll(example, change[0], change[1])
	}
	return example, nil
}

// startEnvoy starts Envoy in front of the payment process, with what the payment's pod
// has mounted, and returns its address once it listens.
func (d *demo) startEnvoy(ctx context.Context, path string) (url string, err error) {
	example, err := os.ReadFile(envoyExample)
	if err != nil {
		return "", err
	}
	address, err := ports.FreeAddress()
	if err != nil {
		return "", err
	}
	content, err := envoyConfig(string(example), d.volume("payment", "verify", keyName), gatewayEntry, address, strings.TrimPrefix(d.paymentURL, "http://"))
	if err != nil {
		return "", err
	}
	file, logFile := filepath.Join(d.dir, "envoy.yaml"), filepath.Join(d.dir, "envoy.log")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return "", err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return "", err
	}
	defer log.Close() // the process has its own
	// Without hot restarts it leaves nothing in shared memory.
	p, err := local.Start("envoy", log, false, path, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn")
	if err != nil {
		return "", err
	}
	d.runs(p)
	if err := local.Until(ctx, 20*time.Second, func() error {
		if err := p.Running(); err != nil {
			return err
		}
		c, err := net.Dial("tcp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		return "", fmt.Errorf("start Envoy: %w\n%s", err, local.LastLines(logFile, 10))
	}
	d.say("Envoy started as process %d at http://%s, in front of payment; all it knows is %s and what payment's pod has mounted", p.PID(), address, envoyExample)
	return "http://" + address, nil
}
