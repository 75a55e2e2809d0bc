// SPDX-License-Identifier: Apache-2.0

package gitops_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

const (
	repository = root + "/docs/examples/gitops"
	reviewPage = root + "/docs/guides/gitops-review.md"
)

// TestRepository applies the sample repository of docs/examples/gitops, and reviews the
// access request in it as the page says. What kubectl m2m shows must be what the page shows,
// and then happen.
func TestRepository(t *testing.T) {
	tenant := operator.NewTenant(t)
	management := tenant.Management()
	management.Name, management.Namespace = "company-management", operator.Namespace
	operator.Create(t, management)
	t.Cleanup(func() { operator.LetGo(t, "payments", "shop") })
	address := strings.NewReplacer("https://auth.example.com/oidc", tenant.Logto.Issuer(), "https://auth.example.com", tenant.Logto.Endpoint())

	var applied []*unstructured.Unstructured
	for _, team := range []string{"platform", "api-team", "client-team"} {
		for _, m := range objectsIn(t, address.Replace(kustomized(t, repository+"/"+team))) {
			apply(t, m)
			applied = append(applied, m)
		}
	}
	letGoLater(t, applied)
	operator.Start(t)
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	operator.IsReady(t, cart)

	reviewer(t)
	out, code := m2m(t, "access", "diff", "-f", filepath.FromSlash(repository+"/access-request"))
	if code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if diff := cmp.Diff(shown(t, "kubectl m2m access diff -f"), out); diff != "" {
		t.Errorf("what the page shows, and what access diff says (-page +said):\n%s", diff)
	}
	// The page also shows the same request without the grant.
	out, _ = m2m(t, "access", "diff", "-f", filepath.FromSlash(repository+"/access-request/report.yaml"))
	if diff := cmp.Diff(shown(t, "kubectl m2m access diff -f report.yaml"), out); diff != "" {
		t.Errorf("without the grant (-page +said):\n%s", diff)
	}

	for _, file := range []string{"apiresource.yaml", "report.yaml"} {
		b, err := os.ReadFile(filepath.FromSlash(repository + "/access-request/" + file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range objectsIn(t, string(b)) {
			apply(t, m)
			letGoLater(t, []*unstructured.Unstructured{m})
		}
	}
	operator.IsReady(t, &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "report"}})
}

// kustomized builds a directory, with the kubectl of the control plane.
func kustomized(t *testing.T, dir string) string {
	t.Helper()
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	out, err := exec.Command(kubectl, "kustomize", filepath.FromSlash(dir)).Output()
	if err != nil {
		t.Fatalf("kustomize %s: %v", dir, err)
	}
	return string(out)
}

func objectsIn(t *testing.T, text string) (all []*unstructured.Unstructured) {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

// reviewer gives the user reviewer the rights that the page says are enough.
func reviewer(t *testing.T) {
	t.Helper()
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "reviewer"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list"}},
		},
	}
	operator.Create(t, role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reviewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reviewer"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "reviewer"}},
	})
}

// m2m runs kubectl m2m as the user reviewer.
func m2m(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	c := api.NewConfig()
	c.Clusters["c"] = &api.Cluster{Server: "https://" + strings.TrimPrefix(operator.RESTConfig.Host, "https://"), CertificateAuthorityData: operator.RESTConfig.CAData}
	c.AuthInfos["u"] = &api.AuthInfo{Token: operator.RESTConfig.BearerToken}
	c.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	root := command.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &stdout, ErrOut: &stderr}, time.Now)
	root.SetArgs(append([]string{"--kubeconfig", file, "--as", "reviewer"}, args...))
	code, message := command.Code(root.ExecuteContext(t.Context()))
	if message != "" || stderr.Len() > 0 {
		t.Errorf("kubectl m2m %s: %s%s", strings.Join(args, " "), stderr.String(), message)
	}
	return stdout.String(), code
}

// shown returns what the page shows as the answer to a command.
func shown(t *testing.T, typed string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(reviewPage))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?m)^\\$ " + regexp.QuoteMeta(typed) + ".*\n((?:[^`].*\n)+)```").FindStringSubmatch(string(b))
	if block == nil {
		t.Fatalf("the page does not show %q", typed)
	}
	return block[1]
}
