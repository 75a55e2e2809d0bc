// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	trustModule    = "github.com/cert-manager/trust-manager"
	trustNamespace = "bench-trust" // of the source
	trustBundle    = "bench-trust" // also the name of the targets and their source
	trustKey       = "ca.crt"
	trustLabel     = "trust.cert-manager.io/bundle" // on the targets

	// trustLimit leaves ample time for 1,000 writes at 5 per second, which take 200 s.
	trustLimit = 15 * time.Minute
)

// trustManager is a process of trust-manager, which brings CA certificates to many
// namespaces as the operator brings keys.
type trustManager struct{ process *local.Process }

func (t *trustManager) usage() (usage, error) { return usageOf(t.process.PID()) }

// compareTrustManager measures how trust-manager brings a change of about the same
// size to the same namespaces of the same control plane, with the defaults of its
// own chart.
func (b *bench) compareTrustManager(ctx context.Context) error {
	if b.bundles.seconds == 0 {
		return errors.New("there is nothing to compare with: run the scenario key rotation as well")
	}
	program, crds, err := trustManagerProgram(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(b.clear(ctx), b.installTrustManager(ctx, crds)); err != nil {
		return err
	}
	before, after, err := certificates(b.bundles.size)
	if err != nil {
		return err
	}
	source := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: trustNamespace, Name: trustBundle}, Data: map[string]string{trustKey: before.all()},
	}
	if err := b.cluster.Client.Create(ctx, source); err != nil {
		return err
	}
	watch, stop, err := b.follow(ctx, client.HasLabels{trustLabel})
	if err != nil {
		return err
	}
	defer stop()
	t, err := b.startTrustManager(ctx, program)
	if err != nil {
		return err
	}
	n := b.bundleNamespaces()
	watch.begin(trustBundle, holdsLast(before))
	if _, err := b.cluster.Apply(ctx, []*unstructured.Unstructured{trustManagerBundle()}); err != nil {
		return err
	}
	if err := errors.Join(watch.await(ctx, n, trustLimit), watch.calm(ctx)); err != nil {
		return fmt.Errorf("trust-manager's first bundles: %w", err)
	}
	used, err := t.usage()
	if err != nil {
		return err
	}
	watch.begin(trustBundle, holdsLast(after))
	source.Data[trustKey] = after.all()
	if err := b.cluster.Client.Update(ctx, source); err != nil {
		return err
	}
	changed := time.Now()
	if err := errors.Join(watch.await(ctx, n, trustLimit), watch.calm(ctx)); err != nil {
		return fmt.Errorf("trust-manager's changed bundles: %w", err)
	}
	seen, err1 := watch.seen()
	usedThen, err2 := t.usage()
	afterwards, err3 := settled(ctx, t, b.idleCalm())
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.judgeTrustManager(fanOut{seconds: seen.last.Sub(changed).Seconds(), memory: afterwards, size: len(after.all())},
		seen, usedThen.cpu-used.cpu, n)
	return t.process.Stop()
}

func (b *bench) judgeTrustManager(theirs fanOut, seen arrival, cpu time.Duration, n int) {
	const s = "trust-manager"
	// client-go lets the first requests pass and slows down those that follow: a few
	// namespaces never feel the limit.
	quick := none
	if b.full() {
		quick = below(0.02)
	}
	b.report.ratio(s, "our time until the last bundle has the change ÷ theirs", "s", b.bundles.seconds, theirs.seconds, quick)
	b.report.ratio(s, "our resident memory ÷ theirs", "MiB", b.bundles.memory.resident, theirs.memory.resident, atMost(1.5))
	b.report.value(s, "their time", "s", theirs.seconds, none)
	b.report.value(s, "their resident memory", "MiB", theirs.memory.resident, none)
	b.report.value(s, "their peak", "MiB", theirs.memory.peak, none)
	b.report.value(s, "their writes per bundle", "requests", float64(seen.writes)/float64(n), none)
	b.report.value(s, "their CPU per 1,000 bundles", "s", cpu.Seconds()/float64(n)*1000, none)
	b.report.value(s, "size of their bundle", "KiB", float64(theirs.size)/1024, none)
}

// trustManagerProgram builds trust-manager if necessary, and finds its CRDs,
// which its module contains.
func trustManagerProgram(ctx context.Context) (program string, crds []string, err error) {
	said, err := outputOf(ctx, "", "hack/tool.sh", "--path", "trust-manager")
	if err != nil {
		return "", nil, err
	}
	module, err := outputOf(ctx, "hack/tools/trust-manager", "go", "mod", "download", "-json", trustModule)
	if err != nil {
		return "", nil, err
	}
	dir, err := moduleDir(module)
	if err != nil {
		return "", nil, err
	}
	crds, err = filepath.Glob(filepath.Join(dir, "deploy/crds/*.yaml"))
	if err == nil && len(crds) == 0 {
		err = fmt.Errorf("there are no CRDs in %s", dir)
	}
	return strings.TrimSpace(string(said)), crds, err
}

func outputOf(ctx context.Context, dir, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOWORK=off")
	said, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
	}
	return said, nil
}

// moduleDir returns the module's directory from the output of go mod download.
func moduleDir(said []byte) (string, error) {
	var module struct{ Dir, Error string }
	if err := json.Unmarshal(said, &module); err != nil {
		return "", fmt.Errorf("go mod download: %w", err)
	}
	if module.Dir == "" {
		return "", fmt.Errorf("go mod download names no directory: %s", module.Error)
	}
	return module.Dir, nil
}

// installTrustManager installs its kinds and the namespace of its sources. It acts
// as the administrator, whom API Priority and Fairness never delays.
func (b *bench) installTrustManager(ctx context.Context, crds []string) error {
	var all []*unstructured.Unstructured
	wait := []string{"wait", "--for=condition=Established", "--timeout=1m"}
	for _, path := range crds {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		objects, err := local.ObjectsOf(content)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, o := range objects {
			all, wait = append(all, o), append(wait, "crd/"+o.GetName())
		}
	}
	if _, err := b.cluster.Apply(ctx, all); err != nil {
		return err
	}
	if _, err := b.cluster.Kubectl(ctx, nil, wait...); err != nil {
		return err
	}
	return b.cluster.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: trustNamespace}})
}

// startTrustManager starts it with the flags of its chart, except for the addresses
// and the election, which finds no namespace outside a cluster. It waits until the
// process is ready. No webhook is registered, but its server needs a certificate.
func (b *bench) startTrustManager(ctx context.Context, program string) (*trustManager, error) {
	tls := filepath.Join(b.dir, "trust-manager")
	ca, err := pki.NewAuthority("localhost")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Mkdir(tls, 0o700), os.WriteFile(filepath.Join(tls, "tls.crt"), ca.Certificate, 0o600),
		os.WriteFile(filepath.Join(tls, "tls.key"), ca.Key, 0o600)); err != nil {
		return nil, err
	}
	var free [3]string
	for i := range free {
		address, err := ports.FreeAddress()
		if err != nil {
			return nil, err
		}
		if _, free[i], err = net.SplitHostPort(address); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(outDir, "bench-trust-manager.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p, err := local.Start("trust-manager", log, false, program,
		"--kubeconfig="+b.cluster.Kubeconfig, "--trust-namespace="+trustNamespace, "--leader-elect=false",
		"--webhook-host=127.0.0.1", "--webhook-port="+free[0], "--webhook-certificate-dir="+tls,
		"--readiness-probe-port="+free[1], "--metrics-port="+free[2])
	if err != nil {
		return nil, err
	}
	b.onCleanUp(func() error {
		if p.Running() != nil {
			return nil
		}
		return p.Stop()
	})
	return &trustManager{process: p}, local.Until(ctx, time.Minute, func() error {
		if err := p.Running(); err != nil {
			return err
		}
		return local.Healthy("http://127.0.0.1:" + free[1])
	})
}

// trustManagerBundle brings the source to all namespaces that have our bundle.
func trustManagerBundle() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "trust.cert-manager.io/v1alpha1", "kind": "Bundle",
		"metadata": map[string]any{"name": trustBundle},
		"spec": map[string]any{
			"sources": []any{map[string]any{"configMap": map[string]any{"name": trustBundle, "key": trustKey}}},
			"target": map[string]any{
				"configMap":         map[string]any{"key": trustKey},
				"namespaceSelector": map[string]any{"matchLabels": map[string]any{prefixLabel: bundlePrefix}},
			},
		},
	}}
}

// pems are certificates in PEM.
type pems []string

func (p pems) all() string { return strings.Join(p, "") }

// holdsLast reports whether a ConfigMap has the last of the certificates.
func holdsLast(p pems) func(*corev1.ConfigMap) bool {
	last := strings.TrimSpace(p[len(p)-1])
	return func(c *corev1.ConfigMap) bool { return strings.Contains(c.Data[trustKey], last) }
}

// certificates returns certificates of at least this size in total, and the same
// with a new one in place of the first, as when a key is rotated.
func certificates(size int) (before, after pems, err error) {
	for len(before.all()) < size || len(before) < 2 {
		ca, err := pki.NewAuthority(fmt.Sprintf("CA %d", len(before)))
		if err != nil {
			return nil, nil, err
		}
		before = append(before, string(ca.Certificate))
	}
	ca, err := pki.NewAuthority("CA new")
	if err != nil {
		return nil, nil, err
	}
	return before, append(append(after, before[1:]...), string(ca.Certificate)), nil
}
