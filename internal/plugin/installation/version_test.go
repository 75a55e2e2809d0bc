// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVersionsComeFromTheImages(t *testing.T) {
	for image, want := range map[string]string{
		"m2m-operator:v0.1.0":                                   "v0.1.0",
		"registry.example.com:5000/m2m-operator:v0.1.0":         "v0.1.0",
		"registry.example.com/team/m2m-operator:v0.1.0@sha256:": "v0.1.0",
		"registry.example.com:5000/m2m-operator":                "unknown",
		"registry.example.com/m2m-operator@sha256:00":           "unknown",
		"": "unknown",
	} {
		d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "manager"}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
		if diff := cmp.Diff([]Running{{Namespace: "system", Deployment: "manager", Image: image, Version: want}}, Versions([]appsv1.Deployment{d})); diff != "" {
			t.Errorf("%s: %s", image, diff)
		}
	}
}

func TestSkew(t *testing.T) {
	for name, tc := range map[string]struct {
		plugin, operator string
		advises          bool
	}{
		"the same version":          {"v0.1.0", "v0.1.0", false},
		"another patch":             {"v0.1.3", "v0.1.0", false},
		"an older plugin":           {"v0.1.0", "v0.2.0", true},
		"a newer plugin":            {"v1.0.0", "v0.2.0", true},
		"a plugin from a checkout":  {"(devel)", "v0.2.0", false},
		"an operator of no release": {"v0.1.0", "dev", false},
	} {
		t.Run(name, func(t *testing.T) {
			if advice := Skew(tc.plugin, tc.operator); (advice != "") != tc.advises || tc.advises && !strings.Contains(advice, tc.operator) {
				t.Errorf("got %q", advice)
			}
		})
	}
}
