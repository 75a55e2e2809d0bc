// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/manifest"
)

const (
	group  = "apiVersion: m2m-operator.io/v1alpha1\n"
	api    = "kind: APIResource\nmetadata: {name: payment-api, namespace: payments}\n"
	orders = "{apiVersion: m2m-operator.io/v1alpha1, kind: APIResource, metadata: {name: orders}}"
)

// TestParse: a review sees each object that kubectl would apply, however the file packs it.
func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		want []string
	}{
		"nothing":                        {"", nil},
		"two documents":                  {group + api + "--- # and another\n" + orders, []string{"APIResource payments/payment-api", "APIResource shop/orders"}},
		"what is not ours":               {"apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n", nil},
		"a document without a kind":      {"items: [a, b]\nvalues: {c: d}\n", nil},
		"JSON":                           {`{"apiVersion": "m2m-operator.io/v1alpha1", "kind": "M2MClient", "metadata": {"name": "cart"}}`, []string{"M2MClient shop/cart"}},
		"a List":                         {"apiVersion: v1\nkind: List\nitems:\n- " + orders, []string{"APIResource shop/orders"}},
		"a List in a List":               {"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: [" + orders + "]}", []string{"APIResource shop/orders"}},
		"an APIResourceList":             {group + "kind: APIResourceList\nitems:\n- " + orders, []string{"APIResource shop/orders"}},
		"one whose items have no kind":   {group + "kind: APIResourceList\nitems:\n- metadata: {name: orders}", []string{"APIResource shop/orders"}},
		"anything with items":            {"apiVersion: v1\nkind: ConfigMap\nitems:\n- " + orders, []string{"APIResource shop/orders"}},
		"a namespace with a namespace":   {"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, namespace: other}", []string{"Namespace shop"}},
		"a cluster's server with one":    {group + "kind: ClusterAuthorizationServer\nmetadata: {name: company, namespace: other}", []string{"ClusterAuthorizationServer company"}},
		"duplicates in what is not ours": {"apiVersion: v1\nkind: Secret\nkind: Secret\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := manifest.Parse([]byte(tc.file), "shop")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				kind := inventory.KindOf(o)
				if kind == "" {
					kind = "Namespace"
				}
				got = append(got, kind+" "+strings.TrimPrefix(fmt.Sprintf("%s/%s", o.GetNamespace(), o.GetName()), "/"))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseRefuses: a review must not overlook what a reader of YAML passes over.
func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"a misspelled field":           {group + api + "spec: {grant: []}", `unknown field "spec.grant"`},
		"a field in capitals":          {group + api + "spec: {Grants: []}", `unknown field "spec.Grants"`},
		"a field twice":                {group + api + "spec: {grants: [], grants: []}", `"grants" already set`},
		"a field twice in a list":      {"apiVersion: v1\nkind: List\nitems:\n- kind: APIResource\n  " + group + "  metadata: {name: a, name: b}", `"name" already set`},
		"items in one of our kinds":    {group + api + "items: []", `unknown field "items"`},
		"no name":                      {group + "kind: M2MClient", "metadata.name is not set"},
		"a Namespace without a name":   {"apiVersion: v1\nkind: Namespace", "metadata.name is not set"},
		"no YAML":                      {"a: [", "did not find expected"},
		"a document that ends with …":  {"a: b\n...\n" + group + api, "did not find expected <document start>"},
		"a separator after a lone CR":  {"a: b\r---\r" + group + api, "more than one document"},
		"two objects of JSON in a row": {`{"a": 1}{"apiVersion": "m2m-operator.io/v1alpha1", "kind": "M2MClient", "metadata": {"name": "cart"}}`, "did not find expected"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := manifest.Parse([]byte(tc.file), "shop")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%d objects and the error %v, want %q", len(objects), err, tc.want)
			}
		})
	}
}
