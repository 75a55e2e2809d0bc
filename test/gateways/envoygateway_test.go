// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	envoyGatewayNamespace = "envoy-gateway-system"
	publicNamespace       = "public"
	ourDoor               = door("127.0.0.1:10080")
)

// envoyGateway is a running Envoy Gateway with the Envoy of one Gateway.
type envoyGateway struct {
	root    string // of the file system that Envoy Gateway sees
	files   string // of Envoy
	process *local.Process
	proxy   *proxy
}

// startEnvoyGateway starts Envoy Gateway, and Envoy as it asks for. The objects are those of
// envoygateway.yaml, in front of an API at a port.
func startEnvoyGateway(t *testing.T, port int) *envoyGateway {
	t.Helper()
	g := &envoyGateway{root: t.TempDir(), files: t.TempDir()}
	apply(t, "envoygateway.yaml", "HOST", hostAddress, "PORT", strconv.Itoa(port))
	g.prepare(t)
	g.start(t)
	g.startProxy(t)
	return g
}

// prepare makes a file system with what Envoy Gateway reads at fixed paths.
func (g *envoyGateway) prepare(t *testing.T) {
	t.Helper()
	kubeconfig, err1 := os.ReadFile(cluster.Kubeconfig)
	executable, err2 := os.ReadFile(program.envoyGateway)
	if err := errors.Join(err1, err2, os.Mkdir(filepath.Join(g.root, "tmp"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(g.root, "kubeconfig"), kubeconfig, 0o600),
		os.WriteFile(filepath.Join(g.root, "config.yaml"), []byte(content(t, "envoygateway-config.yaml")), 0o600),
		os.WriteFile(filepath.Join(g.root, "envoy-gateway"), executable, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	command := g.command("certgen", "--disable-topology-injector")
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("make certificates: %v\n%s", err, out)
	}
	writeSecret(t, "envoy-gateway", filepath.Join(g.root, "certs"))
	writeSecret(t, "envoy", filepath.Join(g.files, "certs"))
}

// command is how Envoy Gateway is called within its file system.
func (g *envoyGateway) command(args ...string) []string {
	return append([]string{
		"env", "KUBECONFIG=/kubeconfig", "ENVOY_GATEWAY_NAMESPACE=" + envoyGatewayNamespace, "chroot", g.root, "/envoy-gateway",
	}, args...)
}

// writeSecret writes a Secret of Envoy Gateway's namespace into a new directory.
func writeSecret(t *testing.T, name, dir string) {
	t.Helper()
	data, err := cluster.SecretData(t.Context(), envoyGatewayNamespace, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for key, value := range data {
		if err := os.WriteFile(filepath.Join(dir, key), value, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts the control plane.
func (g *envoyGateway) start(t *testing.T) {
	t.Helper()
	command := g.command("server", "--config-path", "/config.yaml")
	g.process = started(t, "envoy-gateway", command[0], command[1:]...)
}

// startProxy starts Envoy as the Deployment says that Envoy Gateway makes for the Gateway.
func (g *envoyGateway) startProxy(t *testing.T) {
	t.Helper()
	var deployment appsv1.Deployment
	within(t, 2*time.Minute, g.process, func() (err error) {
		deployment, err = g.deployment(t.Context())
		return err
	})
	var files corev1.ConfigMap
	if err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: envoyGatewayNamespace, Name: deployment.Name}, &files); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"envoy-gateway."+envoyGatewayNamespace+".svc.cluster.local.", "127.0.0.1",
		"/sds/", g.files+"/", "/certs/", g.files+"/certs/",
	)
	for name, text := range files.Data {
		if err := os.WriteFile(filepath.Join(g.files, name), []byte(here.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.proxy = startProxy(t, "envoy-of-gateway", here.Replace(argument(t, &deployment, "--config-yaml")), "127.0.0.1:19000",
		"--service-cluster", argument(t, &deployment, "--service-cluster"), "--service-node", "envoy-0",
		"--drain-strategy", argument(t, &deployment, "--drain-strategy"), "--drain-time-s", argument(t, &deployment, "--drain-time-s"))
}

func (g *envoyGateway) deployment(ctx context.Context) (found appsv1.Deployment, err error) {
	var list appsv1.DeploymentList
	if err := cluster.Client.List(ctx, &list, client.InNamespace(envoyGatewayNamespace),
		client.MatchingLabels{"gateway.envoyproxy.io/owning-gateway-name": "public"}); err != nil {
		return found, err
	}
	if len(list.Items) != 1 {
		return found, fmt.Errorf("there are %d deployments for the gateway", len(list.Items))
	}
	return list.Items[0], nil
}

// argument returns the value of an argument of Envoy's.
func argument(t *testing.T, d *appsv1.Deployment, name string) string {
	t.Helper()
	for _, c := range d.Spec.Template.Spec.Containers {
		for i := 1; i < len(c.Args); i++ {
			if c.Args[i-1] == name {
				return c.Args[i]
			}
		}
	}
	t.Fatalf("the deployment has no argument %s", name)
	return ""
}

// writeKeys writes the ConfigMap with the keys that a policy refers to.
func writeKeys(t *testing.T, keys string) {
	t.Helper()
	m := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: publicNamespace, Name: "payment-jwks"}, Data: map[string]string{"jwks": keys},
	}
	if err := cluster.Client.Patch(t.Context(), m, client.Apply, client.FieldOwner("test"), client.ForceOwnership); err != nil { //nolint:staticcheck // as typed
		t.Fatal(err)
	}
}

func TestEnvoyGateway(t *testing.T) {
	needGateways(t)
	issuer, port := startIssuer(t), startBackend(t)
	g := startEnvoyGateway(t, port)
	writeKeys(t, published(t, issuer))
	apply(t, "securitypolicy.yaml", "ISSUER", issuer.Issuer())
	t.Cleanup(func() { // the operator's policy is for the same route
		if _, err := cluster.Kubectl(context.Background(), nil, "-n", publicNamespace, "delete", "securitypolicy", "payment"); err != nil {
			t.Error(err)
		}
	})
	untilGuarded(t, g.proxy, ourDoor, issuer, http.StatusUnauthorized)
	checkTokens(t, ourDoor, issuer, http.StatusUnauthorized, http.StatusForbidden)
	checkScopes(t, ourDoor, issuer)
	update := func(keys string) { writeKeys(t, keys) }
	t.Run("keys follow the ConfigMap", func(t *testing.T) { checkRotation(t, ourDoor, issuer, update) })
	// Envoy applies the new names of providers to the listener and to its routes one after the other.
	t.Run("calls fail for a moment only while keys change", func(t *testing.T) { checkSeamless(t, ourDoor, issuer, time.Second, update) })
	// The connection has the former listener, which does not know the new name.
	t.Run("kept connections", func(t *testing.T) {
		checkKeptConnections(t, ourDoor, issuer, kept{added: []int{403, 200}, revoked: []int{403, 401}}, update)
	})
	// Here the name of a provider is made of its keys: the route names one that Envoy did not take.
	t.Run("a set without usable keys", func(t *testing.T) { checkUselessSets(t, ourDoor, issuer, http.StatusForbidden, update) })
	t.Run("restarts", func(t *testing.T) {
		checkRestarts(t, ourDoor, issuer, gateway{
			stop: func() { stop(t, g.process) }, start: func() { g.start(t) },
			restartProxy: func() { stop(t, g.proxy.process); g.startProxy(t) }, update: update,
		})
	})
}

// gateway is both halves of a gateway.
type gateway struct {
	stop, start, restartProxy func()
	update                    func(keys string)
}

// checkRestarts starts both halves of a gateway again while the authorization server is down.
func checkRestarts(t *testing.T, d door, issuer *oidc.Server, g gateway) {
	t.Helper()
	keys, token := published(t, issuer), signed(t, issuer, nil)
	down := &oidc.Fault{Status: http.StatusServiceUnavailable}
	issuer.SetFault(oidc.JWKS, down)
	issuer.SetFault(oidc.Discovery, down)
	defer issuer.ClearFaults()

	began := time.Now()
	g.restartProxy()
	awaits(t, d, http.StatusOK, token)
	t.Logf("Envoy was back after %s", time.Since(began).Round(time.Millisecond))

	// Envoy works on without its control plane, and has what has changed once that is back.
	g.stop()
	g.update(unusable(t))
	d.wants(t, http.StatusOK, http.MethodGet, "/", token)
	began = time.Now()
	g.start()
	awaits(t, d, http.StatusUnauthorized, token)
	t.Logf("the control plane told Envoy what it had missed %s after its start", time.Since(began).Round(time.Millisecond))
	g.update(keys)
	awaits(t, d, http.StatusOK, token)
}

func stop(t *testing.T, p *local.Process) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
}
