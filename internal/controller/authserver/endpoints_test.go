// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestUsableEndpoints(t *testing.T) {
	token := func(url v1alpha1.EndpointURL) v1alpha1.AuthorizationServerEndpoints {
		return v1alpha1.AuthorizationServerEndpoints{Token: url}
	}
	for name, tc := range map[string]struct{ spec, found, told, want v1alpha1.EndpointURL }{
		"the spec comes first":                                {spec: "https://a.example.com/", found: "https://b.example.com/", told: "https://c.example.com/", want: "https://a.example.com/"},
		"a discovered endpoint comes before the status":       {found: "https://b.example.com/", told: "https://auth.example.com/token", want: "https://b.example.com/"},
		"the status names one at the issuer's address":        {told: "https://auth.example.com/token", want: "https://auth.example.com/token"},
		"the status names another host":                       {told: "https://evil.example.com/token"},
		"the status names another port":                       {told: "https://auth.example.com:8443/token"},
		"the status names an http URL":                        {told: "http://auth.example.com/token"},
		"the status names a host that begins like the issuer": {told: "https://auth.example.com.evil.example.com/token"},
		"the status names a user that looks like a host":      {told: "https://auth.example.com@evil.example.com/token"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &v1alpha1.AuthorizationServerSpec{Issuer: "https://auth.example.com/oidc", Endpoints: token(tc.spec)}
			if got := record.UsableEndpoints(spec, token(tc.found), token(tc.told)).Token; got != tc.want {
				t.Errorf("uses %q, want %q", got, tc.want)
			}
		})
	}
}

// thief is a token endpoint that must receive no request.
func thief(t *testing.T) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(s.Close)
	return s.URL + "/token", asked
}

// turn edits the token endpoint in a server's status.
func turn(t *testing.T, server client.Object, url string) {
	t.Helper()
	if err := operator.Kube.Status().Patch(t.Context(), server, client.RawPatch(types.MergePatchType, []byte(`{"status":{"endpoints":{"token":"`+url+`"}}}`))); err != nil {
		t.Fatal(err)
	}
}

// lose deletes the Secret with a client's tokens, and waits until an operator sees it.
func lose(t *testing.T, c *v1alpha1.M2MClient, reader client.Reader) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.SecretName()}}
	operator.Remove(t, secret)
	operator.Eventually(t, func() error {
		if err := reader.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Secret is still seen: %w", err)
		}
		return nil
	})
}

// seesEndpoint waits until an operator sees a token endpoint in a server's status.
func seesEndpoint(op *operator.Operator, server client.Object, url string) {
	op.T.Helper()
	operator.Eventually(op.T, func() error {
		if err := op.Client.Get(op.T.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			return err
		}
		if got := record.StatusOf(server).Endpoints.Token; string(got) != url {
			return fmt.Errorf("the status names %q", got)
		}
		return nil
	})
}

// TestAnEditedEndpointIsNotUsed: the process keeps using the endpoint that it
// discovered while somebody else's endpoint is in the status.
func TestAnEditedEndpointIsNotUsed(t *testing.T) {
	op, w := operator.StartStepped(t), operator.NewWorld(t)
	_, cart := w.Story()
	op.Settle(w.Shop, w.Payments)
	operator.IsReady(t, cart)
	evil, asked := thief(t)
	server := w.Server(w.Shop)
	turn(t, server, evil)
	seesEndpoint(op, server, evil)
	lose(t, cart, op.Client)
	if _, err := op.M2MClients.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cart)}); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n > 0 || operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
		t.Errorf("the other endpoint got %d requests, and the token is %q", n, operator.TokenIn(t, w.Shop, "cart-token", "payment-api"))
	}
}

// TestAnEditedEndpointIsPutRight: the operator corrects the status before the next
// discovery.
func TestAnEditedEndpointIsPutRight(t *testing.T) {
	w := operator.NewWorld(t)
	op := operator.Start(t)
	w.Story()
	server := w.Server(w.Shop)
	operator.IsReady(t, server)
	evil, _ := thief(t)
	turn(t, server, evil)
	seesEndpoint(op, server, w.AS.TokenURL())
}

// TestAnEditedEndpointIsNotUsedAfterARestart: while the operator cannot read the
// server's metadata, it uses an endpoint that only the status names if it is at the
// issuer's address, and no other.
func TestAnEditedEndpointIsNotUsedAfterARestart(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	first := operator.StartStepped(t)
	first.Settle(w.Shop, w.Payments)
	operator.IsReady(t, cart)
	first.Stop()

	w.AS.SetFault(oidc.Discovery, operator.Answer(http.StatusInternalServerError, ""))
	second := operator.StartStepped(t)
	lose(t, cart, second.Client)
	second.Settle(w.Shop, w.Payments)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
		t.Error("the issuer's own endpoint is not used")
	}
	second.Stop()

	evil, asked := thief(t)
	server := w.Server(w.Shop)
	turn(t, server, evil)
	third := operator.StartStepped(t)
	seesEndpoint(third, server, evil)
	lose(t, cart, third.Client)
	third.Settle(w.Shop, w.Payments)
	if n := asked.Load(); n > 0 {
		t.Errorf("the other endpoint got %d requests", n)
	}
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)

	w.AS.ClearFaults()
	third.Advance(authserver.DiscoveryInterval)
	third.Settle(w.Shop, w.Payments)
	operator.IsReady(t, cart)
	seesEndpoint(third, server, w.AS.TokenURL())
}

// TestAnEndpointElsewhereWakesItsClients: a server whose token endpoint is at another
// host than its issuer keeps serving after a restart, and in a shard, although no
// object changes when the endpoint is discovered.
func TestAnEndpointElsewhereWakesItsClients(t *testing.T) {
	w := operator.NewWorld(t)
	issuer, err := url.Parse(w.AS.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = issuer.Scheme, issuer.Host, issuer.Host
	}})
	t.Cleanup(proxy.Close)
	elsewhere := with("token_endpoint", proxy.URL+issuer.Path)
	w.AS.SetFault(oidc.Discovery, elsewhere)
	_, cart := w.Story()
	first := operator.Start(t)
	operator.IsReady(t, cart)
	first.Stop()
	operator.Remove(t, w.Secret("cart-token", "", ""))
	// The client is reconciled before its server has answered.
	looked := make(chan struct{})
	w.AS.SetFault(oidc.Discovery, &oidc.Fault{Rewrite: func(m map[string]any) {
		<-looked
		elsewhere.Rewrite(m)
	}})
	main := operator.Start(t, operator.OfShard(""))
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)
	close(looked)
	hasToken := func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
			return fmt.Errorf("there is no token")
		}
		return nil
	}
	operator.Eventually(t, hasToken)

	operator.Start(t, operator.OfShard("a"))
	operator.Label(t, cart, "a")
	main.ServedBy("", cart, false)
	operator.Remove(t, w.Secret("cart-token", "", ""))
	operator.Eventually(t, hasToken)
}
