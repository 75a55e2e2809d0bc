// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/m2m-operator/m2m-operator/test/cgroup"
)

// What the node's first process inherits from `up`.
const (
	listenerFD = 3 // where the machine reaches the node's API server
	reportFD   = 4 // the result of the start: readyWord, or an error's text
)

// runDir is the node's directory, seen from inside the node.
const runDir = "/run/node"

// within plays a role inside the node's namespaces, and returns only if it fails.
func within(role, dir string) (exitCode int) {
	// Inherited descriptors are not closed on exec by themselves.
	syscall.CloseOnExec(listenerFD)
	syscall.CloseOnExec(reportFD)
	listener, report := os.NewFile(listenerFD, "listener"), os.NewFile(reportFD, "report")
	var err error
	if role == "inside" {
		err = inside(dir, listener, report)
	} else {
		err = supervise(listener, report)
	}
	log.Print(err)
	_, _ = io.WriteString(report, err.Error()) // fails if the start has been reported already
	return 1
}

// inside is the first process in the node's namespaces. It gives the node a view of
// the machine that it cannot change, starts the supervisor, and then reaps the
// processes that containers leave behind. When it ends, the kernel ends every
// process of the node.
func inside(dir string, listener, report *os.File) error {
	if os.Getpid() != 1 {
		return errors.New("this is for the node's own first process: use node up")
	}
	if err := mounts(dir); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(nodeName)); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "supervise")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{listener, report}
	// Nothing of the caller's environment: no proxies, no kubeconfig, no home to write to.
	path := runDir + "/programs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	cmd.Env = []string{"HOME=/run", "PATH=" + path}
	if err := cmd.Start(); err != nil {
		return err
	}
	listener.Close()
	report.Close()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case pid == cmd.Process.Pid:
			return fmt.Errorf("the supervisor ended (status %d)", status.ExitStatus())
		case err != nil && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("wait for the supervisor: %w", err)
		}
	}
}

// mounts makes everything that the node writes to private. The mount namespace
// goes with its last process, and these mounts with it.
func mounts(dir string) error {
	all, err := cgroup.Hierarchies() // while the machine's are still visible
	if err != nil {
		return err
	}
	m := &mounter{}
	m.mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	m.mount("proc", "/proc", "proc", 0, "")
	m.mount("sysfs", "/sys", "sysfs", 0, "")
	m.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755")
	for _, h := range all { // name=systemd too: the kubelet looks for it
		target, options := "/sys/fs/cgroup/"+strings.TrimPrefix(h.Controllers, "name="), h.Controllers
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		m.mkdir(target)
		m.mount("cgroup", target, "cgroup", 0, options)
	}
	m.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	m.mkdir(runDir)
	m.mount(dir, runDir, "", syscall.MS_BIND, "")
	for _, path := range []string{"/var/lib", "/var/log"} {
		upper, work := filepath.Join("/run/overlay", path, "upper"), filepath.Join("/run/overlay", path, "work")
		m.mkdir(upper)
		m.mkdir(work)
		m.mount("overlay", path, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", path, upper, work))
	}
	// On a disk, so that the kubelet finds the device whose free space it watches.
	m.mkdir(runDir + "/kubelet")
	m.mkdir("/var/lib/kubelet")
	m.mount(runDir+"/kubelet", "/var/lib/kubelet", "", syscall.MS_BIND, "")
	// The kubelet would set these for the whole machine, unless they already have the values it
	// wants.
	for path, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		private := filepath.Join("/run/sysctl", path)
		m.mkdir(filepath.Dir(private))
		m.do("write "+private, func() error { return os.WriteFile(private, []byte(value+"\n"), 0o644) })
		m.mount(private, "/proc/sys/"+path, "", syscall.MS_BIND, "")
	}
	return m.err
}

// A mounter mounts until the first error.
type mounter struct{ err error }

func (m *mounter) do(what string, f func() error) {
	if m.err == nil {
		if err := f(); err != nil {
			m.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (m *mounter) mkdir(path string) {
	m.do("mkdir", func() error { return os.MkdirAll(path, 0o755) })
}

func (m *mounter) mount(source, target, kind string, flags uintptr, options string) {
	m.do("mount "+kind+" on "+target, func() error { return syscall.Mount(source, target, kind, flags, options) })
}
