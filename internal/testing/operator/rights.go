// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/enforcement"
)

// RestrictedUser has the operator's ClusterRole and nothing else.
const RestrictedUser = "m2m-operator-restricted"

// ManagerRole reads the roles that the installation gives to the operator, merged into
// one.
func ManagerRole(t *testing.T) *rbacv1.ClusterRole {
	t.Helper()
	file := filepath.Join(root, "config", "rbac", "role.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: make manifests writes it", err)
	}
	all := &rbacv1.ClusterRole{}
	for document := range strings.SplitSeq(strings.TrimPrefix(string(b), "---\n"), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.UnmarshalStrict([]byte(document), &role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all.Rules = append(all.Rules, role.Rules...)
	}
	return all
}

// EnforcementRoles reads the roles that let the operator write the policies of gateways.
func EnforcementRoles(t *testing.T) (all []*rbacv1.ClusterRole) {
	t.Helper()
	for _, g := range enforcement.Gateways() {
		file := filepath.Join(root, "config", "components", "enforcement-"+string(g), "role", "role.yaml")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		document, _, _ := strings.Cut(string(b), "\n---\n")
		role := &rbacv1.ClusterRole{}
		if err := yaml.UnmarshalStrict([]byte(document), role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, role)
	}
	return all
}

// Restricted returns a connection with exactly the rights that the installation
// gives to the operator, and those of more roles.
func Restricted(t *testing.T, more ...*rbacv1.ClusterRole) *rest.Config {
	t.Helper()
	role := ManagerRole(t)
	for _, m := range more {
		role.Rules = append(role.Rules, m.Rules...)
	}
	role.Name = RestrictedUser
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: RestrictedUser},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RestrictedUser},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: RestrictedUser}},
	}
	Create(t, role, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{role, binding} {
			if err := Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	cfg := rest.CopyConfig(RESTConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: RestrictedUser}
	return cfg
}
