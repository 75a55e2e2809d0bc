// SPDX-License-Identifier: Apache-2.0

// Package chart tests the Helm chart with a real helm and a real API server.
// Whatever the values, the chart is what kustomize makes of config/, the API
// server accepts it, and an operator with the permissions and flags that it
// renders works.
package chart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

const (
	root     = "../.."
	chartDir = root + "/charts/m2m-operator"

	// With these names, the release's objects are called as config/default calls them.
	release   = "m2m-operator"
	namespace = "m2m-operator-system"
)

var (
	restConfig *rest.Config
	kube       client.Client
	// Paths of the tools.
	helm, kustomize string
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	kubetest.Main(root, func(environment *envtest.Environment) (code int, err error) {
		for name, path := range map[string]*string{"helm": &helm, "kustomize": &kustomize} {
			tool := exec.Command(filepath.Join(root, "hack", "tool.sh"), "--path", name)
			tool.Stderr = os.Stderr
			out, err := tool.Output()
			if err != nil {
				return 1, fmt.Errorf("hack/tool.sh --path %s: %w", name, err)
			}
			*path = strings.TrimSpace(string(out))
		}
		restConfig = environment.Config
		if _, err := envtest.InstallCRDs(restConfig, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{
			ofOthers("cert-manager.io", "v1", "Certificate"), ofOthers("cert-manager.io", "v1", "Issuer"),
			ofOthers("monitoring.coreos.com", "v1", "ServiceMonitor"), ofOthers("monitoring.coreos.com", "v1", "PrometheusRule"),
		}}); err != nil {
			return 1, err
		}
		plain, err := client.New(restConfig, client.Options{Scheme: controller.Scheme()})
		if err != nil {
			return 1, err
		}
		kube = client.WithFieldValidation(plain, metav1.FieldValidationStrict)
		return m.Run(), nil
	})
}

// ofOthers stands for a kind of another project. It accepts any fields, because
// this API server cannot know them.
func ofOthers(group, version, kind string) *apiextensionsv1.CustomResourceDefinition {
	plural := strings.ToLower(kind) + "s"
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: ptr.To(true),
				}},
			}},
		},
	}
}

// valuesFile writes values to a file.
func valuesFile(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// image are the values of the image, which has no default before a release.
const image = "image: {repository: registry.example.com/m2m-operator}"

// render returns the objects of a release.
func render(t *testing.T, release, namespace string, values ...string) []*unstructured.Unstructured {
	t.Helper()
	args := []string{"template", release, chartDir, "--namespace", namespace, "--values", valuesFile(t, image)}
	for _, v := range values {
		args = append(args, "--values", valuesFile(t, v))
	}
	return objects(t, output(t, helm, args...))
}

// brief returns a command that ends before its garbage matters: a hundred runs of helm and
// kustomize spend a fifth of their processor time collecting it.
func brief(tool string, args ...string) *exec.Cmd {
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "GOGC=off")
	return cmd
}

// output runs a tool that must succeed and print nothing but its result.
func output(t *testing.T, tool string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := brief(tool, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %s: %v: %s", filepath.Base(tool), strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// objects reads a stream of objects, in which no key may occur twice.
func objects(t *testing.T, manifests []byte) (all []*unstructured.Unstructured) {
	t.Helper()
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(manifests)))
	defer reader.Close()
	buffer := make([]byte, len(manifests)+1)
	for {
		n, err := reader.Read(buffer)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		object := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(buffer[:n], &object.Object); err != nil {
			t.Fatalf("%v:\n%s", err, buffer[:n])
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// id identifies an object among all others.
func id(o *unstructured.Unstructured) string {
	return strings.Join([]string{o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()}, " ")
}
