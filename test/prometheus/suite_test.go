// SPDX-License-Identifier: Apache-2.0

// Package prometheus runs a real Prometheus, which scrapes a real operator with the
// alerts of config/components/alerts. It checks that every query of the dashboard in
// config/components/dashboard has something to show, and that alerts fire. make
// prometheus-test runs it; otherwise it is skipped where there is no Prometheus.
package prometheus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	root      = "../.."
	outDir    = "out"
	testdata  = "test/prometheus/testdata"
	rulesFile = "config/components/alerts/prometheus_rule.yaml"

	// lifetime of a token: it is refreshed after half of it.
	lifetime   = 20 * time.Second
	identifier = "https://payment.example.com/api"
)

// world is all that runs.
type world struct {
	cluster *local.Cluster
	dir     string
	// issuer knows its clients, registering registers them.
	issuer, registering *oidc.Server
	secret              string
	metrics             string // the operator's address
	prometheus          *server
}

// start brings up everything, and takes it down after the test.
func start(t *testing.T) *world {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("M2M_PROMETHEUS") != "" {
			t.Fatal("there is no prometheus: on Debian, apt-get install prometheus")
		}
		t.Skip("there is no prometheus here")
	}
	t.Chdir(root)
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), secret: oidc.NewSecret()}
	w.startServers(t)
	w.startCluster(t)
	w.startOperator(t)
	w.startPrometheus(t, program)
	return w
}

func (w *world) startServers(t *testing.T) {
	t.Helper()
	var err1, err2 error
	w.issuer, err1 = oidc.Start(oidc.Options{TokenLifetime: lifetime})
	w.registering, err2 = oidc.Start(oidc.Options{TokenLifetime: lifetime, DynamicRegistration: &oidc.DynamicRegistration{}})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.issuer.Close)
	t.Cleanup(w.registering.Close)
	w.issuer.SetResource(identifier, "payments:write")
	for _, id := range []string{"cart", "gift"} {
		if err := w.issuer.SetClient(oidc.Client{ID: id, Secret: w.secret, Scopes: map[string][]string{identifier: {"payments:write"}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) startCluster(t *testing.T) {
	t.Helper()
	var err error
	w.cluster, err = local.StartCluster(w.dir)
	if w.cluster != nil {
		t.Cleanup(func() {
			if err := w.cluster.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.cluster.InstallOperator(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.apply(t, "scraper.yaml")
}

func (w *world) startOperator(t *testing.T) {
	t.Helper()
	w.cluster.Manager = filepath.Join(w.dir, "manager")
	if err := kubetest.BuildOperator(".", w.cluster.Manager); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.metrics, err = ports.FreeAddress(); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(outDir, "prometheus-operator.log")
	process, probe, err := w.cluster.StartOperator(t.Context(), log, "--metrics-bind-address="+w.metrics)
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, process)
	if err := local.Until(t.Context(), time.Minute, func() error {
		return errors.Join(process.Running(), local.Healthy(probe))
	}); err != nil {
		t.Fatalf("%v\n%s", err, local.LastLines(log, 20))
	}
}

func stopAfter(t *testing.T, p *local.Process) {
	t.Cleanup(func() {
		if err := errors.Join(p.Running(), p.Stop()); err != nil {
			t.Error(err)
		}
	})
}

// startPrometheus starts Prometheus with the rules, and the rights of its ServiceAccount.
func (w *world) startPrometheus(t *testing.T, program string) {
	t.Helper()
	token, err := w.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	configuration := strings.ReplaceAll(read(t, filepath.Join(testdata, "prometheus.yaml")), "METRICS", w.metrics)
	for name, content := range map[string]string{"token": token, "prometheus.yaml": configuration, "rules.yaml": groups(t)} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address, err := ports.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	logPath := filepath.Join(outDir, "prometheus.log")
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the process has its own
	process, err := local.Start("prometheus", log, false, program, "--config.file="+filepath.Join(w.dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(w.dir, "tsdb"), "--web.listen-address="+address, "--log.level=warn")
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, process)
	w.prometheus = &server{base: "http://" + address}
	if err := local.Until(t.Context(), time.Minute, func() error {
		return errors.Join(process.Running(), w.prometheus.scrapes(t.Context()))
	}); err != nil {
		t.Fatalf("%v\n%s", err, local.LastLines(logPath, 20))
	}
}

// token returns a token of Prometheus' ServiceAccount.
func (w *world) token(ctx context.Context) (string, error) {
	hour := int64(60 * 60)
	r, err := w.cluster.Clientset.CoreV1().ServiceAccounts("monitoring").CreateToken(ctx, "prometheus",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token of Prometheus' ServiceAccount: %w", err)
	}
	return r.Status.Token, nil
}

// groups are the groups of the PrometheusRule, as Prometheus reads them.
func groups(t *testing.T) string {
	t.Helper()
	var rule struct {
		Spec map[string]any `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &rule); err != nil {
		t.Fatal(err)
	}
	content, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// apply applies a file of testdata.
func (w *world) apply(t *testing.T, name string) {
	t.Helper()
	names := strings.NewReplacer("ISSUER", w.issuer.Issuer(), "REGISTERING", w.registering.Issuer(), "SECRET", w.secret)
	objects, err := local.ObjectsOf([]byte(read(t, filepath.Join(testdata, name))))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		local.ReplaceStrings(o.Object, names)
	}
	if _, err := w.cluster.Apply(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
