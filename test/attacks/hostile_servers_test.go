// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// slowness is how long a hostile server takes: less than the operator's
// timeout.
const slowness = 9 * time.Second

// newKeys returns a key set with as many new keys as a server may have, each with an
// ID of the greatest length. No check can tell that nothing signs with them.
func newKeys() []byte {
	type key struct {
		Kty string `json:"kty"`
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
		N   string `json:"n"`
		E   string `json:"e"`
	}
	keys := make([]key, 32)
	for i := range keys {
		n := make([]byte, 512)
		_, _ = rand.Read(n)
		n[0], n[len(n)-1] = n[0]|0x80, n[len(n)-1]|1
		length := 512
		if i%2 == 0 {
			length = 128
		}
		id := rand.Text()
		keys[i] = key{
			Kty: "RSA", Kid: id + strings.Repeat("k", length-len(id)), Alg: "RS256", Use: "sig",
			N: base64.RawURLEncoding.EncodeToString(n), E: "AQAB",
		}
	}
	b, _ := json.Marshal(map[string]any{"keys": keys}) // strings only
	return b
}

// largeKeys declares a server that has only new keys on each fetch, and several APIs
// whose bundles hold them, in many namespaces.
func largeKeys(ctx context.Context, a *attacker) {
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/jwks") {
			a.did(nil)
			_, _ = w.Write(newKeys())
			return
		}
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q,"jwks_uri":%q}`, server.URL, server.URL+"/token", server.URL+"/jwks")
	}))
	a.closeLater(server)
	own := ownServer(a.namespace, "keys", server.URL)
	own.Spec.JWKS.RefreshInterval = v1alpha1.Duration(keysEvery.String())
	a.create(ctx, own)
	for i := range 2 {
		api := &v1alpha1.APIResource{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: fmt.Sprintf("keys-%d", i)},
			Spec: v1alpha1.APIResourceSpec{
				AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "keys"},
				Identifier:             v1alpha1.ResourceIdentifier(fmt.Sprintf("keys:%d", i)),
			},
		}
		a.create(ctx, api)
	}
	for i := range a.sizes.verifiers {
		name := fmt.Sprintf("%s-%d", a.namespace, i)
		for _, o := range []client.Object{namespace(name), binding(name)} {
			a.did(cluster.Client.Create(ctx, o)) // a tenant has several
		}
		a.create(ctx, verifier(name, "verifier", a.namespace+"/keys-0,"+a.namespace+"/keys-1"))
	}
	<-ctx.Done()
}

// closeLater closes a server after the test, even if clients still wait for its answer.
func (a *attacker) closeLater(server *httptest.Server) {
	a.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
}

// slowTokens makes clients request tokens for 16 APIs each from a slow server of their
// own. The tokens live no longer than a second.
func slowTokens(ctx context.Context, a *attacker) {
	server, err := oidc.Start(oidc.Options{TokenLifetime: time.Second})
	if err != nil {
		a.did(err)
		return
	}
	a.t.Cleanup(server.Close)
	scopes := map[string][]string{}
	var access []v1alpha1.Access
	for i := range 16 {
		resource := fmt.Sprintf("https://slow.example.com/%d", i)
		server.SetResource(resource, "use")
		scopes[resource] = []string{"use"}
		access = append(access, v1alpha1.Access{Resource: v1alpha1.ResourceIdentifier(resource), Key: v1alpha1.AccessKey(fmt.Sprintf("slow-%d", i))})
	}
	server.SetFault(oidc.Token, &oidc.Fault{Delay: slowness})
	a.create(ctx, ownServer(a.namespace, "slow", server.Issuer()))
	for i := range a.sizes.slowClients {
		name := fmt.Sprintf("slow-%d", i)
		secret := oidc.NewSecret()
		a.did(server.SetClient(oidc.Client{ID: name, Secret: secret, Scopes: scopes}))
		c := m2mClient(a.namespace, name, v1alpha1.KindAuthorizationServer, "slow")
		c.Spec.Access = access
		a.create(ctx, credential(a.namespace, name, name, secret), c)
	}
	<-ctx.Done()
	if server.Count(oidc.Token) == 0 {
		a.t.Error("the slow server got no token request")
	}
}

// slowDiscovery declares servers with slow metadata.
func slowDiscovery(ctx context.Context, a *attacker) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.did(nil)
		if wait(r.Context(), slowness) {
			http.Error(w, "not now", http.StatusServiceUnavailable)
		}
	}))
	a.closeLater(server)
	for i := range a.sizes.slowServers {
		a.create(ctx, ownServer(a.namespace, fmt.Sprintf("slow-%d", i), fmt.Sprintf("%s/%d", server.URL, i)))
	}
	<-ctx.Done()
}

// failedClients are clients of the shared issuer for which it answers with
// Retry-After, with failures or with odd answers, or which it does not know.
func failedClients(ctx context.Context, a *attacker) {
	faults := map[string]*oidc.Fault{
		"failed":  {Status: http.StatusInternalServerError},
		"limited": {Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}},
		"odd":     {Malformed: true},
		"unknown": nil,
	}
	for kind, fault := range faults {
		for i := range 5 {
			name := fmt.Sprintf("%s-%d", kind, i)
			id, secret := a.namespace+"-"+name, oidc.NewSecret()
			if fault != nil {
				a.did(a.healthy.issuer.SetClient(oidc.Client{ID: id, Secret: secret, Scopes: map[string][]string{identifier: {scope}}}))
				f := *fault
				f.ClientID = id
				a.healthy.issuer.AddFault(oidc.Token, &f)
			}
			c := m2mClient(a.namespace, name, v1alpha1.KindClusterAuthorizationServer, company)
			c.Spec.Access = []v1alpha1.Access{paymentAccess()}
			a.create(ctx, credential(a.namespace, name, id, secret), c)
		}
	}
	<-ctx.Done()
}

// ownBudget declares a server object for the shared server with the largest
// possible budget, and changes the Secret that many clients name.
func ownBudget(ctx context.Context, a *attacker) {
	own := ownServer(a.namespace, "own", a.healthy.issuer.Issuer())
	own.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 10_000, Burst: 10_000}
	s := credential(a.namespace, "shared", a.namespace+"-own", "wrong")
	a.create(ctx, own, s)
	for i := range a.sizes.oneSecret {
		c := m2mClient(a.namespace, fmt.Sprintf("own-%d", i), v1alpha1.KindAuthorizationServer, "own")
		c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(s.Name)
		c.Spec.Access = []v1alpha1.Access{{Resource: identifier, Key: "token", Scopes: []v1alpha1.ScopeName{scope}}}
		a.create(ctx, c)
	}
	often(ctx, time.Second, func(round int) {
		changed := &corev1.Secret{ObjectMeta: s.ObjectMeta}
		patch := fmt.Appendf(nil, `{"stringData":{%q:"wrong-%d"}}`, v1alpha1.ClientSecretKey, round)
		a.did(a.client.Patch(ctx, changed, client.RawPatch("application/merge-patch+json", patch)))
	})
}
