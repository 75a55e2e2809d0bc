// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/manifest"
)

// FuzzParse compares what Parse finds with what kubectl's own decoder finds: in a file that Parse accepts,
// kubectl must not find more.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		group + api, group + api + "---\n" + orders, "apiVersion: v1\nkind: List\nitems:\n- " + orders, group + "kind: APIResourceList\nitems:\n- metadata: {name: orders}",
		`{"apiVersion": "v1", "kind": "ConfigMap"}` + "\n" + `{"apiVersion": "m2m-operator.io/v1alpha1", "kind": "M2MClient", "metadata": {"name": "cart"}}`,
		"a: b\r---\r" + group + api, "a: b\n...\n" + group + api, "\ufeff" + group + api, "%YAML 1.1\n---\n" + group + api, group + api + "items: null",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		objects, err := manifest.Parse(file, "shop")
		if err != nil {
			return
		}
		var names []string
		for _, o := range objects {
			names = append(names, o.GetName())
		}
		for _, name := range applied(file) {
			i := slices.Index(names, name)
			if i < 0 {
				t.Fatalf("kubectl applies %q, which is not among %q", name, names)
			}
			names = slices.Delete(names, i, i+1)
		}
	})
}

// applied returns the names of the operator's objects that kubectl finds in a file, up to its first error.
func applied(file []byte) (names []string) {
	d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(file), 4096)
	for {
		var raw runtime.RawExtension
		if d.Decode(&raw) != nil {
			return names
		}
		if raw.Raw = bytes.TrimSpace(raw.Raw); len(raw.Raw) == 0 || bytes.Equal(raw.Raw, []byte("null")) {
			continue
		}
		o, _, err := unstructured.UnstructuredJSONScheme.Decode(raw.Raw, nil, nil)
		if err != nil {
			return names
		}
		names = append(names, namesIn(o)...)
	}
}

func namesIn(o runtime.Object) (names []string) {
	if meta.IsListType(o) {
		items, _ := meta.ExtractList(o)
		for _, item := range items {
			names = append(names, namesIn(item)...)
		}
		return names
	}
	if u, ok := o.(*unstructured.Unstructured); ok && u.GroupVersionKind().GroupVersion() == v1alpha1.GroupVersion && slices.Contains(
		[]string{"APIResource", "M2MClient", "AuthorizationServer", "ClusterAuthorizationServer"}, u.GetKind()) && u.GetName() != "" {
		names = append(names, u.GetName())
	}
	return names
}
