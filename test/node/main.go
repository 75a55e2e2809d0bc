// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Node runs a one-node Kubernetes for tests, without a container engine: real
// kubelet, containerd, scheduler, controller manager, kube-proxy and DNS, in mount,
// network, process and cgroup namespaces of its own, so that it changes nothing on
// the machine and stopping it leaves nothing behind.
//
//	node up -programs DIR[:DIR]   start it (test/node/build.sh prints the directories)
//	node load ARCHIVE...          give its containerd images, as hack/image or docker save writes them
//	node status                   say whether it runs
//	node down                     stop it and remove all but its logs
//
// Everything it writes is in one directory (-dir, out/node): kubeconfig, logs/.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/test/cgroup"
)

func main() {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	dir := flags.String("dir", "out/node", "directory of the node's kubeconfig, logs and data")
	programs := flags.String("programs", "", "directories of the node's programs, separated by colons")
	port := flags.Int("port", 0, "port of 127.0.0.1 for the API server; 0 for any that is free")
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: node up|down|load|status [-dir DIR] …")
		os.Exit(2)
	}
	_ = flags.Parse(os.Args[2:])
	command := os.Args[1]
	if command == "inside" || command == "supervise" {
		os.Exit(within(command, flags.Arg(0)))
	}
	if err := run(command, *dir, *programs, *port, flags.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run(command, dir, programs string, port int, args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: set KUBECONFIG to a cluster of yours instead")
	}
	n, err := open(dir)
	if err != nil {
		return err
	}
	defer n.lock.Close()
	switch command {
	case "up":
		return n.up(strings.Split(programs, ":"), port)
	case "down":
		return n.down()
	case "load":
		return n.load(args)
	case "status":
		pid, err := n.pid()
		if err == nil {
			n.tell(pid)
		}
		return err
	}
	return fmt.Errorf("unknown command %q", command)
}

// A node is what this machine knows of it.
type node struct {
	dir         string // absolute
	cgroup      string // name of its cgroups, unique to this directory's node
	hierarchies []cgroup.Hierarchy
	lock        *os.File
}

// open waits until no other command works on the directory.
func open(dir string) (*node, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	n := &node{dir: dir, cgroup: fmt.Sprintf("m2m-node-%.4x", sha256.Sum256([]byte(dir)))}
	if n.hierarchies, err = cgroup.Hierarchies(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if n.lock, err = os.Create(filepath.Join(dir, ".lock")); err != nil {
		return nil, err
	}
	return n, syscall.Flock(int(n.lock.Fd()), syscall.LOCK_EX)
}

// pid returns the ID of the running node's first process. It is written to a file
// once the node is ready, and trusted only while that process is in the node's
// cgroup.
func (n *node) pid() (int, error) {
	raw, err := os.ReadFile(filepath.Join(n.dir, "pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.New("there is no node: make node-up starts one")
	} else if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(raw))
	if err != nil {
		return 0, err
	}
	for _, cgroup := range findCgroups(n.hierarchies, n.cgroup) {
		if pids, _ := members(cgroup); slices.Contains(pids, pid) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("the node has ended by itself%s", tail(n.dir, "node", 15))
}

func (n *node) tell(pid int) {
	fmt.Printf("The node runs as process %d.\n\n  export KUBECONFIG=%s\n\n", pid, filepath.Join(n.dir, "kubeconfig"))
}

func (n *node) up(programs []string, port int) error {
	if pid, err := n.pid(); err == nil {
		n.tell(pid)
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := n.down(); err != nil { // left by a crash
		return err
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "logs")); err != nil {
		return err
	}
	start := time.Now()
	pid, err := n.start(ctx, programs, port)
	if err != nil {
		return errors.Join(err, n.down())
	}
	fmt.Printf("Ready after %.1f s.\n", time.Since(start).Seconds())
	n.tell(pid)
	return nil
}

// start starts the node and waits until it is ready.
func (n *node) start(ctx context.Context, programs []string, port int) (int, error) {
	for _, dir := range []string{"logs", "programs"} {
		if err := os.MkdirAll(filepath.Join(n.dir, dir), 0o755); err != nil {
			return 0, err
		}
	}
	for _, dir := range programs {
		entries, err := filepath.Glob(filepath.Join(dir, "*"))
		if dir == "" || err != nil || len(entries) == 0 {
			return 0, fmt.Errorf("there are no programs in %q: test/node/build.sh says where they are", dir)
		}
		for _, program := range entries {
			if err := os.Symlink(program, filepath.Join(n.dir, "programs", filepath.Base(program))); err != nil {
				return 0, err
			}
		}
	}
	ca, err := writePKI(filepath.Join(n.dir, "pki"))
	if err != nil {
		return 0, err
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	if err := ca.kubeconfig("admin", "https://"+listener.Addr().String(), filepath.Join(n.dir, "kubeconfig")); err != nil {
		return 0, err
	}
	if err := makeCgroups(n.hierarchies, n.cgroup); err != nil {
		return 0, err
	}
	pid, report, err := n.spawn(listener)
	if err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })()
	raw, err := io.ReadAll(report)
	switch {
	case ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case err != nil:
		return 0, err
	case len(raw) == 0:
		return 0, fmt.Errorf("the node ended before it was ready%s", tail(n.dir, "node", 15))
	case string(raw) != readyWord:
		return 0, errors.New(string(raw))
	}
	return pid, os.WriteFile(filepath.Join(n.dir, "pid"), []byte(strconv.Itoa(pid)), 0o644)
}

// spawn starts the node's first process in its namespaces and cgroups.
func (n *node) spawn(listener *net.TCPListener) (pid int, report *os.File, err error) {
	out, err := os.Create(logFile(n.dir, "node"))
	if err != nil {
		return 0, nil, err
	}
	defer out.Close()
	socket, err := listener.File()
	if err != nil {
		return 0, nil, err
	}
	defer socket.Close()
	report, reportEnd, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer reportEnd.Close()

	cmd := exec.Command("/proc/self/exe", "inside", n.dir)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{socket, reportEnd} // listenerFD, reportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, // Ctrl-C is for this process only, which then stops the node in order
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWCGROUP,
	}
	// A cgroup namespace is rooted where the process is when the namespace is made.
	if err := enter(n.hierarchies, n.cgroup); err != nil {
		return 0, nil, errors.Join(err, enter(n.hierarchies, ""))
	}
	err = errors.Join(cmd.Start(), enter(n.hierarchies, ""))
	if err != nil {
		return 0, nil, fmt.Errorf("start the node's first process: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return cmd.Process.Pid, report, nil
}

// down ends every process of the node, and removes its cgroups and all files but the
// logs. Its mounts and its network go with its processes.
func (n *node) down() error {
	if err := removeCgroups(n.hierarchies, n.cgroup); err != nil {
		return err
	}
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); name != "logs" && name != filepath.Base(n.lock.Name()) {
			if err := os.RemoveAll(filepath.Join(n.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// load imports image archives. It reaches containerd's socket through the file system
// of the node's first process.
func (n *node) load(archives []string) error {
	if len(archives) == 0 {
		return errors.New("usage: node load ARCHIVE")
	}
	pid, err := n.pid()
	if err != nil {
		return err
	}
	for _, archive := range archives {
		cmd := exec.Command("ctr", fmt.Sprintf("--address=/proc/%d/root/run/containerd/containerd.sock", pid),
			"--namespace=k8s.io", "images", "import", archive)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("import %s: %w", archive, err)
		}
	}
	return nil
}
