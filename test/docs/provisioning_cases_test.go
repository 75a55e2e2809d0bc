// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"strings"
	"testing"

	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// provisionedStory are the manifests of the README in which the operator
// creates what they declare.
var provisionedStory = map[string]string{
	"auth": `
apiVersion: m2m-operator.io/v1alpha1
kind: AuthorizationServer
metadata: {name: auth, namespace: $PAYMENTS}
spec: {issuer: "$ISSUER", provisioning: {$PROVISIONING}}
`,
	"management": `
apiVersion: v1
kind: Secret
metadata: {name: management, namespace: $PAYMENTS}
stringData: {client-id: "$MANAGER", client-secret: "$SECRET"}
`,
	"payment-api": story["payment-api"],
	"cart": `
apiVersion: m2m-operator.io/v1alpha1
kind: M2MClient
metadata: {name: cart, namespace: $SHOP}
spec:
  access:
  - apiResourceRef: {name: payment-api, namespace: $PAYMENTS}
    scopes: ["payments:write"]
`,
}

// startLogto makes the world's authorization server a Logto.
func (w *world) startLogto(t *testing.T, change func(*testing.T, *world, *logtotest.Server)) {
	t.Helper()
	l, err := logtotest.Start(logtotest.WithHTTP())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	w.base = l.Endpoint()
	w.names["$ISSUER"], w.names["$LOGTO"] = l.Issuer(), l.Endpoint()
	w.names["$MANAGER"], w.names["$SECRET"] = l.ManagementClientID(), l.ManagementClientSecret()
	w.names["$PROVISIONING"] = `logto: {endpoint: "$LOGTO", credentialsSecretRef: {name: management}}`
	w.names["$PROVISIONING"] = strings.ReplaceAll(w.names["$PROVISIONING"], "$LOGTO", l.Endpoint())
	change(t, w, l)
}

// asItIs is a Logto that nobody has changed.
func asItIs(*testing.T, *world, *logtotest.Server) {}

// withAPI returns a Logto where somebody created the payment API.
func withAPI(scopes ...string) func(*testing.T, *world, *logtotest.Server) {
	return func(t *testing.T, w *world, l *logtotest.Server) {
		if _, err := l.CreateResource("Payments", w.fill(paymentAPI), 0, scopes...); err != nil {
			t.Fatal(err)
		}
	}
}

// observed sets the API to be observed only, as the server's owner allows.
var observed = map[string]string{
	"payment-api": `spec: {managementPolicy: Observe}`,
	"auth":        `spec: {provisioning: {adoption: {apiResources: [{identifier: "https://payment.example.com/api", namespace: $PAYMENTS}]}}}`,
}

// anApplication is the page's placeholder for an application's identifier.
const anApplication = "kx21vbd4ykd7m0wm39t6l"

// adopting makes the cart take over an application.
const adopting = `spec: {provisioning: {adoption: {clients: [{clientID: "$APP", namespace: $SHOP, name: cart}]}}}`

// closed is a server that requires an initial access token to register.
var closed = oidc.Options{DynamicRegistration: &oidc.DynamicRegistration{InitialAccessToken: "correct-horse"}}

const withToken = `spec: {provisioning: {dynamicRegistration: {initialAccessTokenSecretRef: {name: management, key: client-secret}}}}`

// provisioningSituations are the cases of the table of docs/errors.md about
// provisioning, by the names of their rows.
var provisioningSituations = map[string]situation{
	"management-missing": {logto: asItIs, without: []string{"management"}},
	"management-key":     {logto: asItIs, set: map[string]string{"management": `stringData: {client-id: null}`}},
	"management-wrong":   {logto: asItIs, set: map[string]string{"management": `stringData: {client-secret: battery-staple}`}},
	"management-role": {logto: func(t *testing.T, w *world, l *logtotest.Server) {
		w.names["$MANAGER"] = l.CreateApplication("m2m-operator", "")
		w.names["$SECRET"] = l.SecretValue(w.names["$MANAGER"], "Default secret")
	}},
	"management-other": {logto: asItIs, set: map[string]string{
		"auth": `spec: {provisioning: {logto: {managementAPI: "https://other.logto.app/api"}}}`,
	}},
	"logto-endpoint": {logto: func(_ *testing.T, w *world, l *logtotest.Server) {
		w.names["$PROVISIONING"] = strings.ReplaceAll(w.names["$PROVISIONING"], l.Endpoint(), l.Issuer())
	}},
	"logto-down": {logto: func(_ *testing.T, _ *world, l *logtotest.Server) { l.SetDown(true) }},

	"api-exists":           {logto: withAPI("payments:write")},
	"api-exists-client":    {logto: withAPI("payments:write")},
	"api-observed-missing": {logto: asItIs, set: observed},
	"api-observed-differs": {logto: withAPI("payments:write"), set: observed},
	"api-is-management": {logto: asItIs, set: map[string]string{
		"auth": `spec: {provisioning: {logto: {managementAPI: "https://payment.example.com/api"}}}`,
	}},

	"client-not-provisioned": {provisioned: true, set: map[string]string{"auth": `spec: {provisioning: null}`}},
	"client-adopted-missing": {logto: func(_ *testing.T, w *world, _ *logtotest.Server) { w.names["$APP"] = anApplication },
		set: map[string]string{"auth": adopting}},
	"client-adopted-other": {logto: func(_ *testing.T, w *world, l *logtotest.Server) {
		w.names["$APP"] = l.CreateApplication("checkout", "m2m-operator:aaaabbbbccccdddd/1 M2MClient shop/checkout")
	}, set: map[string]string{"auth": adopting}},
	"client-observed-scope": {logto: withAPI("payments:read"), set: observed},
	"client-partly-granted": {logto: asItIs, set: map[string]string{
		"cart": `spec: {access: [{apiResourceRef: {name: payment-api, namespace: $PAYMENTS}, scopes: ["payments:read", "payments:write"]}]}`,
	}},
	"client-other-server": {logto: asItIs, set: map[string]string{"cart": `spec: {authorizationServerRef: {name: auth}}`}},
	"client-two-servers": {
		logto: asItIs,
		set: map[string]string{
			"cart": `spec: {access: [{apiResourceRef: {name: payment-api, namespace: $PAYMENTS}, scopes: ["payments:write"]}, {apiResourceRef: {name: stock-api}}]}`,
		},
		also: `
apiVersion: m2m-operator.io/v1alpha1
kind: AuthorizationServer
metadata: {name: auth, namespace: $SHOP}
spec: {issuer: "$ISSUER"}
---
apiVersion: m2m-operator.io/v1alpha1
kind: APIResource
metadata: {name: stock-api, namespace: $SHOP}
spec: {authorizationServerRef: {name: auth}, identifier: "https://stock.example.com/api"}
`,
	},

	"registration-unknown": {provisioned: true},
	"registration-closed":  {provisioned: true, server: closed},
	"registration-refused": {provisioned: true, server: closed, set: map[string]string{
		"auth": withToken, "management": `stringData: {client-secret: battery-staple}`,
	}},
	"registration-adopts": {
		provisioned: true, server: oidc.Options{DynamicRegistration: &oidc.DynamicRegistration{}},
		prepare: func(_ *testing.T, w *world) { w.names["$APP"] = anApplication },
		set:     map[string]string{"auth": adopting},
	},
}
