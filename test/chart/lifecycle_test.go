// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// cluster runs helm and kubectl against the API server.
type cluster struct{ kubeconfig, kubectl string }

func newCluster(t *testing.T) cluster {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: restConfig.Host, CertificateAuthorityData: restConfig.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: restConfig.BearerToken}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return cluster{kubeconfig, filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")}
}

// run runs a command line as a page or Helm's notes show it.
func (c cluster) run(line string) (string, error) {
	args := strings.Fields(line)
	tool := map[string]string{"helm": helm, "kubectl": c.kubectl}[args[0]]
	if args[0] == "kubectl" { // which remembers what the API server serves
		args = append(args, "--cache-dir", filepath.Join(filepath.Dir(c.kubeconfig), "cache"))
	}
	out, err := brief(tool, append(args[1:], "--kubeconfig", c.kubeconfig)...).CombinedOutput()
	return string(out), err
}

// must runs a command line that has to succeed.
func (c cluster) must(t *testing.T, line string) string {
	t.Helper()
	out, err := c.run(line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// helm runs helm, which has to succeed.
func (c cluster) helm(t *testing.T, args ...string) string {
	t.Helper()
	return c.must(t, "helm "+strings.Join(args, " "))
}

// formerChart is the chart as an earlier version could have been: without a short name of a
// kind.
func formerChart(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	for file, change := range map[string][2]string{
		"templates/crd-m2mclients.yaml": {"    shortNames:\n    - m2mc\n", ""},
		"Chart.yaml":                    {"\nversion: ", "\nversion: 0.0.1-before."},
	} {
		content := string(read(t, filepath.Join(dir, file)))
		changed := strings.Replace(content, change[0], change[1], 1)
		if changed == content {
			t.Fatalf("%s does not have %q", file, change[0])
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestUpgradeAndUninstall follows a release from one version to the next,
// through its removal, and to the removal of what it deliberately leaves behind.
func TestUpgradeAndUninstall(t *testing.T) {
	c := newCluster(t)
	helm := func(args ...string) string { return c.helm(t, args...) }
	crds := extensions(t)
	gone := func() error {
		var left apiextensionsv1.CustomResourceDefinitionList
		if err := crds.List(t.Context(), &left); err != nil {
			return err
		}
		for _, crd := range left.Items {
			if crd.Spec.Group == v1alpha1.GroupVersion.Group {
				return fmt.Errorf("%s is still there", crd.Name)
			}
		}
		return nil
	}
	shortNames := func(want ...string) {
		t.Helper()
		var crd apiextensionsv1.CustomResourceDefinition
		if err := crds.Get(t.Context(), client.ObjectKey{Name: "m2mclients.m2m-operator.io"}, &crd); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(crd.Spec.Names.ShortNames, want) {
			t.Errorf("the CRD has the short names %q, want %q", crd.Spec.Names.ShortNames, want)
		}
	}
	// Other tests need the suite's own CRDs, which are removed for the release's meanwhile.
	own := envtest.CRDInstallOptions{Paths: []string{root + "/config/crd/bases"}}
	if err := envtest.UninstallCRDs(restConfig, own); err != nil {
		t.Fatal(err)
	}
	eventually(t, gone)
	t.Cleanup(func() {
		if _, err := envtest.InstallCRDs(restConfig, own); err != nil {
			t.Error(err)
		}
	})

	values := valuesFile(t, image)
	c.must(t, "kubectl get namespaces") // so that it remembers an API server without our kinds
	notes := helm("install", "m2m-operator", formerChart(t), "--namespace", "lifecycle", "--create-namespace", "--values", values)
	shortNames()
	theNotesHelp(t, c, notes)
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}})
	left := cart("tenant")
	create(t, left)
	deployment := func() error {
		return kube.Get(t.Context(), client.ObjectKey{Namespace: "lifecycle", Name: "m2m-operator-controller-manager"}, &appsv1.Deployment{})
	}
	if err := deployment(); err != nil {
		t.Fatal(err)
	}

	helm("upgrade", "m2m-operator", chartDir, "--namespace", "lifecycle", "--values", values)
	shortNames("m2mc")

	helm("uninstall", "m2m-operator", "--namespace", "lifecycle")
	if err := deployment(); !apierrors.IsNotFound(err) {
		t.Errorf("the Deployment is still there: %v", err)
	}
	var remaining apiextensionsv1.CustomResourceDefinitionList
	if err := crds.List(t.Context(), &remaining); err != nil {
		t.Fatal(err)
	}
	for _, crd := range remaining.Items {
		if crd.DeletionTimestamp != nil {
			t.Errorf("%s goes with the release", crd.Name)
		}
	}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(left), &v1alpha1.M2MClient{}); err != nil {
		t.Errorf("the M2MClient went with the release: %v", err)
	}

	// A release of another name, which takes everything along when it is removed.
	helm("install", "other-m2m-operator", chartDir, "--namespace", "lifecycle", "--take-ownership", "--set", "crds.keep=false", "--values", values)
	helm("uninstall", "other-m2m-operator", "--namespace", "lifecycle")
	// The API server checks every few seconds whether a CRD's objects are gone.
	kubetest.Within(t, 2*time.Minute, gone)
}

// theNotesHelp runs the commands that Helm prints after an installation. They work at once.
func theNotesHelp(t *testing.T, c cluster, notes string) {
	t.Helper()
	if !strings.Contains(notes, "Its image is registry.example.com/m2m-operator:") {
		t.Errorf("the notes do not name the image:\n%s", notes)
	}
	if !strings.Contains(notes, "\n  kubectl m2m check --operator-namespace lifecycle\n") {
		t.Errorf("the notes do not say how to check an installation in this namespace:\n%s", notes)
	}
	ran := 0
	for _, m := range regexp.MustCompile(`(?m)^  (kubectl .+)$`).FindAllStringSubmatch(notes, -1) {
		line := m[1]
		if strings.HasPrefix(line, "kubectl m2m ") {
			continue // the plugin's own tests run it
		}
		// No kubelet starts the pods here, so there is nothing to wait for.
		c.must(t, strings.Replace(line, "--timeout=2m", "--watch=false", 1))
		ran++
	}
	if ran < 2 {
		t.Errorf("there are %d commands in the notes:\n%s", ran, notes)
	}
}

// TestFromKubectlToHelm moves an installation by kubectl to Helm with the commands of the page.
func TestFromKubectlToHelm(t *testing.T) {
	c := newCluster(t)
	manifests := valuesFile(t, string(output(t, kustomize, "build", root+"/config/default")))
	c.must(t, "kubectl apply --server-side --force-conflicts -f "+manifests)
	for _, flag := range []string{"", " --take-ownership", " --force-conflicts"} {
		line := "helm install m2m-operator " + chartDir + " --namespace m2m-operator-system --values " + valuesFile(t, image) + flag
		if out, err := c.run(line); err == nil {
			t.Errorf("%s works, so the page says too much:\n%s", line, out)
		}
	}
	page := string(read(t, root+"/docs/install.md"))
	_, section, ok := strings.Cut(page, "\n### From kubectl to Helm\n")
	block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(section)
	if !ok || block == nil {
		t.Fatal("the page does not say how to move from kubectl to Helm")
	}
	for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
		line = strings.NewReplacer(" --wait", "", " charts/", " "+root+"/charts/").Replace(strings.TrimSpace(line))
		if strings.Contains(line, "--cascade=orphan") {
			c.must(t, line+" --wait=false")
			c.orphan(t)
			continue
		}
		c.must(t, line)
	}
	var d appsv1.Deployment
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "m2m-operator-controller-manager"}, &d); err != nil {
		t.Fatal(err)
	}
	if d.Labels["app.kubernetes.io/managed-by"] != "Helm" || d.Spec.Selector.MatchLabels["app.kubernetes.io/instance"] != "m2m-operator" {
		t.Errorf("the Deployment is not the release's: %v, %v", d.Labels, d.Spec.Selector)
	}
	c.helm(t, "upgrade", "m2m-operator", chartDir, "--namespace", namespace, "--reuse-values", "--set", "replicas=3")
	c.helm(t, "uninstall", "m2m-operator", "--namespace", namespace)
}

// orphan does what the garbage collector, which does not run here, does with Deployments that are
// deleted without their ReplicaSets.
func (c cluster) orphan(t *testing.T) {
	t.Helper()
	var all appsv1.DeploymentList
	if err := kube.List(t.Context(), &all, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range all.Items {
		if d := &all.Items[i]; d.DeletionTimestamp != nil {
			if err := kube.Patch(t.Context(), d, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestThePageOnInstallingNamesEverything compares docs/install.md with what is installed.
func TestThePageOnInstallingNamesEverything(t *testing.T) {
	page := string(read(t, root+"/docs/install.md"))
	var components []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| [^|]+ \\|$").FindAllStringSubmatch(page, -1) {
		components = append(components, m[1])
	}
	entries, err := os.ReadDir(root + "/config/components")
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, e := range entries {
		there = append(there, e.Name())
	}
	if diff := cmp.Diff(there, components); diff != "" {
		t.Errorf("the components (-config +page):\n%s", diff)
	}

	m := regexp.MustCompile(`kubectl delete (\S+) -l (\S+)=(\S+)`).FindStringSubmatch(page)
	if m == nil {
		t.Fatal("the page does not say how to uninstall with kubectl")
	}
	deleted := strings.Split(m[1], ",")
	for _, o := range objects(t, output(t, kustomize, "build", root+"/config/default")) {
		if o.GetNamespace() != "" || o.GetKind() == "Namespace" || o.GetKind() == "CustomResourceDefinition" {
			continue
		}
		mapping, err := kube.RESTMapper().RESTMapping(o.GroupVersionKind().GroupKind())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(deleted, mapping.Resource.Resource) || o.GetLabels()[m[2]] != m[3] {
			t.Errorf("the command on the page leaves %s", id(o))
		}
	}
}

// extensions is a client for CRDs.
func extensions(t *testing.T) client.Client {
	t.Helper()
	c, err := client.New(restConfig, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	return c
}
