// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// field is a field of a spec: a path like spec.access[].key.
type field struct {
	kind, path string
	schema     *apiextensionsv1.JSONSchemaProps
	required   bool
}

// fields reads the fields of all kinds from their schemas. Below a selector there is nothing: it is set as a whole.
func fields(t *testing.T) (all []field) {
	t.Helper()
	paths, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatal(err)
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		all = append(all, below(field{crd.Spec.Names.Kind, "spec", &spec, true})...)
	}
	return all
}

// below returns the fields of an object or a list.
func below(f field) (all []field) {
	for _, name := range slices.Sorted(maps.Keys(f.schema.Properties)) {
		s := f.schema.Properties[name]
		child := field{f.kind, f.path + "." + name, &s, slices.Contains(f.schema.Required, name)}
		all = append(all, child)
		if name != "selector" || f.kind == "APIResource" && strings.HasSuffix(f.path, ".istio") {
			all = append(all, below(child)...)
		}
	}
	if f.schema.Items != nil {
		item := field{f.kind, f.path + "[]", f.schema.Items.Schema, true}
		all = append(all, below(item)...)
	}
	return all
}

// valid returns values of a field as JSON, at first those that mean something, then its bounds.
func (f field) valid() (all []string) {
	for _, m := range meaningful {
		if m.of(f) {
			return m.values
		}
	}
	s := f.schema
	switch {
	case len(s.Enum) > 0:
		for _, e := range s.Enum {
			all = append(all, string(e.Raw))
		}
	case s.Type == "integer":
		all = append(all, fmt.Sprint(*s.Minimum), fmt.Sprint(*s.Maximum))
	case s.Type == "string":
		for _, v := range f.strings() {
			all = append(all, quote(v))
		}
	case s.Type == "array":
		for _, n := range f.lengths(s.MinItems, s.MaxItems) {
			all = append(all, "["+strings.Join(f.items(n), ",")+"]")
		}
	case s.AdditionalProperties != nil:
		for _, n := range f.lengths(s.MinProperties, s.MaxProperties) {
			var entries []string
			for i := range n {
				entries = append(entries, fmt.Sprintf(`"key-%d":"value"`, i))
			}
			all = append(all, "{"+strings.Join(entries, ",")+"}")
		}
	}
	return all
}

func (f field) lengths(low, high *int64) []int64 {
	var bounds []int64
	for _, p := range []*int64{low, high} {
		if p != nil && !slices.Contains(bounds, *p) {
			bounds = append(bounds, *p)
		}
	}
	return bounds
}

// items returns n different items of a list.
func (f field) items(n int64) (all []string) {
	item := field{f.kind, f.path + "[]", f.schema.Items.Schema, true}
	var some []string
	for _, m := range meaningful {
		if m.of(item) {
			some = m.values
		}
	}
	if some == nil {
		for _, e := range item.schema.Enum {
			some = append(some, string(e.Raw))
		}
	}
	for i := range n {
		switch {
		case int(i) < len(some) && !strings.Contains(some[i], "#"):
			all = append(all, some[i])
		case len(some) > 0: // a template of one, with a number
			all = append(all, strings.Replace(some[len(some)-1], "#", fmt.Sprint(i), 1))
		default:
			all = append(all, quote(fmt.Sprintf("a%d", i)))
		}
	}
	return all
}

var (
	lowest  = regexp.MustCompile(`duration\(self\) >= duration\('(.+?)'\)`)
	highest = regexp.MustCompile(`duration\(self\) <= duration\('(.+?)'\)`)
)

// rules returns the CEL rules of a field.
func (f field) rules() (text string) {
	for _, r := range f.schema.XValidations {
		text += r.Rule + "\n"
	}
	return text
}

// strings returns the shortest and the longest string, or the bounds of a duration.
func (f field) strings() []string {
	if high := highest.FindStringSubmatch(f.rules()); high != nil {
		low := []string{"", "0s"}
		if m := lowest.FindStringSubmatch(f.rules()); m != nil {
			low = m
		}
		return []string{low[1], high[1]}
	}
	prefix, suffix := "", ""
	switch rules := f.rules(); {
	case strings.Contains(rules, "https?://"):
		prefix = "http://127.0.0.1:9/"
	case strings.Contains(rules, "^(/("):
		prefix = "/"
	case strings.Contains(rules, "[/:.#]$"):
		suffix = "/"
	}
	of := func(n int64) string {
		return prefix + strings.Repeat("a", max(0, int(n)-len(prefix)-len(suffix))) + suffix
	}
	var all []string
	for _, n := range f.lengths(f.schema.MinLength, f.schema.MaxLength) {
		all = append(all, of(n))
	}
	return all
}

// invalid returns values of a field that the API server must refuse.
func (f field) invalid() (all []string) {
	s := f.schema
	for _, m := range wrong {
		if m.of(f) {
			all = append(all, m.values...)
		}
	}
	switch s.Type {
	case "integer":
		all = append(all, fmt.Sprint(*s.Minimum-1), fmt.Sprint(*s.Maximum+1), `"many"`)
	case "string":
		all = append(all, "7", "{}")
		if len(s.Enum) > 0 {
			all = append(all, `"Nonsense"`, `""`)
		}
		if s.MinLength != nil && *s.MinLength > 0 {
			all = append(all, `""`)
		}
		if s.MaxLength != nil {
			all = append(all, quote(f.strings()[0]+strings.Repeat("a", int(*s.MaxLength))))
		}
		if strings.Contains("\n"+f.rules(), "\nself.matches(") || s.Pattern != "" {
			all = append(all, quote("é #\n"))
		}
	case "array":
		all = append(all, `"one"`, "[{},7]")
		if s.MinItems != nil {
			all = append(all, "[]")
		}
		if s.MaxItems != nil {
			all = append(all, "["+strings.Join(f.items(*s.MaxItems+1), ",")+"]")
		}
	case "object":
		all = append(all, `"one"`, "[]")
		if s.MinProperties != nil && !f.hasDefaults() || len(s.Required) > 0 || strings.Contains(f.rules(), "== 1") {
			all = append(all, "{}")
		}
		if s.AdditionalProperties != nil {
			all = append(all, `{"a":7}`)
		}
	}
	return all
}

// hasDefaults reports whether an empty object gets fields by itself.
func (f field) hasDefaults() bool {
	for _, p := range f.schema.Properties {
		if p.Default != nil {
			return true
		}
	}
	return false
}

func quote(v string) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
