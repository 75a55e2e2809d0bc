// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// kinds are the kinds of the data, and where etcd has their objects.
var kinds = []struct {
	gvk    schema.GroupVersionKind
	prefix string
}{
	{corev1.SchemeGroupVersion.WithKind("Namespace"), "namespaces"},
	{v1alpha1.GroupVersion.WithKind("ClusterAuthorizationServer"), "m2m-operator.io/clusterauthorizationservers"},
	{v1alpha1.GroupVersion.WithKind("AuthorizationServer"), "m2m-operator.io/authorizationservers"},
	{v1alpha1.GroupVersion.WithKind("APIResource"), "m2m-operator.io/apiresources"},
	{v1alpha1.GroupVersion.WithKind("M2MClient"), "m2m-operator.io/m2mclients"},
	{corev1.SchemeGroupVersion.WithKind("Secret"), "secrets"},
	{corev1.SchemeGroupVersion.WithKind("ConfigMap"), "configmaps"},
	{appsv1.SchemeGroupVersion.WithKind("Deployment"), "deployments"},
	{corev1.SchemeGroupVersion.WithKind("Pod"), "pods"},
}

// data is what a cluster held at a time.
type data struct {
	At      time.Time                   `json:"at"`
	Servers answers                     `json:"servers"`
	Objects []unstructured.Unstructured `json:"-"`
}

// namespaces are those of the data.
var namespaces = []string{operator.Namespace, "payments", "shop"}

// of returns the objects of the data's namespaces, as the API server has them.
func of(t *testing.T) (all []unstructured.Unstructured) {
	t.Helper()
	ours := map[string]bool{"": true}
	for _, n := range namespaces {
		ours[n] = true
	}
	for _, k := range kinds {
		var list unstructured.UnstructuredList
		list.SetGroupVersionKind(k.gvk)
		if err := operator.Kube.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if ours[o.GetNamespace()] && (k.gvk.Kind != "Namespace" || ours[o.GetName()]) {
				all = append(all, o)
			}
		}
	}
	return all
}

// save writes the data to a directory: the objects as a stream, and the rest.
func (d *data) save(t *testing.T, dir string) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("# SPDX-License-Identifier: Apache-2.0\n# Written by make upgrade-data. The secrets are of test servers.\n")
	for i := range d.Objects {
		d.Objects[i].SetResourceVersion("") // which etcd does not hold
		y, err := yaml.Marshal(d.Objects[i].Object)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(y)
	}
	rest, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"objects.yaml": b.Bytes(), "servers.json": append(rest, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// saved reads the data of a directory.
func saved(t *testing.T, dir string) *data {
	t.Helper()
	var d data
	rest, err := os.ReadFile(filepath.Join(dir, "servers.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(rest, &d); err != nil {
		t.Fatal(err)
	}
	objects, err := os.ReadFile(filepath.Join(dir, "objects.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(objects), "\n---\n")[1:] {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		d.Objects = append(d.Objects, o)
	}
	return &d
}

// restore puts the objects into etcd, where they have their identities and their ages, as
// after an upgrade. The test's end removes them.
func (d *data) restore(t *testing.T) {
	t.Helper()
	for i := range d.Objects {
		o := &d.Objects[i]
		content, err := json.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		key := base64.StdEncoding.EncodeToString([]byte(keyOf(t, o)))
		etcd(t, "put", map[string]string{"key": key, "value": base64.StdEncoding.EncodeToString(content)})
		t.Cleanup(func() { etcd(t, "deleterange", map[string]string{"key": key}) })
	}
	for i := range d.Objects {
		o := d.Objects[i].DeepCopy()
		operator.Eventually(t, func() error {
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if o.GetUID() != d.Objects[i].GetUID() {
				return fmt.Errorf("%s %s has another UID", o.GetKind(), o.GetName())
			}
			return nil
		})
	}
}

func keyOf(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	for _, k := range kinds {
		if k.gvk == o.GroupVersionKind() {
			return path.Join("/registry", k.prefix, o.GetNamespace(), o.GetName())
		}
	}
	t.Fatalf("the data has an unknown kind: %s", o.GroupVersionKind())
	return ""
}

// etcd calls the JSON gateway of etcd's API.
func etcd(t *testing.T, method string, request map[string]string) {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	url := operator.Environment.ControlPlane.Etcd.URL.JoinPath("v3", "kv", method)
	resp, err := http.Post(url.String(), "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("etcd %s: %s: %s", method, resp.Status, answer)
	}
}
