// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	fence = regexp.MustCompile("(?ms)^( *)```([a-z]*)\n(.*?)\n *```$")
	// A link's target: the text in parentheses after brackets.
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// TestLinks follows every relative link, to its heading if it names one.
func TestLinks(t *testing.T) {
	followed := 0
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			followed++
			file := p.path
			if target != "" {
				file = path.Join(path.Dir(p.path), target)
			}
			file = filepath.Join(root, filepath.FromSlash(file))
			if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s leads nowhere", p.path, m[1])
			} else if fragment != "" && !slices.Contains(anchors(read(t, file)), fragment) {
				t.Errorf("%s: %s names no heading there", p.path, m[1])
			}
		}
	}
	if followed < 20 {
		t.Errorf("there are %d relative links only", followed)
	}
}

// anchors are the fragments by which a page's headings can be linked.
func anchors(text string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return all
}

// TestManifests makes the API server judge every manifest of our kinds that the
// pages show, without tolerance for unknown fields.
func TestManifests(t *testing.T) {
	kinds := map[string]int{}
	for _, p := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
			if m[2] != "yaml" {
				continue
			}
			block := regexp.MustCompile(`(?m)^`+m[1]).ReplaceAllString(m[3], "")
			for i, manifest := range regexp.MustCompile(`(?m)^---$`).Split(block, -1) {
				obj := &unstructured.Unstructured{Object: parse(t, manifest)}
				if obj.GetAPIVersion() == "" {
					continue // a part of something
				}
				kinds[obj.GetKind()]++
				namespaced, err := kube.IsObjectNamespaced(obj)
				if meta.IsNoMatchError(err) && !strings.HasPrefix(obj.GetAPIVersion(), "m2m-operator.io/") {
					continue // of a project that is not installed
				}
				if err != nil {
					t.Errorf("%s: %v", p.path, err)
					continue
				}
				if namespaced {
					obj.SetNamespace("default") // what matters is the form
				}
				if err := kube.Create(t.Context(), obj, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
					t.Errorf("%s: manifest %d of\n%s\n%v", p.path, i+1, block, err)
				}
			}
		}
	}
	for kind := range valid {
		if kinds[kind] == 0 {
			t.Errorf("no page shows a manifest of kind %s", kind)
		}
	}
	t.Log(kinds)
}

// constants returns the string constants of a file, by their names.
func constants(t *testing.T, name string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if all[spec.Names[0].Name], err = strconv.Unquote(lit.Value); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	return all
}

// TestReasons requires that every reason and every condition type is on the
// page of its kind, and that every reason of a condition on the pages is
// declared.
func TestReasons(t *testing.T) {
	declared := map[string]bool{}
	types := map[string]bool{}
	for name, value := range constants(t, "api/v1alpha1/conditions.go") {
		declared[value] = declared[value] || strings.HasPrefix(name, "Reason")
		types[value] = types[value] || strings.HasPrefix(name, "Condition")
	}
	// What is wrong with a server's answer or with a token is named by the
	// packages that find it out.
	elsewhere := map[string]bool{}
	for _, file := range []string{"internal/jwks/jwks.go", "internal/jwks/verify.go"} {
		for name, value := range constants(t, file) {
			if unicode.IsUpper([]rune(name)[0]) {
				declared[value], elsewhere[value] = true, true
			}
		}
	}
	for name, value := range constants(t, "internal/refresh/decide.go") {
		if unicode.IsUpper([]rune(name)[0]) && (value == "InputsChanged" || value == "KeyRevoked") {
			declared[value] = true // the others have a reason of their own
		}
	}
	documented := map[string]bool{}
	for _, p := range []string{"docs/authorizationserver.md", "docs/apiresource.md", "docs/m2mclient.md"} {
		for _, r := range rowsOf(t, p, "## Conditions") {
			if len(r.cells) < 3 {
				t.Fatalf("%s: %q: want a row of condition, status, reason, and what to do", p, r.id)
			}
			if !types[r.id] {
				t.Errorf("%s documents the condition %q, which does not exist", p, r.id)
			}
			for reason := range strings.SplitSeq(r.cells[0], ",") {
				documented[code(reason)] = true
			}
		}
		for _, r := range rowsOf(t, p, "## Events") {
			documented[r.id] = true
		}
	}
	for reason, isReason := range declared {
		if isReason && !documented[reason] {
			t.Errorf("reason %q is declared and not documented", reason)
		}
	}
	for reason := range documented {
		if !declared[reason] {
			t.Errorf("reason %q is documented and not declared", reason)
		}
	}
	// The controllers take reasons from constants, never from literals. Every
	// constant is in use, or is the status of a new object.
	var controllers strings.Builder
	for _, file := range append(goFiles(t, "internal/controller"), goFiles(t, "internal/access")...) {
		if strings.HasSuffix(file, "internal/access/reasons.go") {
			continue // it lists them
		}
		controllers.WriteString(read(t, file))
		literal := regexp.MustCompile(`(?:Reason:|conditions\.True\(|conditions\.False\(|problemf\()[^,\n]*,?\s*"[A-Z][A-Za-z]+"`)
		if m := literal.FindString(read(t, file)); m != "" {
			t.Errorf("%s has a reason that is no constant: %s", file, m)
		}
	}
	for name, value := range constants(t, "api/v1alpha1/conditions.go") {
		used := regexp.MustCompile(`v1alpha1\.` + name + `\b`).MatchString(controllers.String())
		used = used || strings.Contains(read(t, filepath.Join(root, "config/crd/bases/m2m-operator.io_m2mclients.yaml")), "reason: "+value+"\n")
		if !used && !elsewhere[value] {
			t.Errorf("%s is declared and not used", name)
		}
	}
}

// goFiles returns the files of the packages in a directory and below it, without tests.
func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	return all
}

// TestSchemaOfVerification compares the table of verification.json's members
// with its schema.
func TestSchemaOfVerification(t *testing.T) {
	var schema struct {
		Required   []string                  `json:"required"`
		Properties map[string]map[string]any `json:"properties"`
	}
	if err := decode(parse(t, read(t, filepath.Join(root, "internal/render/verification.schema.json"))), &schema); err != nil {
		t.Fatal(err)
	}
	rows := rowsOf(t, "docs/verification.md", "## verification.json")
	var documented, existing []string
	for _, r := range rows {
		documented = append(documented, r.id)
		p := schema.Properties[r.id]
		want := []string{fmt.Sprint(p["type"]), "no", fmt.Sprint(p["description"])}
		if p["type"] == nil {
			want[0] = fmt.Sprintf("always %v", p["const"])
		}
		if slices.Contains(schema.Required, r.id) {
			want[1] = "yes"
		}
		if !slices.Equal(r.cells[:3], want) {
			t.Errorf("%s: the page says %q, the schema %q", r.id, r.cells[:3], want)
		}
	}
	for name := range schema.Properties {
		existing = append(existing, name)
	}
	sameSet(t, "member of verification.json", documented, existing)
}

// TestExamplesOfVerification requires that the page's functions, which look for a
// scope and for the key of a token, are those of the payment service, whose tests
// run them.
func TestExamplesOfVerification(t *testing.T) {
	for _, function := range []string{"carries", "verifySignature"} {
		_, after, found := strings.Cut(read(t, filepath.Join(root, "docs/verification.md")), "```go\nfunc "+function+"(")
		example, _, _ := strings.Cut(after, "```")
		if !found || !strings.Contains(read(t, filepath.Join(root, "internal/testing/payment/payment.go")), "func "+function+"("+example) {
			t.Errorf("docs/verification.md and internal/testing/payment/payment.go differ in %s:\n%s", function, example)
		}
	}
}

// TestGatewayFiguresAgree: README.md repeats the table of docs/enforcement.md.
func TestGatewayFiguresAgree(t *testing.T) {
	target := regexp.MustCompile(`\]\([^)]*\)`)
	lines := func(page string) []string {
		return strings.Split(target.ReplaceAllString(read(t, filepath.Join(root, page)), "]"), "\n")
	}
	measured, repeated := lines("docs/enforcement.md"), lines("README.md")
	begin := slices.IndexFunc(repeated, func(line string) bool { return strings.HasPrefix(line, "| way |") })
	if begin < 0 {
		t.Fatal("README.md has no table of gateways")
	}
	for n, line := range repeated[begin:] {
		if line == "" {
			if n < 4 {
				t.Errorf("the table has only %d lines", n)
			}
			break
		}
		if !slices.Contains(measured, line) {
			t.Errorf("docs/enforcement.md does not have the line of README.md\n%s", line)
		}
	}
}

// TestPagesAreIndexed requires that docs/README.md, or the README.md of its directory, lists every page.
func TestPagesAreIndexed(t *testing.T) {
	for _, p := range pages(t) {
		if !strings.HasPrefix(p.path, "docs/") || p.path == "docs/README.md" {
			continue
		}
		// A directory with an index of its own is named by that.
		dir, index := path.Dir(p.path), "docs"
		if _, err := os.Stat(filepath.Join(root, dir, "README.md")); err == nil && path.Base(p.path) != "README.md" {
			index = dir
		}
		name := strings.TrimPrefix(p.path, index+"/")
		if !strings.Contains(read(t, filepath.Join(root, index, "README.md")), "("+name+")") {
			t.Errorf("%s/README.md does not name %s", index, name)
		}
	}
}
