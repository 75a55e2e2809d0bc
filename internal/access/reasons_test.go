// SPDX-License-Identifier: Apache-2.0

package access

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// denying lists the conditions whose reasons can keep a tenant from an access, a token or an
// identifier.
var denying = []string{"ConditionAccepted", "ConditionGranted", "ConditionFresh", "ConditionProvisioned", "ConditionEnforced"}

// TestEveryReasonIsADecisionOrUnknown reads the documentation of the conditions. Each reason
// that it gives for False or Unknown must be in the table, and the table must hold no other.
func TestEveryReasonIsADecisionOrUnknown(t *testing.T) {
	docs := conditionDocs(t)
	documented := map[string]bool{}
	for _, condition := range denying {
		found := reasonsAgainst(docs[condition])
		if len(found) < 3 {
			t.Fatalf("%s: only the reasons %v were found in its comment", condition, found)
		}
		for _, reason := range found {
			documented[reason] = true
			if k := reasons[reason]; k != decision && k != unknown {
				t.Errorf("%s can be False or Unknown for %s, which is neither a decision nor unknown", condition, reason)
			}
		}
	}
	for reason := range reasons {
		if !documented[reason] {
			t.Errorf("%s is in the table, and the comments of %v do not name it", reason, denying)
		}
	}
}

// conditionDocs returns the comments of the constants of api/v1alpha1/conditions.go.
func conditionDocs(t *testing.T) map[string]string {
	t.Helper()
	name := filepath.Join("..", "..", "api", "v1alpha1", "conditions.go")
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && spec.Doc != nil {
			docs[spec.Names[0].Name] = strings.Join(strings.Fields(spec.Doc.Text()), " ")
		}
		return true
	})
	return docs
}

var (
	against    = regexp.MustCompile(`to be (?:False|Unknown): ([^.;]*)`)
	reasonName = regexp.MustCompile(`\b[A-Z][A-Za-z]*[a-z]\b`)
)

// reasonsAgainst returns the reasons that a comment names for False and Unknown.
func reasonsAgainst(doc string) (found []string) {
	for _, list := range against.FindAllStringSubmatch(doc, -1) {
		for _, name := range reasonName.FindAllString(list[1], -1) {
			if !strings.HasPrefix(name, "Provisioned") { // "or a reason of the condition Provisioned"
				found = append(found, name)
			}
		}
	}
	return found
}

// TestDecisions spells out which reasons withdraw. A change here changes the rules between
// tenants.
func TestDecisions(t *testing.T) {
	want := []string{
		"APIResourceNotAccepted", "APIResourceNotFound", "AuthorizationServerNotAllowed", "ExistsAtServer", "IdentifierClaimed",
		"IdentifierNotAllowed", "IssuerMismatch", "NotGranted", "ProvisioningForbidden", "ScopeNotGranted", "ServerMismatch",
	}
	n := 0
	for reason, k := range reasons {
		if k == decision {
			n++
		}
		if Decided(reason) != (k == decision) {
			t.Errorf("%s: Decided says otherwise than the table", reason)
		}
	}
	for _, reason := range want {
		if !Decided(reason) {
			t.Errorf("%s is no decision", reason)
		}
	}
	if n != len(want) {
		t.Errorf("the table has %d decisions, want %d", n, len(want))
	}
	if Decided("Unheard") || (*Problem)(nil).Decided() {
		t.Error("what is not in the table withdraws")
	}
}
