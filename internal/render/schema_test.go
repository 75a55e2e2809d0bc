// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// schema reads verification.schema.json.
func schema(t *testing.T) map[string]any {
	t.Helper()
	b, err := os.ReadFile("verification.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaNamesEveryMember keeps the schema and the struct in step.
func TestSchemaNamesEveryMember(t *testing.T) {
	var want []string
	for f := range reflect.TypeFor[verification]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		want = append(want, name)
	}
	var got []string
	for name := range schema(t)["properties"].(map[string]any) {
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-struct +schema):\n%s", diff)
	}
	items := schema(t)["properties"].(map[string]any)["algorithms"].(map[string]any)["items"].(map[string]any)
	var listed, known []string
	for _, alg := range items["enum"].([]any) {
		listed = append(listed, alg.(string))
	}
	for _, algs := range algorithmsOf {
		known = append(known, algs...)
	}
	slices.Sort(listed)
	slices.Sort(known)
	if diff := cmp.Diff(known, listed); diff != "" {
		t.Errorf("algorithms (-code +schema):\n%s", diff)
	}
}

func TestSchemaRefuses(t *testing.T) {
	tests := map[string]func(map[string]any){
		"no issuer":                          func(v map[string]any) { delete(v, "issuer") },
		"an empty audience":                  func(v map[string]any) { v["audience"] = "" },
		"a symmetric algorithm":              func(v map[string]any) { v["algorithms"] = []any{"HS256"} },
		"an algorithm twice":                 func(v map[string]any) { v["algorithms"] = []any{"RS256", "RS256"} },
		"a negative clock skew":              func(v map[string]any) { v["clockSkewSeconds"] = -1.0 },
		"half a second of skew":              func(v map[string]any) { v["clockSkewSeconds"] = 0.5 },
		"tokens that do not end":             func(v map[string]any) { v["requireExpiration"] = false },
		"a scope without a name":             func(v map[string]any) { v["scopes"] = []any{map[string]any{"claims": []any{}}} },
		"scopes that are null":               func(v map[string]any) { v["scopes"] = nil },
		"a name in no claims":                func(v map[string]any) { v["audienceIn"] = map[string]any{"values": []any{"a"}} },
		"a name that is empty":               func(v map[string]any) { v["audienceIn"] = map[string]any{"claims": []any{"a"}, "values": []any{""}} },
		"a scope that is nobody knows where": func(v map[string]any) { delete(v["scopes"].([]any)[0].(map[string]any), "claims") },
		"a scope in a claim without a name":  func(v map[string]any) { v["scopes"].([]any)[0].(map[string]any)["claims"] = []any{""} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			files, err := Verification(payment(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var v map[string]any
			if err := json.Unmarshal([]byte(files[FileVerification]), &v); err != nil {
				t.Fatal(err)
			}
			change(v)
			if len(schemaProblems(schema(t), v, "$")) == 0 {
				t.Error("the schema allows it")
			}
		})
	}
}

// schemaProblems is as much of JSON Schema as the schema uses; a keyword that
// it does not know is a problem.
func schemaProblems(schema map[string]any, v any, path string) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, path+": "+fmt.Sprintf(format, args...))
	}
	list, _ := v.([]any)
	object, _ := v.(map[string]any)
	for keyword, arg := range schema {
		switch keyword {
		case "$schema", "title", "description":
		case "type":
			number, isNumber := v.(float64)
			_, isString := v.(string)
			ok := map[string]bool{
				"object": object != nil, "array": list != nil, "string": isString,
				"integer": isNumber && number == float64(int(number)),
			}[arg.(string)]
			if !ok {
				bad("%v is no %v", v, arg)
			}
		case "required":
			for _, name := range arg.([]any) {
				if _, ok := object[name.(string)]; !ok {
					bad("no %v", name)
				}
			}
		case "properties":
			for name, sub := range arg.(map[string]any) {
				if value, ok := object[name]; ok {
					problems = append(problems, schemaProblems(sub.(map[string]any), value, path+"."+name)...)
				}
			}
		case "items":
			for i, item := range list {
				problems = append(problems, schemaProblems(arg.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "uniqueItems":
			for i := range list {
				if slices.ContainsFunc(list[:i], func(o any) bool { return reflect.DeepEqual(o, list[i]) }) {
					bad("%v twice", list[i])
				}
			}
		case "enum":
			if !slices.ContainsFunc(arg.([]any), func(o any) bool { return reflect.DeepEqual(o, v) }) {
				bad("%v is not allowed", v)
			}
		case "const":
			if !reflect.DeepEqual(arg, v) {
				bad("%v is not %v", v, arg)
			}
		case "minLength":
			if s, ok := v.(string); ok && float64(len(s)) < arg.(float64) {
				bad("too short")
			}
		case "minimum":
			if n, ok := v.(float64); ok && n < arg.(float64) {
				bad("%v is less than %v", v, arg)
			}
		default:
			bad("unknown keyword %s", keyword)
		}
	}
	return problems
}
