// SPDX-License-Identifier: Apache-2.0

// Package fences attacks with the operator's own ServiceAccount. The installation's
// roles let it write certain objects; the admission policies of config/admission
// narrow this to what the operator writes, and an attack here proves each of them.
package fences

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

const (
	root            = "../.."
	systemNamespace = "m2m-operator-system"
	operatorAccount = "system:serviceaccount:" + systemNamespace + ":m2m-operator-controller-manager"
)

var (
	restConfig *rest.Config
	kube       client.Client // an administrator's
	kustomize  string
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	kubetest.Main(root, func(environment *envtest.Environment) (code int, err error) {
		tool := exec.Command(filepath.Join(root, "hack", "tool.sh"), "--path", "kustomize")
		tool.Stderr = os.Stderr
		out, err := tool.Output()
		if err != nil {
			return 1, fmt.Errorf("hack/tool.sh --path kustomize: %w", err)
		}
		kustomize = strings.TrimSpace(string(out))
		restConfig = environment.Config
		if kube, err = client.New(restConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		if err := install(); err != nil {
			return 1, err
		}
		return m.Run(), nil
	})
}

// install creates the objects of config/default, except those that need nodes, and
// lets the operator's ServiceAccount do everything: only the policies restrict it.
func install() error {
	objects, err := build(filepath.Join(root, "config", "default"))
	if err != nil {
		return err
	}
	everything := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "everything"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: operatorAccount}},
	}
	if err := kube.Create(context.Background(), everything); err != nil {
		return err
	}
	for _, old := range []client.Object{filled(), dated()} {
		if err := kube.Create(context.Background(), old); err != nil {
			return err
		}
	}
	if _, err := envtest.InstallCRDs(restConfig, envtest.CRDInstallOptions{CRDs: kubetest.GatewayKinds()}); err != nil {
		return err
	}
	var rest []*unstructured.Unstructured
	for _, o := range objects {
		switch o.GetKind() {
		case "CustomResourceDefinition", "Deployment", "PodDisruptionBudget":
		case "Namespace":
			if err := kube.Create(context.Background(), o); err != nil {
				return err
			}
		default:
			rest = append(rest, o)
		}
	}
	for _, o := range rest {
		if err := kube.Create(context.Background(), o); err != nil {
			return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// build returns the output of kustomize for a folder.
func build(dir string) ([]*unstructured.Unstructured, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(kustomize, "build", dir)
	cmd.Env = append(os.Environ(), "GOGC=off") // it ends before its garbage matters
	cmd.Stderr = &stderr
	manifests, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w: %s", dir, err, stderr.String())
	}
	var objects []*unstructured.Unstructured
	for decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
}

// installations are what config/default makes, alone and with each component. All tests
// share them: read only.
func installations(t *testing.T) map[string][]*unstructured.Unstructured {
	t.Helper()
	all, err := builds()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var builds = sync.OnceValues(buildAll)

func buildAll() (_ map[string][]*unstructured.Unstructured, err error) {
	config, err := os.MkdirTemp("", "fences-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(config)) }()
	if err := os.CopyFS(config, os.DirFS(filepath.Join(root, "config"))); err != nil {
		return nil, err
	}
	components, err := os.ReadDir(filepath.Join(config, "components"))
	if err != nil {
		return nil, err
	}
	all := map[string][]*unstructured.Unstructured{}
	if all["config/default"], err = build(filepath.Join(config, "default")); err != nil {
		return nil, err
	}
	with := filepath.Join(config, "with-component")
	if err := os.Mkdir(with, 0o700); err != nil {
		return nil, err
	}
	for _, c := range components {
		text := "resources: [../default]\ncomponents: [../components/" + c.Name() + "]\n"
		if err := os.WriteFile(filepath.Join(with, "kustomization.yaml"), []byte(text), 0o600); err != nil {
			return nil, err
		}
		if all["component "+c.Name()], err = build(with); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// as converts an object to its Go type.
func as[T any](t *testing.T, o *unstructured.Unstructured) *T {
	t.Helper()
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func newNamespace(t *testing.T, name string) string {
	t.Helper()
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
	}
}
