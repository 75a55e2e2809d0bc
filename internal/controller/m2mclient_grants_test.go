// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

func namesOf(namespaces ...string) v1alpha1.NamespaceSelection {
	var s v1alpha1.NamespaceSelection
	for _, n := range namespaces {
		s.Names = append(s.Names, v1alpha1.NamespaceName(n))
	}
	return s
}

func labelled(key, value string) v1alpha1.NamespaceSelection {
	return v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
}

func grant(namespaces v1alpha1.NamespaceSelection, scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
	return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{Namespaces: namespaces}, Scopes: scopes}
}

func grantTo(name v1alpha1.ObjectName, g v1alpha1.Grant) v1alpha1.Grant {
	g.Clients.Names = append(g.Clients.Names, name)
	return g
}

func withLabels(t *testing.T, namespace string, labels map[string]string) {
	t.Helper()
	change(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, func(ns *corev1.Namespace) { ns.Labels = labels })
}

// TestGrants is the matrix of who may ask an API for what. Every row has an API
// and a client of its own; all of them stand side by side.
func TestGrants(t *testing.T) {
	const read, write, unknown = v1alpha1.ScopeName("payments:read"), v1alpha1.ScopeName("payments:write"), v1alpha1.ScopeName("payments:all")
	w := newWorld(t)
	w.story()
	withLabels(t, w.shop, map[string]string{"team": "shop", "stage": "live"})
	startOperator(t)
	shop, other := namesOf(w.shop), namesOf("elsewhere")
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
		{name: "a grant by one name of several", grants: []v1alpha1.Grant{grant(namesOf("elsewhere", w.shop), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by a prefix of the name", grants: []v1alpha1.Grant{grant(namesOf("shop"), read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant by selector", grants: []v1alpha1.Grant{grant(labelled("team", "shop"), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by another value", grants: []v1alpha1.Grant{grant(labelled("team", "till"), read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant by the label that every namespace has", grants: []v1alpha1.Grant{grant(labelled(corev1.LabelMetadataName, w.shop), read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by an expression", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "stage", Operator: metav1.LabelSelectorOpIn, Values: []string{"live"}}},
		}}, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by an expression that means nothing", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "stage", Operator: "Like", Values: []string{"live"}}},
		}}, read)}, scopes: []v1alpha1.ScopeName{read}, want: v1alpha1.ReasonNotGranted},
		{name: "a grant to every namespace", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, read)}, scopes: []v1alpha1.ScopeName{read}},
		{name: "a grant by name or selector, the name only", grants: []v1alpha1.Grant{grant(v1alpha1.NamespaceSelection{
			Names: shop.Names, Selector: labelled("team", "till").Selector,
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
		{name: "two grants add up", grants: []v1alpha1.Grant{grant(shop, read), grant(labelled("team", "shop"), write)}, scopes: []v1alpha1.ScopeName{read, write}},
		{name: "a grant to another client does not add up", grants: []v1alpha1.Grant{grant(shop, read), grantTo("pay", grant(shop, write))}, scopes: []v1alpha1.ScopeName{read, write}, want: v1alpha1.ReasonScopeNotGranted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api, c := w.api(), w.cart()
			api.Name, c.Name = fmt.Sprintf("api-%d", i), fmt.Sprintf("client-%d", i)
			api.Spec.Identifier = v1alpha1.ResourceIdentifier(fmt.Sprintf("https://api-%d.example.com", i))
			api.Spec.Grants = tc.grants
			c.Spec.Access[0].APIResourceRef.Name = v1alpha1.APIResourceName(api.Name)
			c.Spec.Access[0].Scopes = tc.scopes
			w.alsoKnows(string(api.Spec.Identifier))
			if tc.home {
				c.Namespace = w.payments
				credentials := w.credentialsOf(t)
				credentials.ObjectMeta = metav1.ObjectMeta{Namespace: w.payments, Name: fmt.Sprintf("credentials-%d", i)}
				c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(credentials.Name)
				create(t, credentials)
			}
			create(t, api, c)
			if tc.want == "" {
				isReady(t, c)
				hasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
				if tokenIn(t, c.Namespace, c.SecretName(), api.Name) == "" {
					t.Error("there is no token")
				}
				return
			}
			granted := hasCondition(t, c, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			ready := hasCondition(t, c, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.want)
			if !strings.Contains(granted.Message, api.Name) || ready.Message != granted.Message {
				t.Errorf("Granted says %q, Ready says %q", granted.Message, ready.Message)
			}
			comesToRest(t, c)
			if tokensOf(t, c) != nil {
				t.Error("there is a Secret")
			}
			for _, r := range w.as.TokenRequests() {
				if r.Resource == string(api.Spec.Identifier) {
					t.Errorf("a token was asked for: %+v", r)
				}
			}
		})
	}
}

// TestGrantsFollowChanges takes what a token rests on away and gives it back
// while the operator runs. Each time the token is withdrawn: its key leaves the
// Secret, what belongs to other accesses stays, and the status says why.
func TestGrantsFollowChanges(t *testing.T) {
	w := newWorld(t)
	withLabels(t, w.shop, map[string]string{"team": "shop"})
	api, cart := w.story()
	w.alsoKnows(ordersAPI)
	change(t, api, func(a *v1alpha1.APIResource) {
		a.Spec.Grants = []v1alpha1.Grant{grant(labelled("team", "shop"), "payments:read", "payments:write")}
	})
	orders := w.api()
	orders.Name, orders.Namespace, orders.Spec.Identifier, orders.Spec.Grants = "orders-api", w.shop, ordersAPI, nil
	create(t, orders)
	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{APIResourceRef: v1alpha1.APIResourceReference{Name: "orders-api"}})
		c.Spec.Secret.Template = map[string]string{
			"payment.header": `Bearer {{ token "payment-api" }}`, "orders.header": `Bearer {{ token "orders-api" }}`,
		}
	})
	startOperator(t)
	isReady(t, cart)
	w.sawRequests(t, 2)
	kept := tokenIn(t, w.shop, "cart-token", "orders-api")

	for _, tc := range []struct {
		name       string
		take, give func()
		want       string
	}{
		{
			name: "the label of the namespace",
			take: func() { withLabels(t, w.shop, nil) },
			give: func() { withLabels(t, w.shop, map[string]string{"team": "shop"}) },
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the value of the label",
			take: func() { withLabels(t, w.shop, map[string]string{"team": "till"}) },
			give: func() { withLabels(t, w.shop, map[string]string{"team": "shop"}) },
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the grant",
			take: func() { change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil }) },
			give: func() {
				change(t, api, func(a *v1alpha1.APIResource) {
					a.Spec.Grants = []v1alpha1.Grant{grant(namesOf(w.shop), "payments:write")}
				})
			},
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the scope in the grant",
			take: func() {
				change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
			},
			give: func() {
				change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:write"} })
			},
			want: v1alpha1.ReasonScopeNotGranted,
		},
		{
			name: "the client's name in the grant",
			take: func() {
				change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"till"} })
			},
			give: func() {
				change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"till", "cart"} })
			},
			want: v1alpha1.ReasonNotGranted,
		},
		{
			name: "the API",
			take: func() { remove(t, api) },
			give: func() { api = w.api(); create(t, api) },
			want: v1alpha1.ReasonAPIResourceNotFound,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.take()
			granted := hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, tc.want)
			hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.want)
			if !strings.Contains(granted.Message, "payment-api") {
				t.Errorf("the message is %q", granted.Message)
			}
			if diff := cmp.Diff([]string{"orders-api", "orders.header"}, keysIn(t, cart)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			for _, s := range cart.Status.Tokens {
				if (s.ExpiresAt != nil) != (s.Key == "orders-api") {
					t.Errorf("the status says of %s that it expires at %v", s.Key, s.ExpiresAt)
				}
			}
			comesToRest(t, cart)
			w.sawRequests(t, 0)

			tc.give()
			isReady(t, cart)
			hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionTrue, v1alpha1.ReasonGranted)
			if diff := cmp.Diff([]string{"orders-api", "orders.header", "payment-api", "payment.header"}, keysIn(t, cart)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			comesToRest(t, cart)
			w.sawRequests(t, 1)
			if tokenIn(t, w.shop, "cart-token", "orders-api") != kept {
				t.Error("the other token was replaced")
			}
		})
	}
}
