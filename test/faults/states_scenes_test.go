// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"strings"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// scene is a setting from whose manifests other states are reached.
type scene struct {
	name      string
	scenario  *scenario
	manifests string
	// registers says that the operator registers the client.
	registers bool
	// fields are those that are changed here, by kind and prefix of the path.
	fields []string
	// except is the prefix of those that are not.
	except string
	// prepare brings the authorization server into being, and returns what the manifests name.
	prepare func(r *run) map[string]string
}

// serversYAML declares a server for each tenant, and one that does not answer.
const serversYAML = `
kind: AuthorizationServer
metadata: {name: auth, namespace: $payments}
spec: {issuer: $issuer, jwks: {refreshInterval: 24h}}
---
kind: AuthorizationServer
metadata: {name: auth, namespace: $more}
spec: {issuer: $issuer, jwks: {refreshInterval: 24h}}
---
kind: AuthorizationServer
metadata: {name: elsewhere, namespace: $payments}
spec: {issuer: "http://127.0.0.1:9", jwks: {refreshInterval: 24h}}
---
kind: Pod
metadata: {name: payment, namespace: $payments, annotations: {m2m-operator.io/verify: payment-api}}
spec: {containers: [{name: main, image: none}]}
---
kind: Pod
metadata: {name: payment, namespace: $more, annotations: {m2m-operator.io/verify: $payments/payment-api}}
spec: {containers: [{name: main, image: none}]}
---
kind: APIResource
metadata: {name: private-api, namespace: $more}
spec:
  authorizationServerRef: {name: auth}
  identifier: https://private.example.com/api
  scopes: [{name: "payments:read"}, {name: "payments:write"}]
`

// apis are those of the payment team.
const apisYAML = `
---
kind: APIResource
metadata: {name: payment-api, namespace: $payments}
spec:
  authorizationServerRef: $ref
  identifier: https://payment.example.com/api
  scopes: [{name: "payments:read"}, {name: "payments:write"}]
  grants: [{clients: {namespaces: {names: [$shop]}}, scopes: ["payments:read", "payments:write"]}]
---
kind: APIResource
metadata: {name: orders-api, namespace: $payments}
spec:
  authorizationServerRef: $ref
  identifier: https://orders.example.com/api
  scopes: [{name: "payments:read"}, {name: "payments:write"}]
  grants: [{clients: {namespaces: {names: [$shop]}}, scopes: ["payments:read", "payments:write"]}]
`

// ownYAML is a client with credentials of its own.
const ownYAML = `
---
kind: AuthorizationServer
metadata: {name: auth, namespace: $shop}
spec: {issuer: $issuer, jwks: {refreshInterval: 24h}}
---
kind: Secret
metadata: {name: cart-credentials, namespace: $shop}
stringData: {client-id: cart-app, client-secret: $secret, other-id: cart-key-app}
---
kind: Secret
metadata: {name: cart-key, namespace: $shop}
stringData: {client-id: cart-key-app, private-key: $privateKey}
---
kind: M2MClient
metadata: {name: cart, namespace: $shop}
spec:
  authorizationServerRef: $ref
  access: [{apiResourceRef: {name: payment-api, namespace: $payments}, scopes: ["payments:write"]}]
  credentials: {clientSecret: {secretRef: {name: cart-credentials}}}
`

// clusterYAML is a server for all tenants.
const clusterYAML = `
---
kind: ClusterAuthorizationServer
metadata: {name: auth-$shop}
spec: {issuer: $issuer, jwks: {refreshInterval: 24h}, allowedNamespaces: {names: [$shop, $payments]}}
`

// registeredYAML is a client that the operator registers at the payment team's server.
const registeredYAML = `
---
kind: M2MClient
metadata: {name: cart, namespace: $shop}
spec:
  access: [{apiResourceRef: {name: payment-api, namespace: $payments}, scopes: ["payments:write"]}]
`

// scenes returns all settings.
func scenes() []*scene {
	enforcing := []func(*controller.Options){operator.Enforcing(enforcement.EnvoyGateway)}
	local := strings.ReplaceAll(apisYAML, "$ref", "{name: auth}")
	cluster := "{kind: ClusterAuthorizationServer, name: auth-$shop}"
	dynamic := strings.Replace(serversYAML, "jwks: {refreshInterval: 24h}}",
		"jwks: {refreshInterval: 24h}, provisioning: {resyncInterval: 6m, dynamicRegistration: {authenticationMethod: Basic}}}", 1)
	return []*scene{
		{
			name: "own credentials", scenario: &scenario{more: 1, options: enforcing}, prepare: knowsAll,
			manifests: serversYAML + local + strings.ReplaceAll(ownYAML, "$ref", "{name: auth}"),
			fields:    []string{"M2MClient", "APIResource", "AuthorizationServer"},
			except:    "M2MClient spec.credentialRotation",
		},
		{
			name: "cluster-wide server", scenario: &scenario{more: 1}, prepare: knowsAll,
			manifests: serversYAML + clusterYAML + strings.ReplaceAll(apisYAML+ownYAML, "$ref", cluster),
			fields:    []string{"ClusterAuthorizationServer"},
		},
		{
			name: "registration", registers: true, scenario: &scenario{more: 1, registration: &oidc.DynamicRegistration{}}, prepare: knowsAll,
			manifests: dynamic + local + registeredYAML,
			except:    "AuthorizationServer spec.provisioning.dynamicRegistration.endpoint", // what is registered at another cannot be found any more
			fields: []string{
				"AuthorizationServer spec.provisioning.dynamicRegistration", "M2MClient spec.credentialRotation", "M2MClient spec.access[].scopes",
				"M2MClient spec.deletionPolicy", "M2MClient spec.access[].apiResourceRef",
			},
		},
	}
}

// knowsAll is an authorization server that knows all APIs and clients of the manifests.
func knowsAll(r *run) map[string]string {
	r.t.Helper()
	secret := operator.NewSecret()
	r.knows(secret, operator.PaymentAPI, operator.OrdersAPI, "https://private.example.com/api")
	private, _, public, err := oidc.NewKeyPair("ES256")
	if err == nil {
		err = r.AS.SetClient(oidc.Client{
			ID: "cart-key-app", Method: oidc.PrivateKeyJWT, PublicJWKS: public,
			Scopes: map[string][]string{operator.PaymentAPI: {"payments:read", "payments:write"}},
		})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return map[string]string{"$issuer": r.AS.Issuer(), "$secret": secret, "$privateKey": string(private), "$kid": r.AS.KeyID()}
}

// of returns the fields that are changed in a scene.
func (s *scene) of(all []field) (of []field) {
	for _, f := range all {
		name := f.kind + " " + f.path
		if slices.ContainsFunc(s.fields, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) && (s.except == "" || !strings.HasPrefix(name, s.except)) {
			of = append(of, f)
		}
	}
	return of
}

// target returns the manifest whose field is changed.
func (s *scene) target(f field) string {
	switch f.kind {
	case "M2MClient":
		return "M2MClient $shop/cart"
	case "APIResource":
		return "APIResource $payments/payment-api"
	case "ClusterAuthorizationServer":
		return "ClusterAuthorizationServer /auth-$shop"
	}
	return "AuthorizationServer $payments/auth"
}
