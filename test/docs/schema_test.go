// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestEveryRule requires that the page has every CEL rule of the schemas, with a case that
// breaks no other. TestAdmission shows that the API server refuses the case, and
// test/mutants that nothing else does.
func TestEveryRule(t *testing.T) {
	answers := map[string]string{}
	for _, r := range rowsOf(t, errorsPage, "## What the API server refuses") {
		answers[r.id] = code(r.cells[1])
	}
	messages := map[string]bool{}
	for _, crd := range environment.CRDs {
		walk(schemaOf(crd), "", func(_ string, s *apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				messages[rule.Message] = true
			}
		})
	}
	if len(messages) < 20 {
		t.Fatalf("the schemas have %d rules only", len(messages))
	}
	for _, message := range slices.Sorted(maps.Keys(messages)) {
		found := false
		for id, answer := range answers {
			_, ok := admissions[id]
			// A case that breaks two rules, with a list of errors, belongs to neither.
			found = found || ok && strings.HasSuffix(answer, message) && !strings.HasPrefix(answer, "[")
		}
		if !found {
			t.Errorf("%s has no case of the rule %q", errorsPage, message)
		}
	}
}

func schemaOf(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// walk visits a schema and everything below it, except the status, which users
// do not write. It names paths as the API server does, with the first entry of
// lists.
func walk(s *apiextensionsv1.JSONSchemaProps, path string, visit func(string, *apiextensionsv1.JSONSchemaProps)) {
	visit(path, s)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if path == "" && name == "status" {
			continue
		}
		child := s.Properties[name]
		walk(&child, strings.TrimPrefix(path+"."+name, "."), visit)
		s.Properties[name] = child
	}
	if s.Items != nil {
		walk(s.Items.Schema, path+"[0]", visit)
	}
}

// bound is a value that breaks one bound of a schema, with the API server's
// answer.
type bound struct {
	value any
	says  string // after the path
}

func boundsOf(s *apiextensionsv1.JSONSchemaProps) (bounds []bound) {
	add := func(value any, says string) { bounds = append(bounds, bound{value, says}) }
	entries := func(n int64) (list []any) {
		for i := range n {
			list = append(list, map[string]any{"string": fmt.Sprint("a", i), "object": map[string]any{}}[s.Items.Schema.Type])
		}
		return list
	}
	if s.MaxLength != nil {
		add(strings.Repeat("a", int(*s.MaxLength)+1), fmt.Sprintf(": Too long: may not be more than %d bytes", *s.MaxLength))
	}
	if s.MinLength != nil {
		add("", fmt.Sprintf(" in body should be at least %d chars long", *s.MinLength))
	}
	if s.Enum != nil {
		add("other", `: Unsupported value: "other"`)
	}
	if s.Minimum != nil {
		add(int64(*s.Minimum)-1, fmt.Sprintf(" in body should be greater than or equal to %v", *s.Minimum))
	}
	if s.Maximum != nil {
		add(int64(*s.Maximum)+1, fmt.Sprintf(" in body should be less than or equal to %v", *s.Maximum))
	}
	if s.MaxItems != nil {
		add(entries(*s.MaxItems+1), fmt.Sprintf(": Too many: %d: must have at most %d items", *s.MaxItems+1, *s.MaxItems))
	}
	if s.MinItems != nil {
		add([]any{}, fmt.Sprintf(" in body should have at least %d items", *s.MinItems))
	}
	if s.MaxProperties != nil {
		object := map[string]any{}
		for i := range *s.MaxProperties + 1 {
			object[fmt.Sprint("a", i)] = "b"
		}
		add(object, fmt.Sprintf(": Too many: %d: must have at most %d items", *s.MaxProperties+1, *s.MaxProperties))
	}
	if s.MinProperties != nil && !hasDefault(s) {
		add(map[string]any{}, fmt.Sprintf(" in body should have at least %d properties", *s.MinProperties))
	}
	for _, name := range s.Required {
		add(map[string]any{}, "."+name+": Required value")
	}
	if s.XListType != nil && *s.XListType == "set" {
		add([]any{"a", "a"}, "[1]: Duplicate value")
	}
	if s.XListType != nil && *s.XListType == "map" {
		entry := map[string]any{s.XListMapKeys[0]: "a"}
		add([]any{entry, entry}, "[1]: Duplicate value")
	}
	if s.Pattern != "" {
		add("\x7f", " in body should match") // they are about printable characters; rules say more
	}
	return bounds
}

// hasDefault reports whether an object is never empty, because the API server
// sets a default in it before it counts.
func hasDefault(s *apiextensionsv1.JSONSchemaProps) bool {
	for _, p := range s.Properties {
		if p.Default != nil {
			return true
		}
	}
	return false
}

// TestEveryBound breaks every bound of the schemas, one at a time.
func TestEveryBound(t *testing.T) {
	if len(environment.CRDs) != len(valid) {
		t.Fatalf("there are %d CRDs, not %d", len(environment.CRDs), len(valid))
	}
	for _, crd := range environment.CRDs {
		kind, count := crd.Spec.Names.Kind, 0
		walk(schemaOf(crd), "", func(path string, s *apiextensionsv1.JSONSchemaProps) {
			if path == "" || path == "metadata" || path == "apiVersion" || path == "kind" {
				return
			}
			for _, b := range boundsOf(s) {
				count++
				obj := patched(t, valid[kind], "")
				put(obj.Object, path, b.value)
				err := kube.Create(t.Context(), obj, client.DryRunAll)
				if err == nil || !strings.Contains(err.Error(), path+b.says) {
					t.Errorf("%s %s, want %q: %v", kind, path, path+b.says, err)
				}
			}
		})
		t.Logf("%s: %d bounds", kind, count)
	}
}

// put sets the value at a path, and removes everything beside it below the spec's fields.
func put(object map[string]any, path string, value any) {
	names := strings.Split(strings.ReplaceAll(path, "[0]", ".[0]"), ".")
	for i, name := range slices.Backward(names) {
		if name == "[0]" {
			value = []any{value}
		} else if i > 1 {
			value = map[string]any{name: value}
		}
	}
	if path == "spec" {
		object["spec"] = value
		return
	}
	object["spec"].(map[string]any)[names[1]] = value
}
