// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const root = "../../.."

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// firsts returns what the first group of an expression matches in a text.
func firsts(expression, text string) (all []string) {
	for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// TestReasonsExist makes sure that no reason is misspelled in the health checks, where it
// would have no effect.
func TestReasonsExist(t *testing.T) {
	exist := firsts(`(?m)^\tReason\w+ += "(\w+)"`, read(t, root+"/api/v1alpha1/conditions.go"))
	if len(exist) < 50 {
		t.Fatalf("found only the reasons %v", exist)
	}
	named := firsts(`(?m)^  (\w+) = true,`, read(t, examples+"/argo-cd/health.lua"))
	if len(named) < 5 {
		t.Fatalf("health.lua names only %v", named)
	}
	for _, file := range []string{examples + "/flux/clients.yaml", root + "/docs/guides/flux.md"} {
		in := failures(read(t, file))
		if len(in) < 4 {
			t.Fatalf("%s names only %v", file, in)
		}
		named = append(named, in...)
	}
	for _, reason := range named {
		if !slices.Contains(exist, reason) {
			t.Errorf("there is no reason %s", reason)
		}
	}
}

// failures returns the reasons in the lists of CEL expressions.
func failures(text string) (all []string) {
	for _, list := range firsts(`(?s)c\.reason in \[(.*?)\]`, text) {
		all = append(all, firsts(`'(\w+)'`, list)...)
	}
	return all
}

// TestDecisionsFail requires that Flux fails for every decision against a tenant, except that
// an API does not exist, which may only mean that it is applied later.
func TestDecisionsFail(t *testing.T) {
	decisions := firsts(`(?m)^\tv1alpha1\.Reason(\w+): +decision,`, read(t, root+"/internal/access/reasons.go"))
	if len(decisions) < 8 {
		t.Fatalf("found only the decisions %v", decisions)
	}
	in := failures(read(t, examples+"/flux/clients.yaml"))
	for _, reason := range decisions {
		if slices.Contains(in, reason) == (reason == "APIResourceNotFound") {
			t.Errorf("%s is a decision: is it a failure in %v?", reason, in)
		}
	}
}

// TestPagesShowExamples compares the manifests on the pages with the examples, and follows
// the directories that the examples name.
func TestPagesShowExamples(t *testing.T) {
	var manifests []map[string]any
	for _, file := range []string{"/argo-cd/applications.yaml", "/flux/kustomizations.yaml", "/flux/clients.yaml"} {
		for document := range strings.SplitSeq(read(t, examples+file), "\n---\n") {
			manifests = append(manifests, decode(t, document))
		}
	}
	directories := 0
	for _, m := range manifests {
		spec := m["spec"].(map[string]any)
		path, repository := spec["path"], ""
		if source, ok := spec["source"].(map[string]any); ok {
			path, repository = source["path"], source["repoURL"].(string)
		} else if source, ok := spec["sourceRef"].(map[string]any); ok {
			repository = source["name"].(string)
		}
		if path == nil {
			continue // a GitRepository
		}
		directories++
		dir := root + "/docs/examples/gitops/" + path.(string)
		if strings.HasSuffix(repository, "m2m-operator") {
			dir = root + "/" + path.(string)
		}
		if _, err := os.Stat(filepath.FromSlash(dir)); err != nil {
			t.Errorf("%v: %v", m["metadata"], err)
		}
	}
	if directories < 8 {
		t.Errorf("the examples name only %d directories", directories)
	}

	shown := 0
	for _, page := range []string{"argo-cd.md", "flux.md"} {
		for _, block := range firsts("(?s)```yaml\n(.*?)```", read(t, root+"/docs/guides/"+page)) {
			m := decode(t, block)
			if m["kind"] == nil {
				continue // a part of something
			}
			shown++
			if !slices.ContainsFunc(manifests, func(e map[string]any) bool { return reflect.DeepEqual(e, m) }) {
				t.Errorf("%s shows what is in no example:\n%s", page, block)
			}
		}
	}
	if shown < 2 {
		t.Errorf("the pages show only %d manifests", shown)
	}
}

func decode(t *testing.T, text string) (m map[string]any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(bytes.TrimSpace([]byte(text)), &m); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return m
}
