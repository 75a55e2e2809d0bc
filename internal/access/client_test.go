// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestSelects: a selection includes namespaces by their names or labels, and in doubt none.
func TestSelects(t *testing.T) {
	namespace := func(name, team string) *metav1.PartialObjectMetadata {
		o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
		o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		return o
	}
	r := resolver(namespace("shop", "sales"), namespace("billing", "finance"), namespace("cut", "sales"))
	sales := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "sales"}}
	for name, tc := range map[string]struct {
		selection v1alpha1.NamespaceSelection
		namespace string
		want      bool
	}{
		"nothing":                              {v1alpha1.NamespaceSelection{}, "shop", false},
		"its name":                             {names("shop"), "shop", true},
		"another name":                         {names("shop"), "billing", false},
		"a label of it":                        {v1alpha1.NamespaceSelection{Selector: sales}, "shop", true},
		"a label of another":                   {v1alpha1.NamespaceSelection{Selector: sales}, "billing", false},
		"its name, and a label of another":     {v1alpha1.NamespaceSelection{Names: names("billing").Names, Selector: sales}, "billing", true},
		"another name, and a label of it":      {v1alpha1.NamespaceSelection{Names: names("billing").Names, Selector: sales}, "shop", true},
		"every label":                          {v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, "billing", true},
		"every label, of no namespace":         {v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}, "gone", false},
		"a label of it, if its labels are cut": {v1alpha1.NamespaceSelection{Selector: sales}, "cut", false},
		"an invalid selector": {
			v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Like"}}}}, "shop", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := r.Selects(t.Context(), tc.selection, tc.namespace); got != tc.want || err != nil {
				t.Errorf("it selects %s: %t, %v", tc.namespace, got, err)
			}
		})
	}
}

// TestAGrantOfSomeScopes: a client that the operator registers gets the scopes that are granted,
// and one with credentials of its own gets none unless it gets all.
func TestAGrantOfSomeScopes(t *testing.T) {
	withCredentials := func(c *v1alpha1.M2MClient) {
		c.Spec.AuthorizationServerRef.Name = "auth"
		c.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
	}
	deleted := func(a *v1alpha1.APIResource) {
		now := metav1.NewTime(noon)
		a.DeletionTimestamp, a.Finalizers = &now, []string{"m2m-operator.io/wait"}
	}
	for name, tc := range map[string]struct {
		client          func(*v1alpha1.M2MClient)
		scopes          []v1alpha1.ScopeName
		api             func(*v1alpha1.APIResource)
		got             []string // nil if the access is denied
		denied, reduced string   // reasons
	}{
		"all, to a registered client":      {scopes: []v1alpha1.ScopeName{"write", "read"}, got: []string{"read", "write"}},
		"some, to a registered client":     {scopes: []v1alpha1.ScopeName{"refund", "read"}, got: []string{"read"}, reduced: v1alpha1.ReasonScopeNotGranted},
		"none, to a registered client":     {scopes: []v1alpha1.ScopeName{"refund"}, denied: v1alpha1.ReasonScopeNotGranted},
		"all, with own credentials":        {client: withCredentials, scopes: []v1alpha1.ScopeName{"read"}, got: []string{"read"}},
		"some, with own credentials":       {client: withCredentials, scopes: []v1alpha1.ScopeName{"read", "refund"}, denied: v1alpha1.ReasonScopeNotGranted},
		"the API is being deleted":         {client: withCredentials, scopes: []v1alpha1.ScopeName{"read"}, api: deleted, denied: v1alpha1.ReasonAPIResourceNotFound},
		"no scope is asked for or missing": {client: withCredentials, got: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			api := claimant("payments", 0)
			api.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}, {Name: "write"}, {Name: "refund"}}
			api.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: names("shop")}, Scopes: []v1alpha1.ScopeName{"read", "write"}}}
			if tc.api != nil {
				tc.api(api)
			}
			c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
			c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}, Scopes: tc.scopes}}
			if tc.client != nil {
				tc.client(c)
			}
			found, err := resolver(own("payments", issuer), own("shop", issuer), api).Client(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			a := found.Accesses[0]
			if reasonOf(a.Denied) != tc.denied || reasonOf(a.Reduced) != tc.reduced {
				t.Errorf("denied: %+v, reduced: %+v", a.Denied, a.Reduced)
			}
			allowed := tc.denied == ""
			if allowed && len(a.Scopes)+len(tc.got) > 0 && !cmp.Equal(a.Scopes, tc.got) {
				t.Errorf("it gets %v, want %v", a.Scopes, tc.got)
			}
			if (a.Server != nil) != allowed || (a.Spec != nil) != allowed {
				t.Errorf("it has the server %v and the API %v", a.Server, a.Spec)
			}
			if allowed && (a.Server.Object.GetNamespace() != "payments" || a.Spec.Name != "payment-api") {
				t.Errorf("it has the server of %s and the API %s", a.Server.Object.GetNamespace(), a.Spec.Name)
			}
		})
	}
}

// TestTheServerOfARegisteredClient: the server is that of the client's APIs. Nothing is taken
// away while it cannot be found, and everything if its owner does not allow the client.
func TestTheServerOfARegisteredClient(t *testing.T) {
	atCompany := v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: "company"}
	its := v1alpha1.AuthorizationServerReference{Name: "auth"}
	for name, tc := range map[string]struct {
		at              v1alpha1.AuthorizationServerReference // of the API
		client          v1alpha1.AuthorizationServerReference
		before          []v1alpha1.APIResourceReference // what it has access to besides
		others          objects
		server          string // the namespace and the name
		problem, denied string // reasons
		says            string // the problem's message begins with it
	}{
		"its API's own": {at: its, others: objects{own("payments", issuer)}, server: "payments/auth"},
		"its API's does not exist": {
			at: its, problem: v1alpha1.ReasonAuthorizationServerNotFound, says: `AuthorizationServer "auth" does not exist in namespace "payments"`,
		},
		"a cluster's does not exist": {
			at: atCompany, problem: v1alpha1.ReasonAuthorizationServerNotFound, says: `ClusterAuthorizationServer "company" does not exist`,
		},
		"a cluster's, for both":      {at: atCompany, others: objects{cluster("company", issuer, "payments", "shop")}, server: "/company"},
		"a cluster's, which it says": {at: atCompany, client: atCompany, others: objects{cluster("company", issuer, "payments", "shop")}, server: "/company"},
		"a cluster's, not for the client": {
			at: atCompany, others: objects{cluster("company", issuer, "payments")},
			problem: v1alpha1.ReasonAuthorizationServerNotAllowed, denied: v1alpha1.ReasonAuthorizationServerNotAllowed,
			says: `ClusterAuthorizationServer "company" does not allow namespace "shop"`,
		},
		"a cluster's, not for the API": {
			at: atCompany, others: objects{cluster("company", issuer, "shop")},
			problem: v1alpha1.ReasonAuthorizationServerNotAllowed, denied: v1alpha1.ReasonAuthorizationServerNotAllowed,
			says: `ClusterAuthorizationServer "company" does not allow namespace "payments"`,
		},
		"a cluster's, and it says another": {
			at: atCompany, client: its, others: objects{cluster("company", issuer, "payments", "shop"), own("shop", issuer)},
			problem: v1alpha1.ReasonServerMismatch, denied: v1alpha1.ReasonServerMismatch,
			says: `APIResource "payments/payment-api" belongs to ClusterAuthorizationServer "company", not`,
		},
		"its API's own, and it says another": {
			at: its, client: its, others: objects{own("payments", issuer), own("shop", issuer)},
			problem: v1alpha1.ReasonServerMismatch, denied: v1alpha1.ReasonServerMismatch,
			says: `APIResource "payments/payment-api" belongs to AuthorizationServer "auth" of namespace "payments", not`,
		},
		"that of the second API, for the first cannot be seen": {
			at: its, before: []v1alpha1.APIResourceReference{{Namespace: "unwatched", Name: "api"}}, others: objects{own("payments", issuer)}, server: "payments/auth",
		},
		"that of the second API, for the first does not exist": {
			at: its, before: []v1alpha1.APIResourceReference{{Namespace: "shop", Name: "api"}}, others: objects{own("payments", issuer)}, server: "payments/auth",
		},
	} {
		t.Run(name, func(t *testing.T) {
			api := claimant("payments", 0)
			api.Spec.AuthorizationServerRef, api.Spec.Grants = tc.at, []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: names("shop")}}}
			c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
			c.Spec.AuthorizationServerRef = tc.client
			for _, ref := range append(tc.before, v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}) {
				c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{APIResourceRef: ref})
			}
			found, err := resolver(append(tc.others, api)...).Client(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			server, says := "", ""
			if found.Server != nil {
				server = found.Server.Object.GetNamespace() + "/" + found.Server.Object.GetName()
			}
			if found.Problem != nil {
				says, _, _ = strings.Cut(found.Problem.Message, ";")
			}
			denied := found.Accesses[len(tc.before)].Denied
			if server != tc.server || reasonOf(found.Problem) != tc.problem || reasonOf(denied) != tc.denied {
				t.Errorf("the server is %q (%+v), and the access is denied: %+v", server, found.Problem, denied)
			}
			if says != tc.says && !strings.HasPrefix(says, tc.says+" ") {
				t.Errorf("it says %q, want %q", says, tc.says)
			}
		})
	}
}

func reasonOf(p *Problem) string {
	if p == nil {
		return ""
	}
	return p.Reason
}

// world holds a client with credentials of its own, its server, an API of another namespace,
// and the API's server.
type world struct {
	client  *v1alpha1.M2MClient
	mine    *v1alpha1.AuthorizationServer
	theirs  *v1alpha1.AuthorizationServer
	api     *v1alpha1.APIResource
	others  objects
	failing client.Object // reading an object of this type fails
}

func newWorld() *world {
	w := &world{mine: own("shop", issuer), theirs: own("payments", issuer), api: claimant("payments", 0)}
	w.api.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: names("shop")}, Scopes: []v1alpha1.ScopeName{"read", "write"}}}
	w.client = &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "uid-of-cart"}}
	w.client.Spec.AuthorizationServerRef.Name = "auth"
	w.client.Spec.Credentials.ClientSecret.SecretRef.Name = "cart-credentials"
	w.client.Spec.Access = []v1alpha1.Access{{
		APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}, Scopes: []v1alpha1.ScopeName{"read", "write"},
	}}
	return w
}

// resolve returns a resolver that sees the world as it is now.
func (w *world) resolve() Resolver {
	all := append(objects{}, w.others...)
	if w.client != nil {
		all = append(all, w.client.DeepCopy())
	}
	if w.mine != nil {
		all = append(all, w.mine.DeepCopy())
	}
	if w.theirs != nil {
		all = append(all, w.theirs.DeepCopy())
	}
	if w.api != nil {
		all = append(all, w.api.DeepCopy())
	}
	r := resolver(all...)
	if w.failing != nil {
		r.Reader = failing{all, w.failing}
	}
	return r
}

// failing is a reader that fails for objects of one type.
type failing struct {
	objects
	of client.Object
}

var errRead = errors.New("the cache is not there")

func (f failing) Get(ctx context.Context, name client.ObjectKey, into client.Object, opts ...client.GetOption) error {
	if reflect.TypeOf(into) == reflect.TypeOf(f.of) {
		return errRead
	}
	return f.objects.Get(ctx, name, into, opts...)
}

// TestStillAllowed changes the world between the request for a token and its use.
func TestStillAllowed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world)
		want   bool
		fails  bool
	}{
		"nothing changes":          {change: func(*world) {}, want: true},
		"the client is gone":       {change: func(w *world) { w.client = nil }},
		"the client was made anew": {change: func(w *world) { w.client.UID = "another" }},
		"the client is being deleted": {change: func(w *world) {
			now := metav1.NewTime(noon)
			w.client.DeletionTimestamp, w.client.Finalizers = &now, []string{"m2m-operator.io/wait"}
		}},
		"the client has no access any more": {change: func(w *world) { w.client.Spec.Access = nil }},
		"the access has another key":        {change: func(w *world) { w.client.Spec.Access[0].Key = "payments" }},
		"another access comes before it": {change: func(w *world) {
			w.client.Spec.Access = append([]v1alpha1.Access{{Key: "plain", Resource: "https://plain.example.com"}}, w.client.Spec.Access...)
		}, want: true},
		"the client's server is gone": {change: func(w *world) { w.mine = nil }},
		"both servers have another issuer": {change: func(w *world) {
			w.mine.Spec.Issuer, w.theirs.Spec.Issuer = "https://other.example.com", "https://other.example.com"
		}},
		"the client's server is another":  {change: func(w *world) { w.mine.Name = "two"; w.client.Spec.AuthorizationServerRef.Name = "two" }},
		"the API is gone":                 {change: func(w *world) { w.api = nil }},
		"the API grants nothing any more": {change: func(w *world) { w.api.Spec.Grants = nil }},
		"the API has another identifier":  {change: func(w *world) { w.api.Spec.Identifier = "https://payment.example.com/v2" }},
		"another API has the identifier": {change: func(w *world) {
			w.api.Name = "two"
			w.client.Spec.Access[0].APIResourceRef.Name, w.client.Spec.Access[0].Key = "two", "payment-api"
		}},
		"the API has another server":       {change: func(w *world) { w.theirs.Name = "two"; w.api.Spec.AuthorizationServerRef.Name = "two" }},
		"the API's server is gone":         {change: func(w *world) { w.theirs = nil }},
		"the client asks for less":         {change: func(w *world) { w.client.Spec.Access[0].Scopes = w.client.Spec.Access[0].Scopes[:1] }},
		"the client asks in another order": {change: func(w *world) { w.client.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"write", "read"} }, want: true},
		"the client cannot be read":        {change: func(w *world) { w.failing = &v1alpha1.M2MClient{} }, fails: true},
		"the servers cannot be read":       {change: func(w *world) { w.failing = &v1alpha1.AuthorizationServer{} }, fails: true},
		"the APIs cannot be read":          {change: func(w *world) { w.failing = &v1alpha1.APIResource{} }, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c := w.client.DeepCopy()
			found, err := w.resolve().Client(t.Context(), c)
			if err != nil || found.Accesses[0].Denied != nil {
				t.Fatalf("%+v, %v", found.Accesses, err)
			}
			tc.change(w)
			got, err := w.resolve().StillAllowed(t.Context(), c, found.Server, found.Accesses[0])
			if got != tc.want || errors.Is(err, errRead) != tc.fails || (err != nil) != tc.fails {
				t.Errorf("still allowed: %t, %v", got, err)
			}
		})
	}
	t.Run("there was no server", func(t *testing.T) {
		w := newWorld()
		found, err := w.resolve().Client(t.Context(), w.client)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.resolve().StillAllowed(t.Context(), w.client, nil, found.Accesses[0]); got || err != nil {
			t.Errorf("still allowed: %t, %v", got, err)
		}
	})
}
