// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/controller"
)

const operatorUser = "m2m-operator"

// installRoles gives the operator's user the roles that the installation gives
// to its ServiceAccount, and no more.
func installRoles(ctx context.Context) error {
	manifest, err := os.ReadFile(filepath.Join(root, "config", "rbac", "role.yaml"))
	if err != nil {
		return err
	}
	documents := strings.Split(strings.TrimPrefix(string(manifest), "---\n"), "\n---\n")
	for _, gateway := range []string{"envoy-gateway", "istio"} {
		manifest, err := os.ReadFile(filepath.Join(root, "config", "components", "enforcement-"+gateway, "role", "role.yaml"))
		if err != nil {
			return err
		}
		role, _, _ := strings.Cut(string(manifest), "\n---\n")
		documents = append(documents, role)
	}
	for _, document := range documents {
		role := &rbacv1.ClusterRole{}
		if err := yaml.UnmarshalStrict([]byte(document), role); err != nil {
			return err
		}
		if err := kube.Create(ctx, role); err != nil {
			return err
		}
		if err := kube.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: operatorUser}},
		}); err != nil {
			return err
		}
	}
	return kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}})
}

const operatorNamespace = "m2m-operator-system"

// startOperator runs the operator with the rights of its role until the test
// ends.
func startOperator(t *testing.T, o controller.Options) {
	t.Helper()
	o.OperatorNamespace = operatorNamespace
	user, err := environment.AddUser(envtest.User{Name: operatorUser}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(user.Config())
	config.QPS, config.Burst = -1, 0
	mo := controller.ManagerOptions(o)
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	skip := true
	mo.Controller.SkipNameValidation = &skip
	mgr, err := ctrl.NewManager(config, mo)
	if err != nil {
		t.Fatal(err)
	}
	if err := controller.Setup(mgr, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the operator stopped: %v", err)
		}
	})
	if !mgr.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("the caches did not fill")
	}
}
