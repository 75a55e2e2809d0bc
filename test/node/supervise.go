// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed config
var config embed.FS

const (
	nodeName    = "node"
	nodeAddress = "172.30.0.1"
	apiServer   = "127.0.0.1:6443"
	readyWord   = "ready"

	stepTimeout = 2 * time.Minute // time limit for each step of the start
)

// A supervisor runs the node's parts. It ends when one of them does, and ends the node with it.
type supervisor struct {
	ended chan error
}

// supervise starts everything, reports that the node is ready, and returns only
// when a part has ended.
func supervise(socket, report *os.File) error {
	listener, err := net.FileListener(socket)
	if err != nil {
		return err
	}
	s := &supervisor{ended: make(chan error, 16)}
	started := make(chan error, 1)
	go func() { started <- s.start() }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case err := <-s.ended:
		return err
	}
	go relay(listener)
	_, _ = io.WriteString(report, readyWord) // nobody may be left to read it
	report.Close()
	log.Print("The node is ready")
	return <-s.ended
}

// start starts the parts in the order of their dependencies.
func (s *supervisor) start() error {
	if err := network(); err != nil {
		return err
	}
	if err := writeConfig(); err != nil {
		return err
	}
	pki, conf := runDir+"/pki/", runDir+"/config/"
	s.run("etcd",
		"--data-dir="+runDir+"/etcd",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380")
	s.run("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+nodeAddress,
		"--client-ca-file="+pki+"ca.crt",
		"--tls-cert-file="+pki+"kube-apiserver.crt", "--tls-private-key-file="+pki+"kube-apiserver.key",
		"--kubelet-certificate-authority="+pki+"ca.crt",
		"--kubelet-client-certificate="+pki+"apiserver-kubelet.crt", "--kubelet-client-key="+pki+"apiserver-kubelet.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki+"service-account.key", "--service-account-signing-key-file="+pki+"service-account.key")
	s.run("containerd", "--config="+conf+"containerd.toml")
	for _, image := range []string{"pause", "coredns"} {
		err := until("containerd", func(ctx context.Context) error {
			return output(ctx, "ctr", "--namespace=k8s.io", "images", "import", runDir+"/programs/"+image+".tar")
		})
		if err != nil {
			return err
		}
	}
	kubectl := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return output(ctx, "kubectl", append([]string{"--kubeconfig=" + pki + "admin.kubeconfig"}, args...)...)
		}
	}
	if err := until("kube-apiserver", kubectl("get", "--raw=/readyz")); err != nil {
		return err
	}
	for _, program := range []string{"kube-controller-manager", "kube-scheduler"} {
		kubeconfig := pki + program + ".kubeconfig"
		args := []string{"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig, "--leader-elect=false"}
		if program == "kube-controller-manager" {
			args = append(args, "--use-service-account-credentials",
				"--root-ca-file="+pki+"ca.crt", "--service-account-private-key-file="+pki+"service-account.key",
				"--cluster-signing-cert-file="+pki+"ca.crt", "--cluster-signing-key-file="+pki+"ca.key")
		}
		s.run(program, args...)
	}
	s.run("kubelet", "--config="+conf+"kubelet.yaml", "--kubeconfig="+pki+"kubelet-client.kubeconfig",
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress)
	s.run("kube-proxy", "--config="+conf+"kube-proxy.yaml")

	if err := until("kubelet", kubectl("wait", "--for=condition=Ready", "--timeout=5s", "node/"+nodeName)); err != nil {
		return err
	}
	if err := until("kube-apiserver", kubectl("apply", "--filename="+conf+"coredns.yaml")); err != nil {
		return err
	}
	// If DNS is ready, pods are created, scheduled and run, and reach the API through its Service.
	return until("kubelet", kubectl("--namespace=kube-system", "rollout", "status", "--timeout=5s", "deployment/coredns"))
}

// run starts a part that must not end, with a log of its own.
func (s *supervisor) run(name string, args ...string) {
	out, err := os.Create(logFile(runDir, name))
	if err != nil {
		s.ended <- err
		return
	}
	log.Printf("Starting %s", name)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	go func() {
		defer out.Close()
		err := cmd.Run()
		if err == nil {
			err = errors.New("exit status 0")
		}
		s.ended <- fmt.Errorf("%s ended: %w%s", name, err, tail(runDir, name, 10))
	}()
}

// until repeats a step until it succeeds. If the time runs out, the error ends with
// the last lines of the log of the part that the step waits for.
func until(part string, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	for {
		err := step(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no success in %s: %w%s", stepTimeout, err, tail(runDir, part, 10))
		}
	}
}

// output runs a command and returns its output only in an error.
func output(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func logFile(dir, part string) string { return filepath.Join(dir, "logs", part+".log") }

// tail returns the last n lines of a part's log, for the end of an error.
func tail(dir, part string, n int) string {
	raw, err := os.ReadFile(logFile(dir, part))
	if err != nil || len(raw) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	lines = lines[max(0, len(lines)-n):]
	return fmt.Sprintf("\nThe last lines of %s.log:\n  %s", part, strings.Join(lines, "\n  "))
}

// network gives the node an address, and a route by which services can be reached.
// The route leads nowhere: nothing in the node can reach the machine or anything
// beyond it.
func network() error {
	for _, args := range []string{
		"link set lo up",
		"link add node0 type veth peer name node1",
		"address add " + nodeAddress + "/24 dev node0",
		"link set node0 up",
		"link set node1 up",
		"route add default via 172.30.0.254",
	} {
		if err := output(context.Background(), "ip", strings.Fields(args)...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

func writeConfig() error {
	return fs.WalkDir(config, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(runDir, path)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		content, err := config.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o644)
	})
}

// relay forwards connections from the machine to the API server: the listener is a
// socket in the machine's network, whichever namespace accepts its connections.
func relay(listener net.Listener) {
	for {
		outside, err := listener.Accept()
		if err != nil {
			log.Printf("Relay: %v", err)
			return
		}
		go func() {
			defer outside.Close()
			inside, err := net.Dial("tcp", apiServer)
			if err != nil {
				log.Printf("Relay: %v", err)
				return
			}
			defer inside.Close()
			done := make(chan struct{}, 2)
			for _, pair := range [][2]net.Conn{{outside, inside}, {inside, outside}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].(*net.TCPConn).CloseWrite()
					done <- struct{}{}
				}()
			}
			<-done
			<-done
		}()
	}
}
