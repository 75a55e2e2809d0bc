// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
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
		if strings.Contains(text, operator.Sentinel) || regexp.MustCompile(`eyJ[A-Za-z0-9]`).MatchString(text) {
			t.Errorf("%s shows a secret:\n%s", name, text)
		}
	}
	for name, parts := range map[string][]string{
		"check.yaml":    {"check: leader", "result: Failed"},
		"versions.yaml": {"image: m2m-operator:v1", "name: v1."},
		"objects/m2mclient/" + s.Shop + "/cart.yaml":              {"payments:write", "reason: TokensFresh", "name: organization"},
		"objects/authorizationserver/" + s.Shop + "/auth.yaml":    {"issuer: " + s.AS.Issuer(), "reason: Discovered"},
		"objects/apiresource/" + s.Payments + "/payment-api.yaml": {"identifier: " + operator.PaymentAPI},
		"operator/deployments/manager.yaml":                       {"--workers=4", "name: HTTPS_PROXY", "--proxy=("},
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
}
