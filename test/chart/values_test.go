// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// documented returns the values of values.yaml in their order, as the rows of a
// table: name, default and comment.
func documented(t *testing.T) (rows []string) {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(read(t, chartDir+"/values.yaml"), &document); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, mapping *yaml.Node)
	walk = func(prefix string, mapping *yaml.Node) {
		for i := 0; i < len(mapping.Content); i += 2 {
			key, value := mapping.Content[i], mapping.Content[i+1]
			name := prefix + key.Value
			if key.HeadComment == "" {
				if value.Kind != yaml.MappingNode {
					t.Errorf("values.yaml says nothing about %s", name)
				}
				walk(name+".", value)
				continue
			}
			var current any
			if err := value.Decode(&current); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(current)
			if err != nil {
				t.Fatal(err)
			}
			comment := key.HeadComment[strings.LastIndex(key.HeadComment, "\n\n")+1:]
			comment = strings.Join(strings.Fields(strings.ReplaceAll(comment, "#", "")), " ")
			rows = append(rows, fmt.Sprintf("| `%s` | `%s` | %s |", name, text, comment))
		}
	}
	walk("", document.Content[0])
	return rows
}

// TestTheTableOfValuesIsCurrent compares docs/install.md with values.yaml.
func TestTheTableOfValuesIsCurrent(t *testing.T) {
	want := documented(t)
	got := regexp.MustCompile("(?m)^\\| `[a-zA-Z.]+` \\| `.*$").FindAllString(string(read(t, root+"/docs/install.md")), -1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/install.md says of the values (-values.yaml +page):\n%s\nwant\n%s", diff, strings.Join(want, "\n"))
	}
}

// TestTheSchemaKnowsEveryValue compares values.schema.json with values.yaml.
func TestTheSchemaKnowsEveryValue(t *testing.T) {
	type schema struct {
		Description          string
		Properties           map[string]schema
		AdditionalProperties any
	}
	var s schema
	if err := json.Unmarshal(read(t, chartDir+"/values.schema.json"), &s); err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func(prefix string, s schema)
	walk = func(prefix string, s schema) {
		if s.AdditionalProperties != false {
			t.Errorf("the schema takes anything in %q", prefix)
		}
		for name, property := range s.Properties {
			if property.Description == "" {
				walk(prefix+name+".", property)
			} else if prefix+name != "global" { // helm's own
				got = append(got, prefix+name+": "+property.Description)
			}
		}
	}
	walk("", s)
	slices.Sort(got)
	var want []string
	for _, row := range documented(t) {
		cells := strings.Split(row, " | ")
		want = append(want, strings.Trim(cells[0], "| `")+": "+strings.TrimSuffix(cells[2], " |"))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-values.yaml +schema):\n%s", diff)
	}
}

// TestThePoliciesAreAboutTheRelease: whatever the release's name and namespace,
// each policy applies to its ServiceAccount and no other.
func TestThePoliciesAreAboutTheRelease(t *testing.T) {
	policies := 0
	for _, o := range render(t, "tokens", "platform", "") {
		// The bounds and the advice apply to everybody.
		if o.GetKind() != "ValidatingAdmissionPolicy" || strings.HasSuffix(o.GetName(), "-metadata-bounds") || strings.HasSuffix(o.GetName(), "-advice") {
			continue
		}
		policies++
		conditions, _, err := unstructured.NestedSlice(o.Object, "spec", "matchConditions")
		if err != nil || len(conditions) != 1 {
			t.Fatalf("%s has the conditions %v: %v", o.GetName(), conditions, err)
		}
		const want = "request.userInfo.username.startsWith('system:serviceaccount:platform:') && request.userInfo.username.endsWith(':tokens-m2m-operator-controller-manager')"
		if got := conditions[0].(map[string]any)["expression"]; got != want {
			t.Errorf("%s is about %s", o.GetName(), got)
		}
	}
	if policies != 8 {
		t.Errorf("there are %d policies", policies)
	}
}
