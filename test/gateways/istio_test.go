// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/test/local"
)

const innerDoor = door("127.0.0.1:10083")

// istio is a running istiod with the Envoy of one Gateway.
type istio struct {
	process *local.Process
	proxy   *proxy
}

// startIstio starts istiod and Envoy. The objects are those of istio.yaml, in front of an API
// at a port.
func startIstio(t *testing.T, port int) *istio {
	t.Helper()
	apply(t, "istio.yaml", "HOST", hostAddress, "PORT", strconv.Itoa(port))
	i := &istio{}
	i.start(t)
	i.startProxy(t)
	return i
}

// start starts istiod, without TLS, at loopback addresses only.
func (i *istio) start(t *testing.T) {
	t.Helper()
	i.process = started(t, "istiod", "env",
		"POD_NAMESPACE=istio-system", "POD_NAME=istiod-0", "CLUSTER_ID=Kubernetes",
		"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false",
		program.istiod, "discovery", "--kubeconfig", cluster.Kubeconfig, "--meshConfig", filepath.Join(testdata, "istio-mesh.yaml"),
		"--httpAddr", "127.0.0.1:15080", "--httpsAddr", "", "--grpcAddr", "127.0.0.1:15010", "--secureGRPCAddr", "",
		"--monitoringAddr", "127.0.0.1:15014", "--ctrlz_port", "0")
	within(t, time.Minute, i.process, func() error { return ready("http://127.0.0.1:15080/ready") })
}

func (i *istio) startProxy(t *testing.T) {
	t.Helper()
	i.proxy = startIstioProxy(t, "inner", "127.0.0.1:19902")
}

// startIstioProxy starts Envoy as a Gateway of a name, with the arguments that Istio's agent
// gives it, but for the drain time of 45 s.
func startIstioProxy(t *testing.T, name, admin string) *proxy {
	t.Helper()
	here := strings.NewReplacer("HOST", hostAddress, "NAME", name, "ADMIN", admin[strings.LastIndexByte(admin, ':')+1:])
	return startProxy(t, "envoy-of-istio-"+name, here.Replace(content(t, "istio-envoy.yaml")), admin,
		"--drain-strategy", "immediate", "--drain-time-s", "5")
}

func TestIstio(t *testing.T) {
	needGateways(t)
	issuer, port := startIssuer(t), startBackend(t)
	i := startIstio(t, port)
	update := func(keys string) {
		t.Helper()
		apply(t, "istio-policies.yaml", "ISSUER", issuer.Issuer(), "KEYS", keys)
	}
	t.Cleanup(func() { // the operator's policies are for the same Gateway
		if _, err := cluster.Kubectl(context.Background(), nil, "-n", "mesh", "delete", "requestauthentication,authorizationpolicy", "payment"); err != nil {
			t.Error(err)
		}
	})
	update(published(t, issuer))
	untilGuarded(t, i.proxy, innerDoor, issuer, http.StatusForbidden)
	// Istio has no way to demand exp: a condition on a claim is about text.
	checkTokens(t, innerDoor, issuer, http.StatusForbidden, http.StatusOK)
	checkScopes(t, innerDoor, issuer)
	t.Run("keys follow the policy", func(t *testing.T) { checkRotation(t, innerDoor, issuer, update) })
	t.Run("no call fails while keys change", func(t *testing.T) { checkSeamless(t, innerDoor, issuer, 0, update) })
	// The connection has the former filter, for one more answer.
	t.Run("kept connections", func(t *testing.T) {
		checkKeptConnections(t, innerDoor, issuer, kept{added: []int{401, 200}, revoked: []int{200, 401}}, update)
	})
	t.Run("a set without usable keys leaves the old ones", func(t *testing.T) { checkUselessSets(t, innerDoor, issuer, http.StatusOK, update) })
	t.Run("restarts", func(t *testing.T) {
		checkRestarts(t, innerDoor, issuer, gateway{
			stop: func() { stop(t, i.process) }, start: func() { i.start(t) },
			restartProxy: func() { stop(t, i.proxy.process); i.startProxy(t) }, update: update,
		})
	})
}
