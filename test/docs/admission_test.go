// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const errorsPage = "docs/errors.md"

// valid are manifests that the API server accepts. The cases of admission
// change them.
var valid = map[string]string{
	"AuthorizationServer": `
apiVersion: m2m-operator.io/v1alpha1
kind: AuthorizationServer
metadata: {name: auth, namespace: default}
spec:
  issuer: https://auth.example.com
`,
	"ClusterAuthorizationServer": `
apiVersion: m2m-operator.io/v1alpha1
kind: ClusterAuthorizationServer
metadata: {name: auth}
spec:
  issuer: https://auth.example.com
  allowedNamespaces: {names: [shop, payments]}
`,
	"APIResource": `
apiVersion: m2m-operator.io/v1alpha1
kind: APIResource
metadata: {name: payment-api, namespace: default}
spec:
  authorizationServerRef: {name: auth}
  identifier: https://payment.example.com/api
  scopes: [{name: "payments:read"}, {name: "payments:write"}]
`,
	"M2MClient": `
apiVersion: m2m-operator.io/v1alpha1
kind: M2MClient
metadata: {name: cart, namespace: default}
spec:
  authorizationServerRef: {name: auth}
  access:
  - apiResourceRef: {name: payment-api, namespace: payments}
    scopes: ["payments:write"]
  credentials:
    clientSecret: {secretRef: {name: cart-credentials}}
`,
}

// admission is a mistake that the API server refuses.
type admission struct {
	kind string // of the manifest in valid
	set  string // a JSON merge patch, in YAML, that makes the mistake
	// then is a change to the object that set has made: the mistake is to make
	// it afterwards.
	then string
}

// TestAdmission makes every mistake of the page that the API server refuses,
// and compares its answer with the page.
func TestAdmission(t *testing.T) {
	rows := rowsOf(t, errorsPage, "## What the API server refuses")
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.id
	}
	sameSet(t, "mistake", ids, slices.Collect(maps.Keys(admissions)))
	for kind, manifest := range valid {
		if got := answer(t, admission{kind: kind}); got != "" {
			t.Errorf("the API server refuses the valid %s: %s\n%s", kind, got, manifest)
		}
	}
	for _, r := range rows {
		c, ok := admissions[r.id]
		if !ok {
			continue
		}
		t.Run(r.id, func(t *testing.T) {
			if len(r.cells) != 2 {
				t.Fatalf("the row has %d cells, want 3", len(r.cells)+1)
			}
			if got, want := answer(t, c), code(r.cells[1]); !says(got, want) {
				t.Errorf("the API server says\n  %s\nthe page says\n  %s", got, want)
			}
		})
	}
}

// notAll is what the API server adds when rules depend on the faulty part.
const notAll = ", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"

// answer makes a mistake and returns the API server's answer, without the
// object's name and without notAll.
func answer(t *testing.T, c admission) string {
	t.Helper()
	obj := patched(t, valid[c.kind], c.set)
	var err error
	if c.then == "" {
		err = kube.Create(t.Context(), obj, client.DryRunAll, client.FieldValidation("Strict"))
	} else {
		if err := kube.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		before, marshalErr := yaml.Marshal(obj.Object)
		if marshalErr != nil {
			t.Fatal(marshalErr)
		}
		err = kube.Update(t.Context(), patched(t, string(before), c.then), client.DryRunAll)
		if err := kube.Delete(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	if err == nil {
		return ""
	}
	message := err.Error()
	if _, rest, found := strings.Cut(message, "is invalid: "); found {
		message = rest
	}
	if list, cut := strings.CutSuffix(message, notAll); cut {
		message = strings.TrimPrefix(list, "[")
	}
	return message
}

// patched is a manifest after a JSON merge patch.
func patched(t *testing.T, manifest, patch string) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: merge(parse(t, manifest), parse(t, patch)).(map[string]any)}
}

func parse(t *testing.T, manifest string) map[string]any {
	t.Helper()
	obj := map[string]any{}
	b, err := yaml.YAMLToJSONStrict([]byte(manifest))
	if err == nil && string(b) != "null" {
		err = json.Unmarshal(b, &obj)
	}
	if err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	return obj
}

// decode converts what parse has returned into a struct.
func decode(from, into any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// merge applies a JSON merge patch, RFC 7396.
func merge(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	members, ok := target.(map[string]any)
	if !ok {
		members = map[string]any{}
	}
	members = maps.Clone(members)
	for name, value := range changes {
		if value == nil {
			delete(members, name)
		} else {
			members[name] = merge(members[name], value)
		}
	}
	return members
}
