// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// volume is a directory in which a kubelet mounts a ConfigMap: each file is a link through
// ..data, which is replaced by renaming another link to it.
type volume struct {
	dir      string
	revision int
}

// publish replaces all files at once.
func (v *volume) publish(t *testing.T, files map[string]string) {
	t.Helper()
	v.revision++
	now, former := fmt.Sprintf("..%d", v.revision), fmt.Sprintf("..%d", v.revision-1)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(names ...string) string { return filepath.Join(append([]string{v.dir}, names...)...) }
	must(os.Mkdir(at(now), 0o755))
	for name, content := range files {
		must(os.WriteFile(at(now, name), []byte(strings.ReplaceAll(content, mounted, v.dir)), 0o644))
	}
	must(os.Symlink(now, at("..data_tmp")))
	must(os.Rename(at("..data_tmp"), at("..data")))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if _, err := os.Lstat(at(name)); err != nil {
			must(os.Symlink(filepath.Join("..data", name), at(name)))
		}
	}
	links, err := filepath.Glob(at("*"))
	must(err)
	for _, link := range links {
		if _, err := os.Stat(link); err != nil {
			must(os.Remove(link)) // the file is gone
		}
	}
	must(os.RemoveAll(at(former)))
}

// run starts a program and waits until it listens.
func run(t *testing.T, address string, cmd *exec.Cmd) *os.Process {
	t.Helper()
	var said bytes.Buffer
	program := filepath.Base(cmd.Path)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var result error
	ended := make(chan struct{})
	go func() {
		result = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stubborn := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer stubborn.Stop()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", program, &said)
		}
	})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return cmd.Process
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %v\n%s", program, result, &said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen at %s", program, address)
		}
	}
}
