// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/build"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestVersionCommand shows the versions of a released plugin and of an older operator.
func TestVersionCommand(t *testing.T) {
	build.Version, build.Revision = "v0.2.0", "abc"
	t.Cleanup(func() { build.Version, build.Revision = "", "" })
	now := time.Unix(0, 0)
	ns := operator.NewNamespace(t, "system", nil)

	a := run(t, now, "version", "--operator-namespace", ns)
	a.ends(t, 3)
	says(t, a.out, "kubectl m2m  v0.2.0 (commit abc, go1", "Kubernetes   v1.")
	says(t, a.err, `There is no operator in namespace "`+ns+`"`)

	operator.Create(t, held(ns, now))
	a = run(t, now, "version", "--operator-namespace", ns)
	a.ends(t, 0)
	says(t, a.out, "operator     unknown (outside of the cluster: pod-1 holds the lease in namespace "+ns+")")
	a = run(t, now.Add(time.Hour), "version", "--operator-namespace", ns)
	a.ends(t, 3)
	says(t, a.err, "There is no operator in namespace")

	labels := map[string]string{"app.kubernetes.io/name": "m2m-operator"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "manager", Labels: labels}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "manager", Image: "registry.example.com/m2m-operator:v0.1.0"}}
	operator.Create(t, d)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), d); err != nil {
			t.Error(err)
		}
	})
	a = run(t, now, "version", "--operator-namespace", ns)
	a.ends(t, 0)
	says(t, a.out, "operator     v0.1.0 (Deployment "+ns+"/manager, image registry.example.com/m2m-operator:v0.1.0)", "Install the plugin of v0.1.0")
	a = run(t, now, "version", "--operator-namespace", ns, "-o", "json")
	says(t, a.out, `"version": "v0.2.0"`, `"image": "registry.example.com/m2m-operator:v0.1.0"`)

	a = run(t, now, "version", "--operator-namespace", ns, "--as", "nobody")
	a.ends(t, 4)
	says(t, a.err, `you may not list deployments.apps in namespace "`+ns+`"`)

	a = run(t, now, "version", "--client", "--server", "https://127.0.0.1:1")
	a.ends(t, 0)
	if a.out == "" || a.err != "" {
		t.Errorf("with --client it asks a cluster: %q, %q", a.out, a.err)
	}
	run(t, now, "version", "--server", "https://127.0.0.1:1").ends(t, 1)
}
