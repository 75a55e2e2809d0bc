// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// unpack returns the files of an archive.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "m2m-report/")] = string(text)
	}
}

// TestReport puts a secret wherever the cluster can hold one, and looks for it in the report.
func TestReport(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	ns := operator.NewNamespace(t, "system", nil)
	secret := operator.NewSecret()
	meta := metav1.ObjectMeta{
		Namespace: ns, Name: "manager", Labels: map[string]string{"app.kubernetes.io/name": "m2m-operator"},
		Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":"` + secret + `"}`, "example.com/note": secret},
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: "manager", Image: "m2m-operator:v1", Args: []string{"--workers=4", "--proxy=" + secret}, Env: []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://u:" + secret + "@proxy"}},
	}}}
	d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: meta.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: spec},
	}}
	operator.Create(t, d, &corev1.Pod{ObjectMeta: meta, Spec: spec})
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), d); err != nil {
			t.Error(err)
		}
	})
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: secret, v1alpha1.RotateCredentialAnnotation: secret}
		c.Spec.Access[0].Parameters = []v1alpha1.RequestParameter{{Name: "organization", Value: secret}}
		c.Spec.Secret.Template = map[string]string{"config": "password: " + secret}
	})
	s.Settle()

	file := filepath.Join(t.TempDir(), "report.tar.gz")
	a := run(t, op.Clock.Now(), "report", "-o", file, "--operator-namespace", ns)
	a.ends(t, 0)
	says(t, a.out, "Look through it before you send it")
	files := unpack(t, file)
	for name, text := range files {
		if strings.Contains(text, operator.Sentinel) || kubetest.JWT.MatchString(text) {
			t.Errorf("%s shows a secret:\n%s", name, text)
		}
	}
	for name, parts := range map[string][]string{
		"check.yaml":    {"check: leader", "result: Failed"},
		"versions.yaml": {"image: m2m-operator:v1", "name: v1."},
		"objects/m2mclient/" + s.Shop + "/cart.yaml":              {"payments:write", "reason: TokensFresh", "name: organization"},
		"objects/authorizationserver/" + s.Shop + "/auth.yaml":    {"issuer: " + s.AS.Issuer(), "reason: Discovered"},
		"objects/apiresource/" + s.Payments + "/payment-api.yaml": {"identifier: " + operator.PaymentAPI},
		"operator/deployments/manager.yaml":                       {"--workers=4", "name: HTTPS_PROXY"},
		"operator/pods/manager.yaml":                              {"phase: Pending"},
		"metadata/secrets/" + s.Shop + "/cart-token.yaml":         {"creationTimestamp", "m2m-operator.io/m2m-client"},
	} {
		says(t, files[name], parts...)
	}
	a = run(t, op.Clock.Now(), "report", "-o", file)
	a.ends(t, 1)
	says(t, a.message, "file exists")

	// Who may read one namespace only gets what there is to get, and is told what is missing.
	reader(t, "dora", ns)
	file = filepath.Join(t.TempDir(), "report.tar.gz")
	a = run(t, op.Clock.Now(), "report", "-o", file, "--operator-namespace", ns, "--as", "dora")
	a.ends(t, 0)
	says(t, a.err, "Not in it: M2MClients: you may not list them", "Not in it: events: you may not list them", "Not in it: operator/logs/manager-manager.log: ")
	if _, ok := unpack(t, file)["operator/pods/manager.yaml"]; !ok {
		t.Error("what dora may read is not in her report")
	}

	// An operator elsewhere has a log, too.
	file = filepath.Join(t.TempDir(), "report.tar.gz")
	run(t, op.Clock.Now(), "report", "-o", file, "--operator-namespace", operator.NewNamespace(t, "empty", nil)).ends(t, 0)
	says(t, unpack(t, file)["missing.txt"], "the operator's log: no pod in namespace")
}

// TestReportGoesOn: a report of an operator with a long log has the newest lines, and one of a cluster that does not
// answer what check asks has all the rest. The control plane of the tests has no kubelet, so a proxy in front of it
// answers for logs as one does.
func TestReportGoesOn(t *testing.T) {
	ns := operator.NewNamespace(t, "system", nil)
	operator.Create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "manager", Labels: map[string]string{"app.kubernetes.io/name": "m2m-operator"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "m2m-operator:v1"}}},
	})
	lines := make([]string, 40_000)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"level":"info","msg":"Line %d","filler":"%s"}`, i, strings.Repeat("x", 300))
	}
	front := inFront(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch q := r.URL.Query(); {
		case r.URL.Path == "/version":
			http.Error(w, "no answer for now", http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "/log") && q.Get("previous") == "true":
			http.Error(w, "there is none", http.StatusBadRequest)
		case strings.HasSuffix(r.URL.Path, "/log"):
			tail := lines
			if n, err := strconv.Atoi(q.Get("tailLines")); err == nil {
				tail = tail[max(0, len(tail)-n):]
			}
			log := strings.Join(tail, "\n") + "\n"
			if n, err := strconv.Atoi(q.Get("limitBytes")); err == nil {
				log = log[:min(n, len(log))]
			}
			_, _ = io.WriteString(w, log)
		default:
			return false
		}
		return true
	})
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	a := run(t, time.Unix(0, 0), "report", "-o", file, "--operator-namespace", ns, "--kubeconfig", front)
	a.ends(t, 0)
	says(t, a.err, "Not in it: what kubectl m2m check says: ")
	log := unpack(t, file)["operator/logs/manager-manager.log"]
	if !strings.Contains(log, "Line 39999") {
		t.Errorf("the log of %d bytes does not have the newest line", len(log))
	}
}

// inFront puts a proxy in front of the control plane, and returns a kubeconfig that leads to it. What answer reports as
// answered does not reach the control plane.
func inFront(t *testing.T, answer func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	behind, err := url.Parse(operator.RESTConfig.Host)
	if err != nil || behind.Host == "" {
		behind = &url.URL{Scheme: "https", Host: operator.RESTConfig.Host}
	}
	transport, err := rest.TransportFor(operator.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind) }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	c := api.NewConfig()
	c.Clusters["c"], c.AuthInfos["u"], c.Contexts["x"] = &api.Cluster{Server: s.URL}, &api.AuthInfo{}, &api.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}
