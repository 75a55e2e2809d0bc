// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// TestTargets lets the operator protect a GRPCRoute, and one listener of a Gateway.
func TestTargets(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuer(t)
	g := startEnvoyGateway(t, port)
	startOperator(t)
	apply(t, "operator-targets.yaml", "ISSUER", issuer.Issuer())
	const grpc, section, open = door("127.0.0.1:10089"), door("127.0.0.1:10090"), door("127.0.0.1:10091")
	within(t, time.Minute, g.process, func() error {
		var api v1alpha1.APIResource
		if err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: publicNamespace, Name: "targets-api"}, &api); err != nil {
			return err
		}
		for _, c := range api.Status.Conditions {
			if c.Type == v1alpha1.ConditionEnforced && c.Status == metav1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the API is not enforced: %v", api.Status.Conditions)
	})
	const method = "/payments.Payments/Charge"
	token := signed(t, issuer, nil)
	within(t, time.Minute, g.proxy.process, func() error { return grpc.answers(http.StatusOK, http.MethodPost, method, token) })
	grpc.wants(t, http.StatusUnauthorized, http.MethodPost, method, "")
	grpc.wants(t, http.StatusForbidden, http.MethodPost, method, signed(t, issuer, claims{"aud": "https://other.example.com"}))

	within(t, time.Minute, g.proxy.process, func() error { return section.answers(http.StatusOK, http.MethodGet, "/v1", token) })
	section.wants(t, http.StatusUnauthorized, http.MethodGet, "/v1", "")
	checkPaths(t, section, issuer)
	open.wants(t, http.StatusOK, http.MethodGet, "/v1", "")
}

// checkPaths makes requests whose paths the rules name, and others.
func checkPaths(t *testing.T, d door, issuer *oidc.Server) {
	t.Helper()
	token := signed(t, issuer, nil)
	for path, want := range map[string]int{
		"/v1": 200, "/v1/": 200, "/v1/payments": 200, "/v1?of=cart": 200, "/status": 200, "/status?full": 200,
		"/": 403, "/v10": 403, "/v2/v1": 403, "/V1": 403, "/status/": 403, "/status/x": 403, "/x?/v1": 403,
	} {
		t.Run("path "+strings.ReplaceAll(path, "/", "|"), func(t *testing.T) { d.wants(t, want, http.MethodGet, path, token) })
	}
}

// TestIstioSelector lets the operator protect the workloads with a label. A gateway is one;
// the sidecar of a pod needs Istio's own proxy.
func TestIstioSelector(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuer(t)
	apply(t, "istio.yaml", "HOST", hostAddress, "PORT", strconv.Itoa(port), "mesh", "selected", "10083", "10092", "10086", "10093")
	i := &istio{}
	i.start(t)
	here := strings.NewReplacer("HOST", hostAddress, "gateway-name: NAME", "gateway-name: inner, app: chosen", "NAME", "inner", "ADMIN", "19905", "mesh", "selected")
	p := startProxy(t, "envoy-of-istio-selected", here.Replace(content(t, "istio-envoy.yaml")), "127.0.0.1:19905")
	startOperator(t)
	apply(t, "operator-istio.yaml", "ISSUER", issuer.Issuer(), "SECRET", cartSecret, "mesh", "selected", "KEYS", issuer.JWKSURL(),
		"targetRefs: [{kind: Gateway, name: inner}]", "selector: {matchLabels: {app: chosen}}",
		"{name: read, methods: [GET], ", "{name: read, methods: [GET], paths: [{type: PathPrefix, value: /v1}, {type: Exact, value: /status}], ")
	const selected = door("127.0.0.1:10092")
	token := signed(t, issuer, nil)
	within(t, time.Minute, p.process, func() error { return selected.answers(http.StatusForbidden, http.MethodGet, "/v1", "") })
	within(t, time.Minute, p.process, func() error { return selected.answers(http.StatusOK, http.MethodGet, "/v1", token) })
	checkPaths(t, selected, issuer)
}
