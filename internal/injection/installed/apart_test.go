// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// apart installs the accounts and roles of the component webhook-deployment until the test
// ends.
func apart(t *testing.T) {
	t.Helper()
	config := t.TempDir()
	if err := os.CopyFS(config, os.DirFS(filepath.Join("..", "..", "..", "config"))); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(config, "apart")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	kustomization := "resources: [../default]\ncomponents: [../components/webhook-deployment]\n"
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	manifests, err := exec.Command(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "kustomize", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := documents.Decode(&o.Object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		switch kind := o.GetKind(); {
		case kind != "ServiceAccount" && !strings.Contains(kind, "Role"), !strings.HasPrefix(o.GetName(), "m2m-operator-webhook"):
		case kind == "ClusterRole" && o.GetName() == "m2m-operator-webhook-certificate": // unchanged
		case kind == "ClusterRoleBinding" && o.GetName() == "m2m-operator-webhook-certificate":
			former := &unstructured.Unstructured{}
			former.SetGroupVersionKind(o.GroupVersionKind())
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), former); err != nil {
				t.Fatal(err)
			}
			replaceSubjects(t, former, o.Object["subjects"])
			t.Cleanup(func() { replaceSubjects(t, o, former.Object["subjects"]) })
		default:
			create(t, o)
		}
	}
}

// replaceSubjects changes the subjects of a binding.
func replaceSubjects(t *testing.T, binding *unstructured.Unstructured, subjects any) {
	t.Helper()
	now := &unstructured.Unstructured{}
	now.SetGroupVersionKind(binding.GroupVersionKind())
	if err := kube.Get(context.Background(), client.ObjectKeyFromObject(binding), now); err != nil {
		t.Fatal(err)
	}
	now.Object["subjects"] = subjects
	if err := kube.Update(context.Background(), now); err != nil {
		t.Fatal(err)
	}
}

// TestTheWebhookApart: the permissions of the webhook's own account are sufficient, and no
// larger than necessary.
func TestTheWebhookApart(t *testing.T) {
	apart(t)
	r := startAs(t, service)
	configure(t, r)
	shop := newNamespace(t, nil)
	story(t, shop, r)
	p := pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart"})
	create(t, p)
	same(t, "what is injected", "secret/tokens.of.cart", p.Annotations[v1alpha1.InjectedAnnotation])

	type access = authorizationv1.ResourceAttributes
	const admission = "admissionregistration.k8s.io"
	for name, tc := range map[string]struct {
		account string
		access  access
		want    bool
	}{
		"its certificate":                         {service, access{Namespace: systemNamespace, Resource: "secrets", Verb: "update", Name: secretName.Name}, true},
		"another Secret of the namespace":         {service, access{Namespace: systemNamespace, Resource: "secrets", Verb: "get", Name: "m2m-credential-x"}, false},
		"all Secrets of the namespace":            {service, access{Namespace: systemNamespace, Resource: "secrets", Verb: "list"}, false},
		"a tenant's Secret":                       {service, access{Namespace: shop, Resource: "secrets", Verb: "get"}, false},
		"a tenant's client":                       {service, access{Namespace: shop, Group: "m2m-operator.io", Resource: "m2mclients", Verb: "patch"}, false},
		"its configuration":                       {service, access{Group: admission, Resource: "mutatingwebhookconfigurations", Verb: "patch", Name: configuration}, true},
		"another configuration":                   {service, access{Group: admission, Resource: "mutatingwebhookconfigurations", Verb: "patch", Name: "other"}, false},
		"the configuration, from the controllers": {account, access{Group: admission, Resource: "mutatingwebhookconfigurations", Verb: "patch", Name: configuration}, false},
	} {
		t.Run(name, func(t *testing.T) {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               "system:serviceaccount:" + systemNamespace + ":" + tc.account,
				ResourceAttributes: &tc.access,
			}}
			if err := kube.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			same(t, "allowed", tc.want, review.Status.Allowed)
		})
	}
}
