// SPDX-License-Identifier: Apache-2.0

// Package gateways checks tokens at real gateways: Envoy Gateway and istiod on a real API
// server, each with a real Envoy that has its configuration from them, and an Envoy with
// files. make gateways-test brings them and runs this in namespaces of its own; without them
// all tests are skipped.
package gateways

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	root     = "../.."
	outDir   = "out"
	testdata = "test/gateways/testdata"

	// partsVariable has what parts.sh prints.
	partsVariable = "M2M_GATEWAYS"
	// hostAddress is of the namespace's loopback device. inside.sh adds it.
	hostAddress = "192.0.2.1"

	audience   = "https://payment.example.com/api"
	readScope  = "payments:read"
	writeScope = "payments:write"
)

// parts are what is tested.
type parts struct{ envoy, crds, envoyGateway, istiod string }

// cluster is the control plane of all tests, nil without the gateways.
var (
	cluster *local.Cluster
	program parts
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	given := os.Getenv(partsVariable)
	if given == "" {
		return m.Run(), nil
	}
	paths := strings.Split(given, ":")
	if len(paths) != 3 {
		return 1, fmt.Errorf("%s is not what test/gateways/parts.sh prints", partsVariable)
	}
	program = parts{envoy: filepath.Join(paths[0], "envoy"), crds: filepath.Join(paths[0], "crds"), envoyGateway: paths[1], istiod: paths[2]}
	if err := isolated(); err != nil {
		return 1, err
	}
	if err := errors.Join(os.Chdir(root), os.MkdirAll(outDir, 0o755)); err != nil {
		return 1, err
	}
	old, _ := filepath.Glob(logOf("*"))
	for _, log := range old {
		_ = os.Remove(log)
	}
	dir, err := os.MkdirTemp("", "gateways")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	cluster, err = local.StartCluster(dir)
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Stop()) }()
	}
	if err != nil {
		return 1, err
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-f", program.crds}, {"wait", "--for=condition=Established", "--timeout=1m", "crd", "--all"},
	} {
		if _, err := cluster.Kubectl(context.Background(), nil, args...); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// isolated returns an error unless this process is in a network namespace as inside.sh makes
// it: what is started here listens at all addresses.
func isolated() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	if len(interfaces) != 1 || interfaces[0].Flags&net.FlagLoopback == 0 || interfaces[0].Flags&net.FlagUp == 0 {
		return errors.New("the gateways listen at all addresses and need a network namespace of their own: use make gateways-test")
	}
	return nil
}

// needGateways skips a test without the gateways.
func needGateways(t *testing.T) {
	t.Helper()
	if cluster == nil {
		t.Skip("there are no gateways here: make gateways-test brings them")
	}
}

// startIssuer starts an authorization server that knows the API.
func startIssuer(t *testing.T) *oidc.Server {
	t.Helper()
	s, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.SetResource(audience, readScope, writeScope)
	return s
}

// startBackend starts the API behind a gateway, which accepts everything, and returns its port.
func startBackend(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set(backendHeader, "reached")
	})}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true) // for gRPC
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// started starts a program whose log goes to the output directory, and ends it after the test.
func started(t *testing.T, name, path string, args ...string) *local.Process {
	t.Helper()
	log, err := os.OpenFile(logOf(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the process has its own
	p, err := local.Start(name, log, false, path, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}

func logOf(name string) string { return filepath.Join(outDir, "gateways-"+name+".log") }

// within waits until a check passes, as long as a process runs, and otherwise shows the end of
// the process's log.
func within(t *testing.T, limit time.Duration, p *local.Process, check func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ended error
	err := local.Until(ctx, limit, func() error {
		if ended = p.Running(); ended != nil {
			stop()
		}
		return check()
	})
	if err != nil {
		t.Fatalf("%v\n%s", errors.Join(ended, err), local.LastLines(logOf(p.Name()), 20))
	}
}

// apply applies a file of testdata, with words replaced in its strings.
func apply(t *testing.T, name string, words ...string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(testdata, name))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(words...).Replace(string(content))
	// kubectl may not know yet a kind that has just been installed.
	if err := local.Until(t.Context(), 30*time.Second, func() error {
		_, err := cluster.Kubectl(t.Context(), []byte(text), "apply", "--server-side", "-f", "-")
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
