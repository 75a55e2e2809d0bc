// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func server(namespace string) *v1alpha1.AuthorizationServer {
	s := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "auth", UID: types.UID(namespace)}}
	s.Spec.Issuer = "https://auth.example.com"
	return s
}

func grant(namespace string, clients []v1alpha1.ObjectName, scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
	return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{
		Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(namespace)}}, Names: clients,
	}, Scopes: scopes}
}

func labelled(scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
	return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{
		Namespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "sales"}}},
	}, Scopes: scopes}
}

func api(grants ...v1alpha1.Grant) *v1alpha1.APIResource {
	a := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "payment-api", UID: "api", CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))}}
	a.Spec.AuthorizationServerRef.Name, a.Spec.Identifier = "auth", "https://payment.example.com/api"
	a.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}, {Name: "write"}}
	a.Spec.Grants = grants
	return a
}

func cart(namespace string, scopes ...v1alpha1.ScopeName) *v1alpha1.M2MClient {
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"}}
	c.Spec.AuthorizationServerRef.Name = "auth"
	c.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
	c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}, Scopes: scopes}}
	return c
}

// registered returns a client that the operator registers.
func registered(namespace string, scopes ...v1alpha1.ScopeName) *v1alpha1.M2MClient {
	c := cart(namespace, scopes...)
	c.Spec.Credentials, c.Spec.AuthorizationServerRef.Name = v1alpha1.ClientCredentials{}, ""
	return c
}

func namespace(name string, labels map[string]string) *metav1.PartialObjectMetadata {
	ns := inventory.Metadata("Namespace")
	ns.Name, ns.Labels = name, labels
	return ns
}

// has returns an inventory of somebody who may read everything.
func has(objects ...client.Object) *inventory.Inventory {
	inv := some(objects...)
	for _, r := range []inventory.Resource{inventory.Servers, inventory.ClusterServers, inventory.APIs, inventory.Clients, inventory.Namespaces} {
		inv.Read(r, "")
	}
	return inv
}

func some(objects ...client.Object) *inventory.Inventory {
	inv := &inventory.Inventory{}
	for _, o := range objects {
		inv.Add(o)
	}
	return inv
}

func lineTexts(lines []Line) (all []string) {
	for _, l := range lines {
		all = append(all, fmt.Sprintf("%s %s: %s", l.Object(), l.Path, l.Value))
	}
	return all
}

var both = []client.Object{server("shop"), server("payments")}

func TestWhy(t *testing.T) {
	const of = "APIResource payments/payment-api "
	for name, tc := range map[string]struct {
		objects []client.Object
		of      string // the client's namespace
		scope   string
		verdict Verdict
		asked   bool
		reason  string
		lines   []string
	}{
		"allowed by a grant for one client": {
			objects: []client.Object{api(grant("other", nil, "write"), grant("shop", []v1alpha1.ObjectName{"stock", "cart"}, "read", "write")), cart("shop", "write")},
			scope:   "write", verdict: Allowed, asked: true,
			lines: []string{of + "spec.grants[1].clients.namespaces.names[0]: shop", of + "spec.grants[1].clients.names[1]: cart", of + "spec.grants[1].scopes[1]: write"},
		},
		"allowed by two grants": {
			objects: []client.Object{api(grant("shop", nil, "read"), grant("shop", nil, "write")), cart("shop", "read", "write")}, verdict: Allowed, asked: true,
			lines: []string{of + "spec.grants[0].clients.namespaces.names[0]: shop", of + "spec.grants[0].scopes[0]: read", of + "spec.grants[1].clients.namespaces.names[0]: shop", of + "spec.grants[1].scopes[0]: write"},
		},
		"of two grants that apply, the one with the scope": {
			objects: []client.Object{api(grant("shop", nil, "read"), grant("shop", nil, "write")), cart("shop", "write")}, scope: "write", verdict: Allowed, asked: true,
			lines: []string{of + "spec.grants[1].clients.namespaces.names[0]: shop", of + "spec.grants[1].scopes[0]: write"},
		},
		"allowed by a selector": {
			objects: []client.Object{namespace("shop", map[string]string{"team": "sales"}), api(labelled("write")), cart("shop", "write")}, verdict: Allowed, asked: true,
			lines: []string{of + `spec.grants[0].clients.namespaces.selector: {"matchLabels":{"team":"sales"}}`, of + "spec.grants[0].scopes[0]: write"},
		},
		"a token without scopes": {
			objects: []client.Object{api(grant("shop", nil)), cart("shop")}, verdict: Allowed, asked: true,
			lines: []string{of + "spec.grants[0].clients.namespaces.names[0]: shop"},
		},
		"in the API's own namespace": {
			objects: []client.Object{api(), cart("payments", "write")}, of: "payments", scope: "write", verdict: Allowed, asked: true,
			lines: []string{of + "metadata.namespace: payments", of + "spec.scopes[1].name: write"},
		},
		"nothing is granted": {
			objects: []client.Object{api(), cart("shop", "write")}, verdict: Denied, asked: true, reason: "NotGranted", lines: []string{of + "spec.grants: "},
		},
		"granted to others": {
			objects: []client.Object{api(grant("other", nil, "write"), grant("shop", []v1alpha1.ObjectName{"stock"}, "write")), cart("shop", "write")},
			verdict: Denied, asked: true, reason: "NotGranted",
			lines: []string{of + `spec.grants[0].clients.namespaces: {"names":["other"]}`, of + `spec.grants[1].clients.names: ["stock"]`},
		},
		"the scope is not granted": {
			objects: []client.Object{api(grant("shop", nil, "read")), cart("shop", "write")}, scope: "write",
			verdict: Denied, asked: true, reason: "ScopeNotGranted", lines: []string{of + `spec.grants[0].scopes: ["read"]`},
		},
		"the API has no such scope": {
			objects: []client.Object{api(grant("shop", nil, "read")), cart("shop", "refund")}, scope: "refund", verdict: Denied, asked: true, reason: "ScopeNotGranted",
			lines: []string{of + `spec.grants[0].scopes: ["read"]`, of + `spec.scopes: [{"name":"read"},{"name":"write"}]`},
		},
		"some of the scopes": {
			objects: []client.Object{api(grant("shop", nil, "read")), registered("shop", "read", "write")}, verdict: Partly, asked: true, reason: "ScopeNotGranted",
			lines: []string{of + "spec.grants[0].clients.namespaces.names[0]: shop", of + "spec.grants[0].scopes[0]: read", of + `spec.grants[0].scopes: ["read"]`},
		},
		"not requested, and granted": {
			objects: []client.Object{api(grant("shop", nil, "read", "write")), cart("shop", "read")}, scope: "write", verdict: Allowed,
			lines: []string{of + "spec.grants[0].clients.namespaces.names[0]: shop", of + "spec.grants[0].scopes[1]: write"},
		},
		"a client that does not exist": {
			objects: []client.Object{api(grant("shop", nil, "write"))}, scope: "write", verdict: Allowed,
			lines: []string{of + "spec.grants[0].clients.namespaces.names[0]: shop", of + "spec.grants[0].scopes[0]: write"},
		},
		"an API that does not exist": {
			objects: []client.Object{cart("shop", "write")}, verdict: Denied, asked: true, reason: "APIResourceNotFound",
			lines: []string{`M2MClient shop/cart spec.access[0].apiResourceRef: {"name":"payment-api","namespace":"payments"}`},
		},
		"neither exists": {verdict: Denied, reason: "APIResourceNotFound"},
		"another issuer": {
			objects: []client.Object{api(grant("shop", nil, "write")), func() client.Object {
				c := cart("shop", "write")
				c.Spec.AuthorizationServerRef.Name = "other"
				return c
			}(), func() client.Object {
				s := server("shop")
				s.Name, s.Spec.Issuer = "other", "https://other.example.com"
				return s
			}()},
			verdict: Denied, asked: true, reason: "IssuerMismatch", lines: []string{"AuthorizationServer payments/auth spec.issuer: https://auth.example.com"},
		},
		"the client's server does not exist": {
			objects: []client.Object{api(grant("shop", nil, "write")), func() client.Object {
				c := cart("shop", "write")
				c.Spec.AuthorizationServerRef.Name = "auht"
				return c
			}()},
			verdict: Unknown, asked: true, reason: "AuthorizationServerNotFound", lines: []string{"M2MClient shop/cart spec.authorizationServerRef.name: auht"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			of := tc.of
			if of == "" {
				of = "shop"
			}
			got, err := Why(t.Context(), has(append(tc.objects, both...)...), types.NamespacedName{Namespace: of, Name: "cart"}, types.NamespacedName{Namespace: "payments", Name: "payment-api"}, tc.scope)
			if err != nil {
				t.Fatal(err)
			}
			if got.Verdict != tc.verdict || got.Reason != tc.reason || got.Asked != tc.asked || len(got.Missing) > 0 {
				t.Errorf("it says %s, %s (asked: %t, missing %v): %s", got.Verdict, got.Reason, got.Asked, got.Missing, got.Message)
			}
			if got.Yes() != (tc.verdict == Allowed && tc.asked) {
				t.Errorf("yes: %t", got.Yes())
			}
			if tc.asked != (len(got.Notes) == 0) {
				t.Errorf("the notes are %q", got.Notes)
			}
			if diff := cmp.Diff(tc.lines, lineTexts(got.Lines)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWithoutRights: what cannot be read is neither allowed nor denied, and other accesses of
// the client keep their answer.
func TestWithoutRights(t *testing.T) {
	c := cart("shop", "write")
	c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{APIResourceRef: v1alpha1.APIResourceReference{Name: "stock-api"}})
	c.Status.Conditions = []metav1.Condition{{Type: "Granted", Status: "True", Reason: "Granted", Message: "Every access is allowed"}}
	stock := api()
	stock.Namespace, stock.Name, stock.UID, stock.Spec.Identifier = "shop", "stock-api", "stock", "urn:stock"
	inv := some(c, stock, server("shop"))
	for _, r := range []inventory.Resource{inventory.Servers, inventory.APIs, inventory.Clients} {
		inv.Read(r, "shop")
	}
	all, err := All(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Verdict != Unknown || all[1].Verdict != Allowed {
		t.Fatalf("the verdicts are %+v", all)
	}
	hidden := inventory.Right{Verb: "get", Resource: inventory.APIs, Namespace: "payments", Name: "payment-api"}
	if !slices.Contains(all[0].Missing, hidden) {
		t.Errorf("missing are %v", all[0].Missing)
	}
	if !slices.Contains(all[1].Missing, inventory.Right{Verb: "list", Resource: inventory.APIs}) {
		t.Errorf("another APIResource may have the identifier, but missing are %v", all[1].Missing)
	}
	why, err := Why(t.Context(), inv, types.NamespacedName{Namespace: "shop", Name: "cart"}, types.NamespacedName{Namespace: "payments", Name: "payment-api"}, "")
	if err != nil || len(why.Notes) != 1 || why.Verdict != Unknown {
		t.Errorf("it says %+v (%v); the operator's own verdict belongs here", why, err)
	}
}

func TestUnused(t *testing.T) {
	inv := has(append(both, api(grant("other", nil, "read"), grant("shop", nil, "write"), labelled()), cart("shop", "write"))...)
	all, err := All(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range Unused(inv, all) {
		got = append(got, fmt.Sprintf("%s %s: %s %v", g.API, g.Lines[0].Path, g.Who, g.Scopes))
	}
	want := []string{
		"payments/payment-api spec.grants[0]: every client of namespaces other [read]",
		"payments/payment-api spec.grants[2]: every client of namespaces those with team=sales []",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	owned := api(grant("shop", nil, "read"))
	owned.Status.IdentifierHold = v1alpha1.IdentifierHold{Issuer: "https://auth.example.com", Since: new(metav1.NewTime(noon))}
	now := append([]client.Object{owned, cart("shop", "read"), namespace("shop", map[string]string{"team": "sales"}), namespace("billing", nil)}, both...)
	thief := api()
	thief.Namespace = "shop"
	for name, tc := range map[string]struct {
		before  []client.Object // instead of those of the same name
		files   []client.Object
		changes []string
		grants  []string // unused ones, after + and -
	}{
		"the same again":             {files: []client.Object{api(grant("shop", nil, "read"))}},
		"another grant in its place": {files: []client.Object{api(labelled("read"))}},
		"the grant goes":             {files: []client.Object{api()}, changes: []string{"shop/cart payment-api Allowed [read] → Denied [] +[] -[read]"}},
		"the grant goes to others": {files: []client.Object{api(grant("other", nil, "read"))},
			changes: []string{"shop/cart payment-api Allowed [read] → Denied [] +[] -[read]"}, grants: []string{"+every client of namespaces other"}},
		"more scopes, requested and granted": {files: []client.Object{api(grant("shop", nil, "read", "write")), cart("shop", "read", "write")},
			changes: []string{"shop/cart payment-api Allowed [read] → Allowed [read write] +[write] -[]"}},
		"a new client": {files: []client.Object{func() client.Object {
			c := cart("shop", "read")
			c.Name = "stock"
			return c
		}()}, changes: []string{"shop/stock payment-api  [] → Allowed [read] +[read] -[]"}},
		"a new API with a status of its own making": {files: []client.Object{func() client.Object {
			a := api(grant("shop", nil, "read"))
			a.Name, a.CreationTimestamp = "orders", metav1.NewTime(noon.Add(-24*time.Hour))
			a.Status.IdentifierHold = v1alpha1.IdentifierHold{Issuer: "https://auth.example.com", Since: new(metav1.NewTime(noon.Add(-24 * time.Hour)))}
			return a
		}()}, grants: []string{"+every client of namespaces shop"}},
		"an API that pretends to go": {files: []client.Object{func() client.Object {
			a := api(grant("shop", nil, "read", "write"))
			a.DeletionTimestamp = new(metav1.NewTime(noon))
			return a
		}(), cart("shop", "read", "write")}, changes: []string{"shop/cart payment-api Allowed [read] → Allowed [read write] +[write] -[]"}},
		"a client's access goes": {files: []client.Object{func() client.Object {
			c := cart("shop")
			c.Spec.Access[0].APIResourceRef.Name = "other"
			return c
		}()}, changes: []string{"shop/cart other  [] → Denied [] +[] -[]", "shop/cart payment-api Allowed [read] →  [] +[] -[read]"},
			grants: nil},
		"a namespace gets a label": {files: []client.Object{namespace("billing", map[string]string{"team": "sales"}), cart("billing", "read"), server("billing"), api(grant("shop", nil, "read"), labelled("read"))},
			changes: []string{"billing/cart payment-api  [] → Allowed [read] +[read] -[]"}},
		"a label that the file does not have stays": {files: []client.Object{namespace("shop", nil), api(labelled("read"))}},
		"the identifier has an owner":               {files: []client.Object{thief, api(grant("shop", nil, "read"))}},
		"a client begins to use a grant": {before: []client.Object{api(grant("shop", nil, "read"), grant("payments-too", nil, "read"))}, files: []client.Object{cart("payments-too", "read"), server("payments-too")},
			changes: []string{"payments-too/cart payment-api  [] → Allowed [read] +[read] -[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Compare(t.Context(), has(now...).Replaced(tc.before...), tc.files, noon)
			if err != nil {
				t.Fatal(err)
			}
			var changes, grants []string
			for _, c := range d.Changes {
				was, is := Access{}, Access{}
				if c.Before != nil {
					was = *c.Before
				}
				if c.After != nil {
					is = *c.After
				}
				changes = append(changes, fmt.Sprintf("%s %s %s %v → %s %v +%v -%v", c.Client, c.Key, was.Verdict, was.Scopes, is.Verdict, is.Scopes, c.Gained, c.Lost))
			}
			for _, g := range d.NewGrants {
				grants = append(grants, "+"+g.Who)
			}
			for _, g := range d.FormerGrants {
				grants = append(grants, "-"+g.Who)
			}
			if diff := cmp.Diff(tc.changes, changes); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.grants, grants); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
			if d.Empty() != (tc.changes == nil && tc.grants == nil) {
				t.Errorf("empty: %t", d.Empty())
			}
		})
	}
}
