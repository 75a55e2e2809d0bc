// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"io"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

func line(path, value string) decision.Line {
	return decision.Line{Kind: "APIResource", Namespace: "payments", Name: "payment-api", Path: path, Value: value}
}

var (
	allowed = decision.Access{
		Client: "shop/cart", API: "payments/payment-api", Resource: "https://payment.example.com/api", Key: "payment-api",
		Requested: []string{"read", "write"}, Scopes: []string{"read", "write"}, Verdict: decision.Allowed,
		Lines: []decision.Line{line("spec.grants[0].clients.namespaces.names[0]", "shop"), line("spec.grants[0].scopes[0]", "read"), line("spec.grants[1].scopes[0]", "write")},
	}
	denied = decision.Access{
		Client: "shop/stock", API: "payments/payment-api", Key: "payment-api", Requested: []string{"write"}, Verdict: decision.Denied,
		Reason: "NotGranted", Message: "APIResource \"payments/payment-api\" grants nothing", Lines: []decision.Line{line("spec.grants", "")},
	}
	partly = decision.Access{
		Client: "billing/report", API: "payments/payment-api", Key: "payment-api", Requested: []string{"read", "write"}, Scopes: []string{"read"}, Verdict: decision.Partly,
		Reason: "ScopeNotGranted", Message: "It does not grant write", Lines: []decision.Line{line("spec.grants[2].scopes", `["read"]`)},
	}
	unread = decision.Access{
		Client: "shop/other", API: "secret/api", Key: "api", Verdict: decision.Unknown, Message: "It depends on an object that you may not read",
		Missing: []inventory.Right{{Verb: "get", Resource: inventory.APIs, Namespace: "secret", Name: "api"}},
	}
	same = decision.Access{
		Client: "payments/report", API: "payments/payment-api", Key: "payment-api", Scopes: []string{"read"}, Verdict: decision.Allowed,
		Lines: []decision.Line{line("metadata.namespace", "payments"), line("spec.scopes[0].name", "read")},
	}
	plain = decision.Access{
		Client: "shop/cart", Resource: `urn:"other"`, Key: "other", Verdict: decision.Allowed,
		Lines: []decision.Line{{Kind: "M2MClient", Namespace: "shop", Name: "cart", Path: "spec.access[1].resource"}},
	}
	everything = []decision.Access{partly, same, allowed, plain, unread, denied}
	unused     = []decision.Grant{{API: "payments/payment-api", Lines: []decision.Line{line("spec.grants[3]", "{}")}, Who: "every client of namespaces other", Scopes: []string{"read"}}}
)

func drawn(t *testing.T, err error, b *strings.Builder) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAccess(t *testing.T) {
	b := &strings.Builder{}
	golden(t, "access.txt", drawn(t, AccessTable(b, everything, unused), b))
	b = &strings.Builder{}
	golden(t, "access.mmd", drawn(t, Mermaid(b, everything), b))
	b = &strings.Builder{}
	golden(t, "access.dot", drawn(t, Dot(b, everything), b))
}

func TestWhy(t *testing.T) {
	b := &strings.Builder{}
	for _, a := range []decision.Answer{
		{Access: allowed, Asked: true},
		{Access: allowed, Notes: []string{"M2MClient \"shop/cart\" does not request it"}},
		{Access: denied, Asked: true},
		{Access: partly, Asked: true},
		{Access: unread, Asked: true, Notes: []string{"The operator says of all accesses: True"}},
		{Access: decision.Access{Client: "shop/cart", API: "payments/payment-api", Verdict: decision.Unknown, Reason: "AuthorizationServerNotFound", Message: "It does not exist"}, Asked: true},
	} {
		if err := Why(b, a, Style{}); err != nil {
			t.Fatal(err)
		}
		b.WriteString("--\n")
	}
	if err := Uncertain(b, unread.Missing); err != nil {
		t.Fatal(err)
	}
	golden(t, "why.txt", b.String())
	b.Reset()
	if err := Why(b, decision.Answer{Access: denied}, Style{Colour: true}); err != nil || !strings.Contains(b.String(), "\x1b[31mNot allowed\x1b[0m") {
		t.Errorf("a denial is not red: %q (%v)", b.String(), err)
	}
}

func TestDiff(t *testing.T) {
	fewer := allowed
	fewer.Scopes = []string{"read"}
	b := &strings.Builder{}
	d := decision.Diff{
		Changes: []decision.Change{
			{Client: "shop/cart", API: "payments/payment-api", After: &allowed, Gained: allowed.Scopes},
			{Client: "shop/cart", API: "payments/payment-api", Before: &allowed, After: &fewer, Lost: []string{"write"}},
			{Client: "shop/stock", API: "payments/payment-api", Before: &allowed, After: &denied},
			{Client: "shop/cart", Before: &plain},
			{Client: "shop/other", API: "secret/api", Before: &denied, After: &unread},
		},
		NewGrants: unused, FormerGrants: unused,
	}
	golden(t, "diff.txt", drawn(t, Diff(b, d, Style{}), b))
	b = &strings.Builder{}
	if got := drawn(t, Diff(b, decision.Diff{}, Style{}), b); got != "No access would change.\n" {
		t.Errorf("it says %q", got)
	}
}

func TestUsers(t *testing.T) {
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: noon.Add(d)} }
	b := &strings.Builder{}
	golden(t, "users.txt", drawn(t, Users(b, decision.Users{API: "payments/payment-api", UnusedGrants: unused, Users: []decision.User{
		{Access: allowed, ExpiresAt: in(time.Hour)},
		{Access: partly, ExpiresAt: in(10 * time.Minute), NotReady: "ScopeNotGranted"},
		{Access: denied, NotReady: "NotGranted"},
		{Access: same, ExpiresAt: in(-time.Minute), NotReady: "TokenExpired"},
		{Access: unread},
	}}, Style{Now: noon}), b))
	b = &strings.Builder{}
	golden(t, "users-none.txt", drawn(t, Users(b, decision.Users{API: "payments/payment-api"}, Style{Now: noon}), b))
}

// TestScopesAreToldApart: a scope may have commas, and what Mermaid reads as a character or as Markdown.
func TestScopesAreToldApart(t *testing.T) {
	all := []decision.Access{{Client: "shop/cart", API: "payments/api", Verdict: decision.Allowed, Scopes: []string{"`a#44;b`", "c,d"}}}
	for what, tc := range map[string]struct {
		draw func(io.Writer) error
		want string
	}{
		"table":   {func(w io.Writer) error { return AccessTable(w, all, nil) }, "   `a#44;b` c,d   "},
		"mermaid": {func(w io.Writer) error { return Mermaid(w, all) }, `|"#96;a#35;44;b#96; c,d"|`},
		"dot":     {func(w io.Writer) error { return Dot(w, all) }, "\"`a#44;b` c,d\""},
	} {
		b := &strings.Builder{}
		if err := tc.draw(b); err != nil || !strings.Contains(b.String(), tc.want) {
			t.Errorf("%s: %v, no %s in\n%s", what, err, tc.want, b)
		}
	}
}
