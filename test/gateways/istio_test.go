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

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
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
	i.proxy = startProxy(t, "envoy-of-istio", strings.ReplaceAll(content(t, "istio-envoy.yaml"), "HOST", hostAddress), "127.0.0.1:19902")
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
	t.Run("a set without usable keys leaves the old ones", func(t *testing.T) { checkUselessSets(t, innerDoor, issuer, http.StatusOK, update) })
	t.Run("restarts", func(t *testing.T) { i.checkRestarts(t, issuer, update) })
}

// checkRestarts starts both halves of the gateway again while the authorization server is down.
func (i *istio) checkRestarts(t *testing.T, issuer *oidc.Server, update func(keys string)) {
	keys, token := published(t, issuer), signed(t, issuer, nil)
	down := &oidc.Fault{Status: http.StatusServiceUnavailable}
	issuer.SetFault(oidc.JWKS, down)
	issuer.SetFault(oidc.Discovery, down)
	defer issuer.ClearFaults()

	began := time.Now()
	stop(t, i.proxy.process)
	i.startProxy(t)
	awaits(t, innerDoor, http.StatusOK, token)
	t.Logf("Envoy was back after %s", time.Since(began).Round(time.Millisecond))

	stop(t, i.process)
	update(unusable(t))
	innerDoor.wants(t, http.StatusOK, http.MethodGet, "/", token)
	began = time.Now()
	i.start(t)
	awaits(t, innerDoor, http.StatusUnauthorized, token)
	t.Logf("istiod told Envoy what it had missed %s after its start", time.Since(began).Round(time.Millisecond))
	update(keys)
	awaits(t, innerDoor, http.StatusOK, token)
}
