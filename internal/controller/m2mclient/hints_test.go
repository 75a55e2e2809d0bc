// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"testing"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
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
			got := refusalHint(p, &access{present: present{inputs: tc.inputs}}, &oauth.Error{Status: tc.status, Code: tc.code})
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
