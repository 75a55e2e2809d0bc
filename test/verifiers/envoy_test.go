// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

// envoyRequests are what two more filters of the example allow: one needs the scope that
// the other verifiers' code demands.
func envoyRequests() []render.Requests {
	return []render.Requests{
		{Name: "payments", Rules: []render.Rule{{Paths: []render.Path{{Value: "/payments", Prefix: true}}, Scopes: []string{scope}}}},
		{Name: "public", Rules: []render.Rule{
			{Methods: []string{"GET", "HEAD"}, Paths: []render.Path{{Value: "/v1", Prefix: true}, {Value: "/health"}}, Scopes: []string{"payments:read"}},
			{Methods: []string{"POST"}, Paths: []render.Path{{Value: "/v1", Prefix: true}}, Scopes: []string{"payments:read", scope}},
		}},
	}
}

// startEnvoy starts Envoy without a control plane, with the filter for payments.
func startEnvoy(t *testing.T, v verifier, dir, backend string) (string, *os.Process) {
	return startEnvoyWith(t, v, render.EnvoyRBACFile("payments"), dir, backend)
}

func startEnvoyWith(t *testing.T, v verifier, rbac, dir, backend string) (string, *os.Process) {
	t.Helper()
	address, home := ports.Free(t), t.TempDir()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	_, backendPort, err := net.SplitHostPort(backend)
	if err != nil {
		t.Fatal(err)
	}
	write(t, home, map[string]string{"envoy.yaml": example(t, v, "envoy.yaml", mounted, dir, render.FileEnvoyRBAC, rbac,
		"address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: "+port, "port_value: 8081", "port_value: "+backendPort)})
	return address, run(t, address, exec.Command("envoy", "--config-path", filepath.Join(home, "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"))
}

// envoyWorld is the world of the example with an RBAC filter.
func envoyWorld(t *testing.T, rbac string) *world {
	t.Helper()
	for _, v := range verifiers() {
		if v.name == "envoy" {
			needs(t, v)
			v.start = func(t *testing.T, v verifier, dir, backend string) (string, *os.Process) {
				return startEnvoyWith(t, v, rbac, dir, backend)
			}
			return newWorld(t, v)
		}
	}
	t.Fatal("there is no Envoy")
	return nil
}

// TestEnvoyRules makes requests that one rule allows, or none.
func TestEnvoyRules(t *testing.T) {
	w := envoyWorld(t, render.EnvoyRBACFile("public"))
	scopes := map[string]string{"reads": "payments:read", "writes": scope, "does both": "payments:read " + scope, "none": ""}
	for _, tc := range []struct {
		method, path, scopes string
		want                 int
	}{
		{"GET", "/v1", "reads", 200},
		{"GET", "/v1/", "reads", 200},
		{"HEAD", "/v1/a?b=c", "reads", 200},
		{"GET", "/health", "reads", 200},
		{"GET", "/health?v1", "does both", 200},
		{"GET", "/v1", "writes", 403},
		{"GET", "/v1", "none", 403},
		{"GET", "/v10", "reads", 403},
		{"GET", "/health/", "reads", 403},
		{"GET", "/", "does both", 403},
		{"GET", "/other?/v1", "does both", 403},
		{"GET", "/v1/../other", "does both", 403},
		{"GET", "/v1//a", "does both", 200},
		{"GET", "/health//", "does both", 403},
		{"GET", "/other/..%2fv1", "does both", 400},
		{"DELETE", "/v1", "does both", 403},
		{"POST", "/v1", "reads", 403},
		{"POST", "/v1", "writes", 403},
		{"POST", "/v1", "does both", 200},
		{"POST", "/health", "does both", 403},
	} {
		token := token(t, w.keys, "es256", func(_, c map[string]any) { c["scope"] = scopes[tc.scopes] })
		if status := w.request(t, tc.method, tc.path, token); status != tc.want {
			t.Errorf("%s %s by a token that %s: %d, want %d", tc.method, tc.path, tc.scopes, status, tc.want)
		}
		if status := w.request(t, tc.method, tc.path, ""); status == 200 {
			t.Errorf("%s %s without a token: %d", tc.method, tc.path, status)
		}
	}
}

// request makes a request whose path is sent as it is.
func (w *world) request(t *testing.T, method, path, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = path
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestEnvoyTakesEveryValidToken: without rules, the scope does not matter. All else does.
func TestEnvoyTakesEveryValidToken(t *testing.T) {
	w := envoyWorld(t, render.FileEnvoyRBAC)
	w.is(t, "a token without scopes", 200, token(t, w.keys, "es256", func(_, c map[string]any) { delete(c, "scope") }))
	w.is(t, "an audience that Envoy takes for ours", 401, token(t, w.keys, "es256", func(_, c map[string]any) { c["aud"] = audience + "/" }))
	w.is(t, "another one", 401, token(t, w.keys, "es256", func(_, c map[string]any) { c["aud"] = strings.TrimPrefix(audience, "https://") }))
	w.publish(t, typedBundle(t, w.example, "at+jwt", w.keys, "es256"))
	w.becomes(t, "a token of another type", 403, token(t, w.keys, "es256", nil))

	b := render.Bundle{
		Name: "payment-api", Namespace: "payments", Issuer: issuer, Audience: audience, Keys: renderKeys(t, w.keys, "es256"),
		Named:   render.Named{Claims: []string{"client_id"}, Values: []string{"cart"}},
		Formats: render.Formats{Names: []string{render.FormatEnvoy}, Requests: envoyRequests()},
	}
	files, err := render.Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.publish(t, bundle(t, w.example, w.keys, "es256"))
	w.becomes(t, "a token before", 200, token(t, w.keys, "es256", nil))
	for name, want := range map[string]int{render.FileEnvoyRBAC: 403, render.FileEnvoyJWT: 401} { // each filter is enough
		mixed := bundle(t, w.example, w.keys, "es256")
		mixed[name] = files[name]
		w.publish(t, mixed)
		w.becomes(t, "a token before "+name+" that knows aud only", want, token(t, w.keys, "es256", func(_, c map[string]any) { c["client_id"] = "cart" }))
		w.publish(t, bundle(t, w.example, w.keys, "es256"))
		w.becomes(t, "a token after "+name, 200, token(t, w.keys, "es256", nil))
	}
}
