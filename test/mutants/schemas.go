// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

// rule is a CEL rule and the places in the schemas where it stands.
type rule struct {
	expression, message string
	places              []place
}

// place is where a rule stands: the kind's plural, the path of fields to it, with * for the
// entries of a list or map, and the schema there without other rules.
type place struct {
	resource string
	path     []string
	schema   *schema.Structural
}

// kind is a kind's whole schema.
type kind struct {
	resource string
	schema   *schema.Structural
}

// readKinds reads the schemas of a folder.
func readKinds(dir string) (all []kind, err error) {
	err = each(dir, "*.yaml", func(_ string, text []byte) error {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, crd); err != nil {
			return err
		}
		internal := &apiextensions.JSONSchemaProps{}
		err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, internal, nil)
		if err != nil {
			return err
		}
		structural, err := schema.NewStructural(internal)
		if err != nil {
			return err
		}
		all = append(all, kind{crd.Spec.Names.Plural, structural})
		return nil
	})
	return all, err
}

// rulesOf returns the rules of all kinds, each once.
func rulesOf(kinds []kind) []*rule {
	byText := map[string]*rule{}
	for _, k := range kinds {
		walk(k.schema, nil, func(path []string, s *schema.Structural) {
			for _, r := range s.XValidations {
				id := r.Rule + "\n" + r.Message
				if byText[id] == nil {
					byText[id] = &rule{expression: r.Rule, message: r.Message}
				}
				byText[id].places = append(byText[id].places, place{k.resource, slices.Clone(path), without(s)})
			}
		})
	}
	var all []*rule
	for _, id := range slices.Sorted(maps.Keys(byText)) {
		all = append(all, byText[id])
	}
	return all
}

func walk(s *schema.Structural, path []string, visit func([]string, *schema.Structural)) {
	visit(path, s)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[name]
		walk(&child, append(path, name), visit)
	}
	if s.Items != nil {
		walk(s.Items, append(path, "*"), visit)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		walk(s.AdditionalProperties.Structural, append(path, "*"), visit)
	}
}

// without copies a schema without its rules and those below it.
func without(s *schema.Structural) *schema.Structural {
	s = s.DeepCopy()
	visitor := schema.Visitor{Structural: func(s *schema.Structural) bool {
		changed := s.XValidations != nil
		s.XValidations = nil
		return changed
	}}
	visitor.Visit(s)
	return s
}

// valuesAt returns the values at a place, each with the one before, if that is certain.
func valuesAt(value, old any, path []string) (all [][2]any) {
	if value == nil {
		return nil
	}
	if len(path) == 0 {
		return [][2]any{{value, old}}
	}
	switch v := value.(type) {
	case map[string]any:
		before, _ := old.(map[string]any)
		if path[0] != "*" {
			return valuesAt(v[path[0]], before[path[0]], path[1:])
		}
		for key, child := range v {
			all = append(all, valuesAt(child, before[key], path[1:])...)
		}
	case []any:
		for _, child := range v {
			all = append(all, valuesAt(child, nil, path[1:])...)
		}
	}
	return all
}

// check returns a function that tells what an expression refuses of the values at a place.
func (p place) check(expression string) (func(values [][2]any) string, error) {
	s := *p.schema
	s.XValidations = apiextensionsv1.ValidationRules{{Rule: expression, Message: "violated"}}
	root := len(p.path) == 0
	results, err := cel.Compile(&s, model.SchemaDeclType(&s, root), celconfig.PerCallLimit,
		environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), cel.StoredExpressionsEnvLoader())
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if r.Error != nil {
			return nil, errors.New(r.Error.Detail)
		}
	}
	validator := cel.NewValidator(&s, root, celconfig.PerCallLimit)
	return func(values [][2]any) string {
		var says []string
		for _, v := range values {
			errs, _ := validator.Validate(context.Background(), nil, &s, v[0], v[1], celconfig.RuntimeCELCostBudget)
			for _, e := range errs {
				says = append(says, e.Detail) // what is violated, or why that is not known
			}
		}
		slices.Sort(says)
		return strings.Join(says, "\n")
	}, nil
}

// defaulted is the object of a write with the defaults of its schema.
func defaulted(w *write, kinds []kind) map[string]any {
	object := runtime.DeepCopyJSON(w.object.Object)
	for _, k := range kinds {
		if k.resource == w.Resource {
			defaulting.Default(object, k.schema)
		}
	}
	return object
}

// checked reports whether the API server came to the rules, or would have.
func (w *write) checked() bool {
	return w.Refusal == "" || !strings.Contains(w.Refusal, "some validation rules were not checked") && strings.Contains(w.Refusal, "Invalid value")
}
