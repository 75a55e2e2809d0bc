// SPDX-License-Identifier: Apache-2.0

package web

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/testing/fleet"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// hostile is what a tenant may write where it can.
const hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[31m\u2028"

// token looks like a token.
const token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2lnbmF0dXJl"

func build(t *testing.T, o Options, objects ...client.Object) *Model {
	t.Helper()
	o.Now = noon
	m, err := Build(t.Context(), fleet.Inventory(objects...), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// objects returns each object with its state, and ! if somebody should look at it.
func objects(m *Model) (all []string) {
	for _, o := range m.Objects {
		line := o.ID + " " + string(o.State)
		if o.Wrong {
			line += " !"
		}
		all = append(all, line)
	}
	return all
}

// edges returns each access with its state, its verdict and what decides.
func edges(m *Model) (all []string) {
	for _, e := range m.Edges {
		all = append(all, strings.Join([]string{e.Client, e.API, string(e.State), string(e.Verdict), e.By}, " "))
	}
	return all
}

func find(t *testing.T, m *Model, id string) Object {
	t.Helper()
	for _, o := range m.Objects {
		if o.ID == id {
			return o
		}
	}
	t.Fatalf("there is no %s", id)
	return Object{}
}

func TestCompany(t *testing.T) {
	c := fleet.NewCompany(noon)
	m := build(t, Options{}, c.Objects()...)
	if diff := cmp.Diff([]string{
		"M2MClient/finance/audit Failing !", "M2MClient/finance/invoices Ready", "M2MClient/shop/cart Ready", "M2MClient/shop/checkout Warning !",
		"M2MClient/shop/search Failing !", "M2MClient/warehouse/delivery Ready",
		"APIResource/finance/report-api Failing !", "APIResource/payments/payment-api Ready", "APIResource/payments/refund-api Ready",
		"APIResource/warehouse/stock-api Ready",
		"AuthorizationServer/finance/legacy Failing !", "ClusterAuthorizationServer//login Ready",
	}, objects(m)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"M2MClient/finance/audit APIResource/finance/report-api Waiting Allowed same namespace",
		"M2MClient/finance/invoices APIResource/payments/payment-api Waiting Allowed spec.grants[1]",
		"M2MClient/shop/cart APIResource/payments/payment-api Ready Allowed spec.grants[0]",
		"M2MClient/shop/cart APIResource/warehouse/stock-api Ready Allowed spec.grants[0]",
		"M2MClient/shop/checkout APIResource/payments/payment-api Warning Allowed spec.grants[0]",
		"M2MClient/shop/checkout APIResource/payments/refund-api Ready Allowed spec.grants[0]",
		"M2MClient/shop/search APIResource/payments/payment-api Failing Denied NotGranted",
		"M2MClient/shop/search APIResource/warehouse/stock-api Ready Allowed spec.grants[0]",
		"M2MClient/warehouse/delivery APIResource/warehouse/stock-api Ready Allowed same namespace",
	}, edges(m)); diff != "" {
		t.Error(diff)
	}
	want := []Grant{{API: "APIResource/payments/refund-api", Path: "spec.grants[1]", Who: "every client of namespaces support", Scopes: []string{"refunds:read"}}}
	if diff := cmp.Diff(want, m.Unused); diff != "" {
		t.Error(diff)
	}

	api := find(t, m, "APIResource/payments/payment-api")
	if api.Server != "ClusterAuthorizationServer//login" || len(api.Pods) != 2 || api.Pods[0].State != tree.Ready {
		t.Errorf("the API is %+v", api)
	}
	checkout := find(t, m, "M2MClient/shop/checkout")
	if len(checkout.Problems) != 1 || !strings.HasPrefix(checkout.Problems[0].Advice, "Correct the credentials") || checkout.Sentence != "Its tokens work, and something fails" {
		t.Errorf("the client is %+v", checkout)
	}
	if len(checkout.Conditions) != 4 || len(checkout.Pods) != 1 || checkout.Facts[0].Value != "m2m-shop-checkout" {
		t.Errorf("its details are %+v", checkout.Details)
	}
	if got := find(t, m, "M2MClient/shop/search").Problems[0].Advice; got != "Ask the API's team for a grant" {
		t.Errorf("the advice is %q", got)
	}
	held := m.Edges[1].Token
	if held == nil || held.WaitsForKey != "2026-12" || !held.RefreshAt.Time.Equal(noon.Add(13*time.Minute)) {
		t.Errorf("the token that waits is %+v", held)
	}
}

func TestModelOfOneNamespace(t *testing.T) {
	m := build(t, Options{Namespace: "finance"}, fleet.NewCompany(noon).Objects()...)
	if diff := cmp.Diff([]string{
		"M2MClient/finance/audit APIResource/finance/report-api Waiting Allowed same namespace",
		"M2MClient/finance/invoices APIResource/payments/payment-api Waiting Allowed spec.grants[1]",
	}, edges(m)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"M2MClient/finance/audit Failing !", "M2MClient/finance/invoices Ready",
		"APIResource/finance/report-api Failing !", "APIResource/payments/payment-api Ready",
		"AuthorizationServer/finance/legacy Failing !", "ClusterAuthorizationServer//login Ready",
	}, objects(m)); diff != "" {
		t.Error(diff)
	}
}

// TestAccessThroughTime looks at one access at different moments and in different situations.
func TestAccessThroughTime(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fleet.Company)
		want   string
	}{
		"a token that works":       {func(*fleet.Company) {}, "Ready: Works"},
		"a token that is due":      {func(c *fleet.Company) { due := noonAnd(-1); c.Cart.Status.Tokens[0].RefreshAt = &due }, "Warning: Works, and a new token is due"},
		"a token that has expired": {func(c *fleet.Company) { end := noonAnd(0); c.Cart.Status.Tokens[0].ExpiresAt = &end }, "Failing: Allowed, and the token has expired"},
		"no token":                 {func(c *fleet.Company) { c.Cart.Status.Tokens = nil }, "Waiting: Allowed, and there is no token yet"},
		"a grant without the scope": {func(c *fleet.Company) {
			c.Cart.Spec.Access[0].Scopes = append(c.Cart.Spec.Access[0].Scopes, "payments:refund")
		}, "Warning: Works, with some of the scopes only"},
		"no grant":                       {func(c *fleet.Company) { c.Payment.Spec.Grants = nil }, "Failing: Not allowed"},
		"a reference that leads nowhere": {func(c *fleet.Company) { c.Cart.Spec.Access[0].APIResourceRef.Name = "paiment-api" }, "Failing: Not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := fleet.NewCompany(noon)
			tc.change(c)
			for _, e := range build(t, Options{Namespace: "shop"}, c.Objects()...).Edges {
				if e.Client == "M2MClient/shop/cart" && (e.Key == "payment-api" || e.Key == "paiment-api") {
					if got := string(e.State) + ": " + e.Sentence; got != tc.want {
						t.Errorf("it is %q, want %q", got, tc.want)
					}
					return
				}
			}
			t.Error("there is no such access")
		})
	}
}

func TestPlainResource(t *testing.T) {
	c := fleet.NewCompany(noon)
	plain := c.Client("shop", "mailer")
	plain.Spec.Credentials.ClientSecret.SecretRef.Name = "mailer"
	plain.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: "login"}
	plain.Spec.Access = []v1alpha1.Access{{Resource: "https://mail.example.net/api", Key: "mail"}}
	c.Token(plain, -time.Minute, time.Hour, 2*time.Hour)
	m := build(t, Options{}, append(c.Objects(), plain)...)
	got := find(t, m, "Resource/ClusterAuthorizationServer//login/https://mail.example.net/api")
	if got.Server != "ClusterAuthorizationServer//login" || got.Name != "https://mail.example.net/api" {
		t.Errorf("the resource is %+v", got)
	}
	all := strings.Join(edges(m), "\n")
	if want := "M2MClient/shop/mailer " + got.ID + " Ready Allowed spec.access[0].resource"; !strings.Contains(all, want) {
		t.Errorf("the edges are\n%s", all)
	}
}

// TestWhatMayNotBeRead looks at a client whose API is in a namespace that cannot be read.
func TestWhatMayNotBeRead(t *testing.T) {
	c := fleet.NewCompany(noon)
	inv := &inventory.Inventory{}
	inv.Add(c.Cart)
	inv.Read(inventory.Clients, "shop")
	lacking := []inventory.Right{{Verb: "list", Resource: inventory.APIs, Namespace: "payments"}}
	m, err := Build(t.Context(), inv, Options{Namespace: "shop", Missing: lacking, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if got := find(t, m, "APIResource/payments/payment-api"); got.State != tree.Hidden || got.Wrong || got.Sentence != "You may not read it" {
		t.Errorf("the API is %+v", got)
	}
	if e := m.Edges[0]; e.State != tree.Hidden || e.Sentence != "Not known: you may not read what decides" {
		t.Errorf("the access is %+v", e)
	}
	for _, want := range []string{`list apiresources.m2m-operator.io in namespace "payments"`, `get apiresources.m2m-operator.io "payment-api" in namespace "payments"`} {
		if !strings.Contains(strings.Join(m.Missing, "\n"), want) {
			t.Errorf("the missing rights are %q", m.Missing)
		}
	}
}

// TestHostileTexts puts what tenants may write into every text that they can write.
func TestHostileTexts(t *testing.T) {
	c := fleet.NewCompany(noon)
	c.Fails(c.Cart.Status.Conditions, true, "Fresh", "Bad", hostile+token)
	c.Cart.Annotations = map[string]string{"note": hostile + " " + token}
	c.Payment.Spec.Scopes[0].Name = hostile
	m := build(t, Options{}, c.Objects()...)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	y, ok := YAML(fleet.Inventory(c.Objects()...), "M2MClient/shop/cart")
	if !ok || !strings.Contains(y, "kind: M2MClient") || !strings.Contains(y, "note:") {
		t.Fatalf("the YAML is %q", y)
	}
	for name, s := range map[string]string{"the model": string(b), "the YAML": y} {
		for _, bad := range []string{"eyJhbGci", "c2lnbmF0dXJl", "\u202e", `\u202e`, "\x1b", "\u2028"} {
			if strings.Contains(s, bad) {
				t.Errorf("%s has %q", name, bad)
			}
		}
	}
	if strings.ContainsAny(string(b), "<>&") {
		t.Error("the model has characters of HTML that are not escaped")
	}
	if !strings.Contains(find(t, m, "M2MClient/shop/cart").Problems[0].Message, "<script>alert(1)") {
		t.Error("the message lost what it said")
	}
}

func TestLongTexts(t *testing.T) {
	c := fleet.NewCompany(noon)
	c.Fails(c.Cart.Status.Conditions, true, "Fresh", "Bad", strings.Repeat("ä", 30000))
	c.Cart.Annotations = map[string]string{"note": strings.Repeat("x", 200000)}
	m := build(t, Options{}, c.Objects()...)
	if got := len([]rune(find(t, m, "M2MClient/shop/cart").Problems[0].Message)); got != longest {
		t.Errorf("the message has %d characters, want %d", got, longest)
	}
	if y, _ := YAML(fleet.Inventory(c.Objects()...), "M2MClient/shop/cart"); len(y) > longestYAML+1 {
		t.Errorf("the YAML has %d bytes", len(y))
	}
}

func TestManyPods(t *testing.T) {
	c := fleet.NewCompany(noon)
	all := c.Objects()
	for i := range 100 {
		all = append(all, c.ClientPod(c.Cart, fmt.Sprintf("more-%03d", i)))
	}
	all = append(all, c.Pod("shop", "zz-without", v1alpha1.ClientAnnotation, "cart"))
	cart := find(t, build(t, Options{}, all...), "M2MClient/shop/cart")
	if len(cart.Pods) != mostPods || cart.MorePods != 103-mostPods || cart.Pods[0].Name != "zz-without" || !cart.Wrong {
		t.Errorf("the pods are %d and %d more, the first is %+v", len(cart.Pods), cart.MorePods, cart.Pods[0])
	}
}

// TestNothingIsChanged compares an inventory before and after.
func TestNothingIsChanged(t *testing.T) {
	c, same := fleet.NewCompany(noon), fleet.NewCompany(noon)
	for _, one := range []*fleet.Company{c, same} {
		one.Cart.Status.Conditions[0].Message = hostile + token
		one.Payment.Spec.Scopes[0].Name = hostile
	}
	inv := fleet.Inventory(c.Objects()...)
	if _, err := Build(t.Context(), inv, Options{Now: noon}); err != nil {
		t.Fatal(err)
	}
	YAML(inv, "M2MClient/shop/cart")
	if diff := cmp.Diff(same.Objects(), c.Objects()); diff != "" {
		t.Error(diff)
	}
}

func noonAnd(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(d)) }
