// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"testing"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

func TestRefusalHint(t *testing.T) {
	ref := v1alpha1.SecretKeyReference{Name: "cart-credentials"}
	basic := v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{SecretRef: ref, Method: v1alpha1.ClientSecretBasic}}
	post := v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{SecretRef: ref, Method: v1alpha1.ClientSecretPost}}
	key := func(a v1alpha1.AssertionAudience) v1alpha1.ClientCredentials {
		return v1alpha1.ClientCredentials{PrivateKeyJWT: v1alpha1.PrivateKeyJWTCredentials{SecretRef: ref, Audience: a}}
	}
	account := v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart"}}
	const (
		unknown  = `check Secret "cart-credentials"; if it is correct, the server may require `
		silent   = `the server gives no reason, but its log may; `
		beside   = `, and that the server knows the API and grants the scopes`
		endpoint = "check the token endpoint in the server's status"
	)
	for name, tc := range map[string]struct {
		credentials v1alpha1.ClientCredentials // none: the operator registers the client
		inputs      refresh.Inputs
		status      int
		code        string
		detail      string
		bundle      v1alpha1.ObjectName // the server's spec.caBundle names it
		want        string
	}{
		"the client is not known, by Basic": {credentials: basic, status: 401, code: "invalid_client",
			want: unknown + "spec.credentials.clientSecret.method Post, for instance because it does not decode special characters in Basic"},
		"the client is not known, by Post": {credentials: post, status: 401, code: "invalid_client",
			want: unknown + "spec.credentials.clientSecret.method Basic"},
		"the client is not known, by a key": {credentials: key(v1alpha1.AssertionAudienceIssuer), status: 401, code: "invalid_client",
			want: unknown + "spec.credentials.privateKeyJWT.audience TokenEndpoint"},
		"the client is not known, by a key for the token endpoint": {credentials: key(v1alpha1.AssertionAudienceTokenEndpoint), status: 400, code: "invalid_client",
			want: unknown + "spec.credentials.privateKeyJWT.audience Issuer"},
		"the client is not known, by a ServiceAccount": {credentials: account, status: 401, code: "invalid_client",
			want: `register ServiceAccount "cart" of this cluster there`},
		"403 and nothing else": {credentials: key(v1alpha1.AssertionAudienceIssuer), status: 403,
			want: silent + `check Secret "cart-credentials"` + beside + "; if it is correct, the server may require spec.credentials.privateKeyJWT.audience TokenEndpoint"},
		"401 and nothing else": {credentials: account, status: 401,
			want: silent + `register ServiceAccount "cart" of this cluster there` + beside},
		"an audience that is not allowed": {credentials: basic, inputs: refresh.Inputs{Audience: "https://payment.example.com/api"}, status: 400, code: "invalid_request",
			want: `allow the audience "https://payment.example.com/api" for the client there, and check the server's spec.audienceParameter`},
		"a secret that has expired, at Logto": {credentials: basic, inputs: refresh.Inputs{Resource: "https://payment.example.com/api"}, status: 400, code: "invalid_request",
			want: "check whether the credentials have expired there and whether the server requires more parameters (spec.access[].parameters), and check the server's spec.audienceParameter"},
		"a scope that is not granted": {credentials: basic, inputs: refresh.Inputs{ClientID: "cart-app", Scopes: []string{"payments:read", "payments:write"}}, status: 400, code: "invalid_scope",
			want: `register there the scopes payments:read, payments:write of the API "https://payment.example.com/api", and grant them to the client "cart-app"`},
		"no scope, where one is needed": {credentials: basic, inputs: refresh.Inputs{ClientID: "cart-app"}, status: 400, code: "invalid_scope",
			want: `the request names no scope; name in spec.access[].scopes those that the server requires for the API "https://payment.example.com/api"`},
		"an API that is not known": {credentials: basic, inputs: refresh.Inputs{Resource: "https://payment.example.com/api"}, status: 400, code: "invalid_target",
			want: `register the API there as "https://payment.example.com/api"`},
		"an API that is not known by its audience": {credentials: basic, inputs: refresh.Inputs{Audience: "https://payment.example.com/api"}, status: 400, code: "invalid_target",
			want: `register the API there as "https://payment.example.com/api"`},
		"an API that the request does not name": {credentials: basic, status: 400, code: "invalid_target",
			want: "the request names no API (the server's spec.audienceParameter is None); set Resource or Audience there if the server wants to be told, or look up at the server which API it chooses for this client"},
		"a certificate of an unknown authority": {credentials: basic, detail: string(egress.CertificateAuthority),
			want: "name a bundle with that authority's certificate in the server's spec.caBundle"},
		"a certificate of an authority that the bundle lacks": {credentials: basic, detail: string(egress.CertificateAuthority), bundle: "company-ca",
			want: "the bundle of the server's spec.caBundle lacks that authority's certificate"},
		"another address":                                     {credentials: basic, status: 404, want: endpoint},
		"another address of a Logto":                          {credentials: basic, status: 404, code: "invalid_request", want: endpoint},
		"another address, of a client that is registered":     {status: 404, want: endpoint},
		"an address that is not for POST":                     {credentials: basic, status: 405, want: endpoint},
		"a redirect":                                          {credentials: basic, status: 307, want: endpoint},
		"a server that says that it does not know the client": {credentials: account, status: 404, code: "invalid_client", want: `register ServiceAccount "cart" of this cluster there`},
		"a registered client that is not known":               {status: 401, code: "invalid_client"},
		"a server that is down":                               {credentials: basic, status: 503},
		"a code that only this server has":                    {credentials: basic, status: 403, code: "acme:quota"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pass{Client: &v1alpha1.M2MClient{Spec: v1alpha1.M2MClientSpec{Credentials: tc.credentials}}}
			p.server = &rules.Server{Spec: &v1alpha1.AuthorizationServerSpec{}}
			p.server.Spec.CABundle.ConfigMapRef.Name = tc.bundle
			a := &access{subject: subject{resource: "https://payment.example.com/api"}, present: present{inputs: tc.inputs}}
			got := refusalHint(p, a, &oauth.Error{Status: tc.status, Code: tc.code, Detail: tc.detail})
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
