// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func grant(namespaces v1alpha1.NamespaceSelection, scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
	return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{Namespaces: namespaces}, Scopes: scopes}
}

func grantTo(name v1alpha1.ObjectName, g v1alpha1.Grant) v1alpha1.Grant {
	g.Clients.Names = append(g.Clients.Names, name)
	return g
}

// TestGrants is the matrix of who may ask an API for what. Every row has its own API
// and client; all of them exist at the same time.
func TestGrants(t *testing.T) {
	const read, write, unknown = v1alpha1.ScopeName("payments:read"), v1alpha1.ScopeName("payments:write"), v1alpha1.ScopeName("payments:all")
	w := operator.NewWorld(t)
	w.Story()
	operator.WithLabels(t, w.Shop, map[string]string{"team": "shop", "stage": "live"})
	operator.Start(t)
	shop, other := operator.NamesOf(w.Shop), operator.NamesOf("elsewhere")
	for i, tc := range []struct {
		name   string
		home   bool // the client lives in the API's namespace
		grants []v1alpha1.Grant
		scopes []v1alpha1.ScopeName
		want   string // the reason of Granted=False; empty: it gets a token
	}{
		{name: "the same namespace needs no grant", home: true, scopes: []v1alpha1.ScopeName{read, write}},
		{name: "the same namespace without scopes", home: true},
		{name: "the same namespace, a scope that the API does not know", home: true, scopes: []v1alpha1.ScopeName{unknown}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "the same namespace, some scope unknown", home: true, scopes: []v1alpha1.ScopeName{read, unknown}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "the same namespace is not limited by grants", home: true, grants: []v1alpha1.Grant{grant(other, read)}, scopes: []v1alpha1.ScopeName{write}},
		{name: "another namespace without a grant", scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "another namespace without a grant, without scopes", want: v1alpha1.ReasonNotGranted},
		{name: "a grant to others", grants: []v1alpha1.Grant{grant(other, read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant by name", grants: []v1alpha1.Grant{grant(shop, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by one name of several", grants: []v1alpha1.Grant{grant(operator.NamesOf("elsewhere", w.Shop), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by a prefix of the name", grants: []v1alpha1.Grant{grant(operator.NamesOf("shop"), read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant by selector", grants: []v1alpha1.Grant{grant(operator.Labelled("team", "shop"), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by another value", grants: []v1alpha1.Grant{grant(operator.Labelled("team", "till"), read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant by the label that every namespace has", grants: []v1alpha1.Grant{grant(operator.Labelled(corev1.LabelMetadataName, w.Shop), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by an expression", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "stage", Operator: metav1.LabelSelectorOpIn, Values: []string{"live"}}},
		}}, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by an expression that means nothing", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "stage", Operator: "Like", Values: []string{"live"}}},
		}}, read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant to every namespace", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by name or selector, the name only", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{
			Names: shop.Names, Selector: operator.Labelled("team", "till").Selector,
		}, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a client that is named", grants: []v1alpha1.Grant{grantTo("client-18", grant(shop, read))}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a client that is not named", grants: []v1alpha1.Grant{grantTo("client-18", grant(shop, read))}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a scope that is not granted", grants: []v1alpha1.Grant{grant(shop, read)}, scopes: []v1alpha1.ScopeName{write}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "one scope of two granted", grants: []v1alpha1.Grant{grant(shop, read)}, scopes: []v1alpha1.ScopeName{read, write}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "a scope that is granted and unknown to the client's API", grants: []v1alpha1.Grant{grant(shop, read)}, scopes: []v1alpha1.ScopeName{unknown}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "fewer scopes than granted", grants: []v1alpha1.Grant{grant(shop, read, write)}, scopes: []v1alpha1.ScopeName{write}},
		{name: "no scopes with a grant of some", grants: []v1alpha1.Grant{grant(shop, read)}},
		{name: "no scopes with a grant of none", grants: []v1alpha1.Grant{grant(shop)}},
		{name: "a scope with a grant of none", grants: []v1alpha1.Grant{grant(shop)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonScopeNotGranted},
		{name: "two grants add up", grants: []v1alpha1.Grant{grant(shop, read), grant(operator.Labelled("team", "shop"), write)}, scopes: []v1alpha1.ScopeName{read, write}},
		{name: "a grant to another client does not add up", grants: []v1alpha1.Grant{grant(shop, read), grantTo("pay", grant(shop, write))}, scopes: []v1alpha1.ScopeName{read, write}, want: v1alpha1.ReasonScopeNotGranted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api, c := w.API(), w.Cart()
			api.Name, c.Name = fmt.Sprintf("api-%d", i), fmt.Sprintf("client-%d", i)
			api.Spec.Identifier = v1alpha1.ResourceIdentifier(fmt.Sprintf("https://api-%d.example.com", i))
			api.Spec.Grants = tc.grants
			c.Spec.Access[0].APIResourceRef.Name = v1alpha1.APIResourceName(api.Name)
			c.Spec.Access[0].Scopes = tc.scopes
			w.AlsoKnows(string(api.Spec.Identifier))
			if tc.home {
				c.Namespace = w.Payments
				credentials := credentialsOf(w, t)
				credentials.ObjectMeta = metav1.ObjectMeta{Namespace: w.Payments, Name: fmt.Sprintf("credentials-%d", i)}
				c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(credentials.Name)
				operator.Create(t, credentials)
			}
			operator.Create(t, api, c)
			if tc.want == "" {
				operator.IsReady(t, c)
				operator.HasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
				if operator.TokenIn(t, c.Namespace, c.SecretName(), api.Name) == "" {
					t.Error("there is no token")
				}
				return
			}
			granted := operator.HasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			ready := operator.HasCondition(t, c, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.want)
			if !strings.Contains(granted.Message, api.Name) || ready.Message != granted.Message {
				t.Errorf("Granted says %q, Ready says %q", granted.Message, ready.Message)
			}
			operator.ComesToRest(t, c)
			if operator.TokensOf(t, c) != nil {
				t.Error("there is a Secret")
			}
			for _, r := range w.AS.TokenRequests() {
				if r.Resource == string(api.Spec.Identifier) {
					t.Errorf("a token was requested: %+v", r)
				}
			}
		})
	}
}

// TestGrantsFollowChanges removes what a token depends on and restores it while the
// operator runs. Each time the token is withdrawn: its key leaves the Secret, the
// tokens of other accesses stay, and the status says why.
func TestGrantsFollowChanges(t *testing.T) {
	w := operator.NewWorld(t)
	operator.WithLabels(t, w.Shop, map[string]string{"team": "shop"})
	api, cart := w.Story()
	w.AlsoKnows(operator.OrdersAPI)
	operator.Change(t, api, func(a *v1alpha1.APIResource) {
		a.Spec.Grants = []v1alpha1.Grant{grant(operator.Labelled("team", "shop"), "payments:read", "payments:write")}
	})
	orders := w.API()
	orders.Name, orders.Namespace, orders.Spec.Identifier, orders.Spec.Grants = "orders-api", w.Shop, operator.OrdersAPI, nil
	operator.Create(t, orders)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{APIResourceRef: v1alpha1.APIResourceReference{Name: "orders-api"}})
		c.Spec.Secret.Template = map[string]string{
			"payment.header": `Bearer {{ token "payment-api" }}`, "orders.header": `Bearer {{ token "orders-api" }}`,
		}
	})
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 2)
	kept := operator.TokenIn(t, w.Shop, "cart-token", "orders-api")

	for _, tc := range []struct {
		name       string
		take, give func()
		want       string
	}{
		{
			name: "the label of the namespace",
			take: func() { operator.WithLabels(t, w.Shop, nil) },
			give: func() { operator.WithLabels(t, w.Shop, map[string]string{"team": "shop"}) },
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the value of the label",
			take: func() { operator.WithLabels(t, w.Shop, map[string]string{"team": "till"}) },
			give: func() { operator.WithLabels(t, w.Shop, map[string]string{"team": "shop"}) },
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the grant",
			take: func() { operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil }) },
			give: func() {
				operator.Change(t, api, func(a *v1alpha1.APIResource) {
					a.Spec.Grants = []v1alpha1.Grant{grant(operator.NamesOf(w.Shop), "payments:write")}
				})
			},
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the scope in the grant",
			take: func() {
				operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
			},
			give: func() {
				operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:write"} })
			},
			want: v1alpha1.ReasonScopeNotGranted,
		},
		{
			name: "the client's name in the grant",
			take: func() {
				operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"till"} })
			},
			give: func() {
				operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"till", "cart"} })
			},
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the API",
			take: func() { operator.Remove(t, api) },
			give: func() { api = w.API(); operator.Create(t, api) },
			want: v1alpha1.ReasonAPIResourceNotFound,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.take()
			granted := operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.want)
			if !strings.Contains(granted.Message, "payment-api") {
				t.Errorf("the message is %q", granted.Message)
			}
			if diff := cmp.Diff([]string{"orders-api", "orders.header"}, operator.KeysIn(t, cart)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			for _, s := range cart.Status.Tokens {
				if (s.ExpiresAt != nil) != (s.Key == "orders-api") {
					t.Errorf("the status says that %s expires at %v", s.Key, s.ExpiresAt)
				}
			}
			operator.ComesToRest(t, cart)
			w.SawRequests(t, 0)

			tc.give()
			operator.IsReady(t, cart)
			operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
			if diff := cmp.Diff([]string{"orders-api", "orders.header", "payment-api", "payment.header"}, operator.KeysIn(t, cart)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			operator.ComesToRest(t, cart)
			w.SawRequests(t, 1)
			if operator.TokenIn(t, w.Shop, "cart-token", "orders-api") != kept {
				t.Error("the other token was replaced")
			}
		})
	}
}
