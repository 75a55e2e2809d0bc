// SPDX-License-Identifier: Apache-2.0

package web

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

const (
	// longest is how many characters of a text the model has.
	longest = 2048
	// longestYAML is how many bytes of an object's YAML are shown.
	longestYAML = 64 << 10
)

// jwt is what begins like a JSON Web Token. Nothing of the operator puts one into an object,
// but a tenant may have pasted one.
var jwt = regexp.MustCompile(`eyJ[\w-]{8,}(\.[\w-]*)*`)

// cleaned makes a text of a tenant fit to be shown: of one line, without control characters
// and those that turn the direction of writing, without tokens, and not too long.
func cleaned(s string) string {
	return text.CutRunes(jwt.ReplaceAllString(text.Line(s), text.Redacted), longest)
}

// clean cleans every text of a model. It goes through all of it, so that no new field is
// forgotten.
func clean(m *Model) { cleanValue(reflect.ValueOf(m).Elem()) }

func cleanValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); s != "" {
			if c := cleaned(s); c != s {
				v.SetString(c)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			cleanValue(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			cleanValue(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				cleanValue(f)
			}
		}
	case reflect.Map, reflect.Interface, reflect.Array:
		panic("a model has a " + v.Type().String() + ", whose texts nothing cleans")
	}
}

// YAML returns an object as YAML, by its ID. It leaves out what only tools read.
func YAML(inv *inventory.Inventory, id string) (string, bool) {
	return yamlOf(objectsOf(inv)[id])
}

func yamlOf(o client.Object) (string, bool) {
	if o == nil {
		return "", false
	}
	kind := v1alpha1.GroupVersion.WithKind(inventory.KindOf(o))
	o = o.DeepCopyObject().(client.Object)
	o.SetManagedFields(nil)
	if a := o.GetAnnotations(); a != nil {
		delete(a, "kubectl.kubernetes.io/last-applied-configuration")
		o.SetAnnotations(a)
	}
	o.GetObjectKind().SetGroupVersionKind(kind)
	b, err := json.Marshal(o)
	if err == nil {
		b, err = yaml.JSONToYAML(text.JSON(b))
	}
	if err != nil {
		return "", false
	}
	all := text.CutBytes(string(b), longestYAML)
	lines := strings.Split(strings.TrimSuffix(all, "\n"), "\n")
	for i, l := range lines {
		lines[i] = text.Line(l)
	}
	return jwt.ReplaceAllString(strings.Join(lines, "\n"), text.Redacted) + "\n", true
}
