// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// World is the setting of a test: an authorization server with an API and a client,
// and the namespaces of both.
type World struct {
	T        *testing.T
	AS       *oidc.Server
	Shop     string // the client's namespace
	Payments string // the API's namespace
}

const (
	// PaymentAPI is the identifier of the payment API.
	PaymentAPI = "https://payment.example.com/api"
	// CartID is the client ID of the cart.
	CartID = "cart-app"
)

// NewWorld starts an authorization server that knows the payment API and the
// cart application, and creates the namespaces.
func NewWorld(t *testing.T, change ...func(*oidc.Options)) *World {
	t.Helper()
	o := oidc.Options{TokenLifetime: time.Hour}
	for _, f := range change {
		f(&o)
	}
	as, err := oidc.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	w := &World{T: t, AS: as, Shop: NewNamespace(t, "shop", nil), Payments: NewNamespace(t, "payments", nil)}
	as.SetResource(PaymentAPI, "payments:read", "payments:write")
	w.SetClient(CartID, NewSecret())
	return w
}

// NewSecret returns a client secret that contains the sentinel.
func NewSecret() string { return Sentinel + oidc.NewSecret() }

var namespaceCount int

// NewNamespace creates a namespace with a unique name, and empties it when the test
// ends.
func NewNamespace(t *testing.T, base string, labels map[string]string) string {
	t.Helper()
	namespaceCount++
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", base, namespaceCount), Labels: labels}}
	if err := Kube.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		empty(t, ns.Name, &v1alpha1.M2MClient{}, &v1alpha1.APIResource{}, &v1alpha1.AuthorizationServer{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Pod{})
	})
	return ns.Name
}

// empty deletes all objects of some kinds from a namespace.
func empty(t *testing.T, namespace string, kinds ...client.Object) {
	var deleted sync.WaitGroup
	for _, o := range kinds {
		if written.count(resource{namespace, strings.ToLower(reflect.TypeOf(o).Elem().Name()) + "s"}) == 0 {
			continue
		}
		deleted.Go(func() {
			err := Kube.DeleteAllOf(context.Background(), o, client.InNamespace(namespace),
				client.GracePeriodSeconds(0), client.PropagationPolicy(metav1.DeletePropagationBackground))
			if err != nil {
				t.Error(err)
			}
		})
	}
	deleted.Wait()
}

// SetClient registers an application with all scopes of the payment API, or
// changes its secret.
func (w *World) SetClient(id, secret string) {
	w.T.Helper()
	err := w.AS.SetClient(oidc.Client{
		ID: id, Secret: secret, Method: oidc.SecretBasic,
		Scopes: map[string][]string{PaymentAPI: {"payments:read", "payments:write"}},
	})
	if err != nil {
		w.T.Fatal(err)
	}
}

// AlsoKnows declares another API at the authorization server, and grants its scopes to
// the cart application.
func (w *World) AlsoKnows(resources ...string) {
	w.T.Helper()
	scopes := map[string][]string{}
	for _, r := range append(resources, PaymentAPI) {
		w.AS.SetResource(r, "payments:read", "payments:write")
		scopes[r] = []string{"payments:read", "payments:write"}
	}
	var s corev1.Secret
	if err := Kube.Get(w.T.Context(), types.NamespacedName{Namespace: w.Shop, Name: "cart-credentials"}, &s); err != nil {
		w.T.Fatal(err)
	}
	err := w.AS.SetClient(oidc.Client{
		ID: CartID, Secret: string(s.Data[v1alpha1.ClientSecretKey]), Method: oidc.SecretBasic, Scopes: scopes,
	})
	if err != nil {
		w.T.Fatal(err)
	}
}

// Server returns an AuthorizationServer for the world's server.
func (w *World) Server(namespace string) *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: namespace},
		Spec:       v1alpha1.AuthorizationServerSpec{Issuer: w.AS.Issuer()},
	}
}

// API returns the payment API, which grants everything to the shop.
func (w *World) API() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: w.Payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Identifier:             PaymentAPI,
			Scopes:                 []v1alpha1.Scope{{Name: "payments:read"}, {Name: "payments:write"}},
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.Shop)}}},
				Scopes:  []v1alpha1.ScopeName{"payments:read", "payments:write"},
			}},
		},
	}
}

// Secret returns a Secret with the credentials of an application.
func (w *World) Secret(name, id, secret string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.Shop},
		StringData: map[string]string{v1alpha1.ClientIDKey: id, v1alpha1.ClientSecretKey: secret},
	}
}

// Cart returns a client that calls the payment API.
func (w *World) Cart() *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.Shop},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: v1alpha1.NamespaceName(w.Payments)},
				Scopes:         []v1alpha1.ScopeName{"payments:write"},
			}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
			}},
		},
	}
}

// Story creates all of them: server, API, credentials and client.
func (w *World) Story() (*v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.T.Helper()
	secret := NewSecret()
	w.SetClient(CartID, secret)
	api, cart := w.API(), w.Cart()
	Create(w.T, w.Server(w.Payments), w.Server(w.Shop), api, w.Secret("cart-credentials", CartID, secret), cart)
	return api, cart
}

// Fixture creates the story with the test's own credentials.
func (w *World) Fixture(credentials v1alpha1.ClientCredentials, stored map[string]string) *v1alpha1.M2MClient {
	w.T.Helper()
	cart := w.Cart()
	cart.Spec.Credentials = credentials
	secret := w.Secret("cart-credentials", "", "")
	secret.StringData = stored
	Create(w.T, w.Server(w.Payments), w.Server(w.Shop), w.API(), secret, cart)
	return cart
}

// Another creates one more client of the payment API, with its own application.
func (w *World) Another(name string) *v1alpha1.M2MClient {
	w.T.Helper()
	secret := NewSecret()
	w.SetClient(name, secret)
	c := w.Cart()
	c.Name = name
	c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(name)
	Create(w.T, w.Secret(name, name, secret), c)
	return c
}

// TheRequest returns the only token request that was sent. It must have been granted.
func (w *World) TheRequest() oidc.Request {
	w.T.Helper()
	all := w.AS.TokenRequests()
	if len(all) != 1 {
		w.T.Fatalf("%d token requests were sent, want 1", len(all))
	}
	if all[0].Status != http.StatusOK {
		w.T.Fatalf("the token request was answered with %d %s", all[0].Status, all[0].Error)
	}
	return all[0]
}

// SawRequests checks how many token requests reached the authorization server since
// the last check.
func (w *World) SawRequests(t *testing.T, want int) {
	t.Helper()
	if got := w.AS.TokenRequests(); len(got) != want {
		t.Errorf("%d token requests, want %d: %+v", len(got), want, got)
	}
	w.AS.ResetRequests()
}

// RequestsOf returns how many token requests of an application the world's server got.
func (w *World) RequestsOf(id string) (n int) {
	for _, r := range w.AS.TokenRequests() {
		if r.ClientID == id {
			n++
		}
	}
	return n
}

// BundleIn returns the verification bundle of a world's API in a namespace, nil if
// there is none.
func (w *World) BundleIn(namespace string) *corev1.ConfigMap {
	w.T.Helper()
	var m corev1.ConfigMap
	err := Kube.Get(w.T.Context(), types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(w.Payments, "payment-api")}, &m)
	if client.IgnoreNotFound(err) != nil {
		w.T.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return &m
}
