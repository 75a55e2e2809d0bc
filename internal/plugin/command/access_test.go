// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAccess asks who may call what, and compares with what the operator did.
func TestAccess(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	stock := s.Another("stock")
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"cart", "report"}
	})
	s.Settle()
	operator.Says(t, stock, v1alpha1.ConditionGranted, v1alpha1.ReasonNotGranted)
	ask := func(args ...string) answer { t.Helper(); return run(t, op.Clock.Now(), args...) }

	table := ask("access", "-n", s.Shop)
	table.ends(t, 0)
	golden(t, "access.txt", regexp.MustCompile(` {3,}`).ReplaceAllString(normal(table.out, s.World), "   ")) // columns are as wide as names

	var parsed struct{ Access []decision.Access }
	if err := json.Unmarshal([]byte(ask("access", "-n", s.Payments, "-o", "json").out), &parsed); err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]decision.Verdict{}
	for _, a := range parsed.Access {
		verdicts[a.Client] = a.Verdict
	}
	if verdicts[s.Shop+"/cart"] != decision.Allowed || verdicts[s.Shop+"/stock"] != decision.Denied || len(verdicts) != 2 {
		t.Errorf("the verdicts are %v", verdicts)
	}
	says(t, ask("access", "-A", "-o", "mermaid").out, "flowchart LR", `"payments:write"`)
	says(t, ask("access", "-n", s.Shop, "-o", "dot").out, "digraph access {", "style=dashed")

	t.Run("nothing", func(t *testing.T) {
		a := ask("access", "-n", operator.NewNamespace(t, "empty", nil))
		a.ends(t, 0)
		says(t, a.out, "No client has access to anything here")
	})
	t.Run("a wrong format", func(t *testing.T) {
		a := ask("access", "-o", "svg")
		a.ends(t, 2)
		says(t, a.message, "choose one of json, yaml, mermaid, dot, html")
	})
	t.Run("why one is allowed", func(t *testing.T) {
		a := ask("why", s.Shop+"/cart", s.Payments+"/payment-api", "payments:write")
		a.ends(t, 0)
		golden(t, "why-allowed.txt", normal(a.out, s.World))
	})
	t.Run("why one is not", func(t *testing.T) {
		a := ask("why", "-n", s.Shop, "stock", s.Payments+"/payment-api")
		a.ends(t, 3)
		says(t, a.out, "Not allowed: NotGranted", `spec.grants[0].clients.names: ["cart","report"]`)
	})
	t.Run("why one does not even ask", func(t *testing.T) {
		a := ask("why", s.Shop+"/cart", s.Payments+"/payment-api", "payments:read")
		a.ends(t, 3)
		says(t, a.out, "Not requested", "spec.grants[0].scopes[0]: payments:read")
	})
	t.Run("why as data", func(t *testing.T) {
		says(t, ask("why", s.Shop+"/cart", s.Payments+"/payment-api", "-o", "yaml").out, "verdict: Allowed", "asked: true")
	})
	t.Run("who uses an API", func(t *testing.T) {
		a := ask("who-uses", s.Payments+"/payment-api")
		a.ends(t, 0)
		golden(t, "who-uses.txt", regexp.MustCompile(` {3,}`).ReplaceAllString(normal(a.out, s.World), "   "))
		says(t, ask("who-uses", "-n", s.Payments, "payment-api", "-o", "yaml").out, "client: "+s.Shop+"/cart", "expiresAt: ", "notReady: NotGranted")
		reader(t, "ada", s.Payments)
		a = ask("who-uses", "-n", s.Payments, "payment-api", "--as", "ada")
		a.ends(t, 0)
		says(t, a.out, "No client that you may see uses APIResource "+s.Payments+"/payment-api")
		says(t, a.err, "list m2mclients.m2m-operator.io in all namespaces")
		a = ask("who-uses", s.Payments+"/other")
		a.ends(t, 1)
		says(t, a.message, `APIResource "other" does not exist`)
		ask("who-uses").ends(t, 2)
	})
	t.Run("wrong arguments", func(t *testing.T) {
		ask("why", "cart").ends(t, 2)
		ask("why", "a/b/c", "d").ends(t, 2)
		ask("acces").ends(t, 2)
		ask("access", "--unknown").ends(t, 2)
	})
	t.Run("without rights", func(t *testing.T) {
		reader(t, "dora", s.Shop)
		a := ask("why", s.Shop+"/cart", s.Payments+"/payment-api", "--as", "dora")
		a.ends(t, 4)
		says(t, a.out, "Not known", "The operator, which may read everything, says of all accesses of the client: Granted is True")
		says(t, a.err, "get apiresources.m2m-operator.io \"payment-api\" in namespace \""+s.Payments+`"`)
		a = ask("access", "-n", s.Shop, "--as", "dora")
		a.ends(t, 0)
		says(t, a.out, "Unknown")
		says(t, a.err, "get apiresources.m2m-operator.io")
	})
}

// TestAccessDiff compares what it says before files are applied with what the operator does
// after.
func TestAccessDiff(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	dir := t.TempDir()
	put := func(name string, objects ...any) {
		t.Helper()
		var documents []string
		for _, o := range objects {
			b, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			documents = append(documents, string(b))
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(documents, "---\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(change func(*v1alpha1.APIResource)) *v1alpha1.APIResource {
		a := s.World.API()
		a.APIVersion, a.Kind = v1alpha1.GroupVersion.String(), "APIResource"
		change(a)
		return a
	}
	ask := func(args ...string) answer {
		t.Helper()
		return run(t, op.Clock.Now(), append([]string{"access", "diff", "-n", s.Payments}, args...)...)
	}

	put("same/api.yaml", file(func(*v1alpha1.APIResource) {}), map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d"}})
	put("same/notes.txt", "not: [yaml")
	a := ask("-f", filepath.Join(dir, "same"))
	a.ends(t, 0)
	says(t, a.out, "No access would change.")

	narrowed := file(func(a *v1alpha1.APIResource) {
		a.Namespace = "" // that of -n
		a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"}
		a.Spec.Grants = append(a.Spec.Grants, v1alpha1.Grant{Clients: v1alpha1.GrantedClients{Namespaces: operator.NamesOf("billing")}, Scopes: []v1alpha1.ScopeName{"payments:read"}})
	})
	put("narrowed/deep/api.yaml", narrowed)
	a = ask("-f", filepath.Join(dir, "narrowed"))
	a.ends(t, 3)
	golden(t, "diff.txt", normal(a.out, s.World))
	says(t, ask("-f", filepath.Join(dir, "narrowed"), "-o", "json").out, `"lost"`)

	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = narrowed.Spec.Grants })
	s.Settle()
	operator.Says(t, s.Cart, v1alpha1.ConditionGranted, v1alpha1.ReasonScopeNotGranted)

	t.Run("standard input", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(dir, "same", "api.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		a := runRaw(t.Context(), t, op.Clock.Now(), string(b), "access", "diff", "-f", "-")
		a.ends(t, 3)
		says(t, a.out, "+ "+s.Shop+"/cart")
	})
	for name, tc := range map[string]struct{ text, says string }{
		"a misspelled field": {"apiVersion: m2m-operator.io/v1alpha1\nkind: APIResource\nmetadata: {name: a}\nspec: {grant: []}\n", `unknown field "spec.grant"`},
		"no name":            {"apiVersion: m2m-operator.io/v1alpha1\nkind: M2MClient\n", "metadata.name is not set"},
		"no YAML":            {"a: [", "standard input"},
		"nothing of ours":    {"apiVersion: v1\nkind: Secret\n", "no object of the operator"},
	} {
		t.Run(name, func(t *testing.T) {
			a := runRaw(t.Context(), t, op.Clock.Now(), tc.text, "access", "diff", "-f", "-")
			a.ends(t, 1)
			says(t, a.message, tc.says)
		})
	}
	t.Run("no file", func(t *testing.T) {
		a := ask()
		a.ends(t, 2)
		says(t, a.message, "-f FILE")
		ask("-f", filepath.Join(dir, "none")).ends(t, 1)
	})
}
