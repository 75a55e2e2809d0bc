// SPDX-License-Identifier: Apache-2.0

// Package attacks runs the attacks of hostile tenants, all at once, against the
// operator as it is shipped: a separate process in 512 MiB, with its ServiceAccount's
// rights and the installation's policies, beside a real API server. Meanwhile other
// tenants' tokens, bundles and pods must stay on time. make attacks runs it in full
// size.
package attacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/cgroup"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	// limit is the operator's memory, as config/manager has it.
	limit = 512 << 20

	root   = "../.."
	outDir = "out"

	// mallory is the user behind all attacks, tenant the role that he has in his
	// namespaces.
	mallory = "mallory"
	tenant  = "hostile-tenant"
)

var cluster *local.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run starts the control plane, builds the operator, and runs the tests in the
// repository's root.
func run(m *testing.M) (code int, err error) {
	if err := errors.Join(os.Chdir(root), os.MkdirAll(outDir, 0o755)); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "m2m-attacks-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cluster, err = local.StartCluster(dir)
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Stop()) }()
	}
	if err != nil {
		return 1, err
	}
	ctx := context.Background()
	cluster.Manager = filepath.Join(dir, "manager")
	if err := kubetest.BuildOperator(".", cluster.Manager); err != nil {
		return 1, err
	}
	if _, err := cluster.InstallOperator(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// operator is the process under attack.
type operator struct {
	process *local.Process
	metrics string // address
	logPath string
	limited bool // by the kernel
}

// startOperator starts the operator with the memory of its container, if this machine
// can limit it, and with more flags. peak always reports the use.
func startOperator(t *testing.T, flags ...string) *operator {
	t.Helper()
	o := &operator{logPath: filepath.Join(outDir, "attacks-operator.log")}
	group, err := cgroup.LimitMemory(fmt.Sprintf("m2m-attacks-%d", os.Getpid()), limit)
	if err != nil {
		t.Logf("no cgroup can be made here (%v): only the peak is looked at", err)
	} else {
		o.limited, cluster.Launch = true, group.Command()
		t.Cleanup(func() {
			if err := group.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	cluster.Launch = append(cluster.Launch, "/usr/bin/env", fmt.Sprintf("MEMORY_LIMIT=%d", limit))
	address, err := ports.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	o.metrics = address
	process, probe, err := cluster.StartOperator(t.Context(), o.logPath, append([]string{"--metrics-bind-address=" + address}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	o.process = process
	t.Cleanup(func() {
		if o.process.Running() == nil {
			if err := o.process.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	if err := local.Until(t.Context(), time.Minute, func() error {
		return errors.Join(o.process.Running(), local.Healthy(probe))
	}); err != nil {
		t.Fatalf("%v\n%s", err, local.LastLines(o.logPath, 20))
	}
	return o
}

// asMallory returns a client with a tenant's rights. A tenant may change pods
// as an editor of a namespace may.
func asMallory(ctx context.Context) (client.Client, error) {
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: tenant}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "configmaps", "secrets"}, Verbs: all},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: all},
		{APIGroups: []string{"m2m-operator.io"}, Resources: []string{"apiresources", "authorizationservers", "m2mclients"}, Verbs: all},
	}}
	if err := cluster.Client.Create(ctx, role); err != nil {
		return nil, err
	}
	config := cluster.Config()
	config.Impersonate = rest.ImpersonationConfig{UserName: mallory, Groups: []string{"system:authenticated"}}
	return client.New(config, client.Options{Scheme: local.Scheme()})
}

// binding gives mallory rights in a namespace.
func binding(namespace string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: tenant},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: tenant},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: mallory}},
	}
}

// dialFrom connects from an address of this machine other than the API server's, as
// another pod would.
func dialFrom(ctx context.Context, n int, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%250))}, Timeout: 10 * time.Second}
	return d.DialContext(ctx, "tcp", address)
}

// drain reads the rest of a body, so that its connection can be reused.
func drain(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, body)
	_ = body.Close()
}
