// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"strings"
)

// admissions are the cases of the tables of docs/errors.md about what the API
// server answers, by the names of their rows.
var admissions = map[string]admission{
	"unknown-field":    {kind: "M2MClient", set: `spec: {acces: []}`},
	"required-missing": {kind: "APIResource", set: `spec: {identifier: null}`},
	"value-of-enum":    {kind: "AuthorizationServer", set: `spec: {audienceParameter: resource}`},
	"number-too-small": {kind: "AuthorizationServer", set: `spec: {requests: {perSecond: 0}}`},
	"number-too-large": {kind: "M2MClient", set: `spec: {refresh: {atPercent: 95}}`},
	"too-long":         {kind: "APIResource", set: `spec: {scopes: [{name: a, description: "` + strings.Repeat("x", 257) + `"}]}`},
	"empty-string":     {kind: "AuthorizationServer", set: `spec: {issuer: ""}`},
	"too-many":         {kind: "M2MClient", set: `spec: {access: [` + strings.Repeat(`{apiResourceRef: {name: a}},`, 17) + `]}`},
	"empty-list":       {kind: "M2MClient", set: `spec: {access: []}`},
	"empty-object":     {kind: "AuthorizationServer", set: `spec: {endpoints: {}}`},
	"named-twice":      {kind: "APIResource", set: `spec: {scopes: [{name: a}, {name: a}]}`},
	"listed-twice":     {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, scopes: [b, b]}]}`},
	"name-malformed":   {kind: "M2MClient", set: `spec: {authorizationServerRef: {name: Auth}}`},
	"namespace-malformed": {kind: "M2MClient",
		set: `spec: {access: [{apiResourceRef: {name: a, namespace: "payments/eu"}}]}`},
	"key-malformed":      {kind: "M2MClient", set: `spec: {credentials: {clientSecret: {secretRef: {name: a, key: "../other"}}}}`},
	"key-parent":         {kind: "M2MClient", set: `spec: {credentials: {clientSecret: {secretRef: {name: a, key: ..data}}}}`},
	"duration-malformed": {kind: "AuthorizationServer", set: `spec: {defaultTokenLifetime: 5 minutes}`},
	"scope-malformed":    {kind: "APIResource", set: `spec: {scopes: [{name: "payments read"}]}`},
	"audience-cluster": {kind: "M2MClient",
		set: `spec: {credentials: {clientSecret: null, serviceAccount: {name: cart, audience: "https://kubernetes.default.svc"}}}`},
	"client-id-malformed": {kind: "M2MClient",
		set: `spec: {credentials: {clientSecret: {clientID: "cärt", secretRef: {name: a}}}}`},

	"issuer-no-url":     {kind: "AuthorizationServer", set: `spec: {issuer: auth.example.com}`},
	"issuer-query":      {kind: "AuthorizationServer", set: `spec: {issuer: "https://auth.example.com/?tenant=1"}`},
	"issuer-user":       {kind: "AuthorizationServer", set: `spec: {issuer: "https://admin:pw@auth.example.com"}`},
	"issuer-changed":    {kind: "AuthorizationServer", then: `spec: {issuer: https://other.example.com}`},
	"opaque-keys":       {kind: "AuthorizationServer", set: `spec: {tokenFormat: Opaque, jwks: {retention: 1h}}`},
	"endpoint-no-url":   {kind: "AuthorizationServer", set: `spec: {endpoints: {token: /token}}`},
	"ca-bundle-both":    {kind: "AuthorizationServer", set: `spec: {caBundle: {configMapRef: {name: a}, secretRef: {name: a}}}`},
	"ca-bundle-none":    {kind: "AuthorizationServer", set: `spec: {caBundle: {}}`},
	"lifetime-range":    {kind: "AuthorizationServer", set: `spec: {defaultTokenLifetime: 5s}`},
	"keys-refresh":      {kind: "AuthorizationServer", set: `spec: {jwks: {refreshInterval: 1s}}`},
	"keys-retention":    {kind: "AuthorizationServer", set: `spec: {jwks: {retention: 721h}}`},
	"provisioning-both": {kind: "AuthorizationServer", set: `spec: {provisioning: {` + logtoDriver + `, dynamicRegistration: {}}}`},
	"provisioning-none": {kind: "AuthorizationServer", set: `spec: {provisioning: {resyncInterval: 5m}}`},
	"resync-range":      {kind: "AuthorizationServer", set: `spec: {provisioning: {` + logtoDriver + `, resyncInterval: 1s}}`},
	"adopted-by-two": {kind: "AuthorizationServer", set: `spec: {provisioning: {` + logtoDriver + `, adoption: {clients: [
		{clientID: a, namespace: shop, name: cart}, {clientID: a, namespace: shop, name: checkout}]}}}`},
	"adopts-two": {kind: "AuthorizationServer", set: `spec: {provisioning: {` + logtoDriver + `, adoption: {clients: [
		{clientID: a, namespace: shop, name: cart}, {clientID: b, namespace: shop, name: cart}]}}}`},
	"adopted-management": {kind: "AuthorizationServer", set: `spec: {provisioning: {` + logtoDriver + `, adoption: {apiResources: [
		{identifier: "https://default.logto.app/api", namespace: shop}]}}}`},
	"cluster-no-one":    {kind: "ClusterAuthorizationServer", set: `spec: {allowedNamespaces: {names: null}}`},
	"cluster-no-choice": {kind: "ClusterAuthorizationServer", set: `spec: {allowedNamespaces: null}`},
	"claim-no-prefix":   {kind: "ClusterAuthorizationServer", set: `spec: {identifierClaims: [{namespaces: {names: [a]}}]}`},

	"api-name-long":         {kind: "APIResource", set: `metadata: {name: ` + strings.Repeat("a", 64) + `}`},
	"identifier-fragment":   {kind: "APIResource", set: `spec: {identifier: "https://payment.example.com/api#v1"}`},
	"identifier-space":      {kind: "APIResource", set: `spec: {identifier: "payment api"}`},
	"identifier-management": {kind: "APIResource", set: `spec: {identifier: https://default.logto.app/api}`},
	"identifier-changed":    {kind: "APIResource", then: `spec: {identifier: https://other.example.com}`},
	"grants-many": {kind: "APIResource", set: `spec: {grants: [` +
		listed(9, func(int) string {
			return "{clients: {namespaces: {names: [" + listed(57, func(j int) string { return fmt.Sprintf("n-%d", j) }) + "]}}}"
		}) + `]}`},
	"grant-unknown-scope": {kind: "APIResource",
		set: `spec: {grants: [{clients: {namespaces: {names: [shop]}}, scopes: ["payments:refund"]}]}`},
	"grant-no-namespace": {kind: "APIResource", set: `spec: {grants: [{clients: {namespaces: {}}}]}`},
	"api-token-lifetime": {kind: "APIResource", set: `spec: {accessTokenLifetime: 30s}`},
	"api-deletion":       {kind: "APIResource", set: `spec: {deletionPolicy: Orphan}`},
	"clock-skew":         {kind: "APIResource", set: `spec: {verification: {clockSkew: 10m}}`},
	"algorithm":          {kind: "APIResource", set: `spec: {verification: {algorithms: [HS256]}}`},
	"token-type":         {kind: "APIResource", set: `spec: {verification: {tokenType: "at jwt"}}`},
	"scope-claim-name":   {kind: "APIResource", set: `spec: {scopes: [{name: a, carriedIn: OtherClaim, claim: "my roles"}]}`},
	"audience-both":      {kind: "APIResource", set: `spec: {verification: {audience: {claim: client_id, values: [a], scopePrefix: "a/"}}}`},
	"audience-no-value":  {kind: "APIResource", set: `spec: {verification: {audience: {claim: client_id}}}`},
	"audience-claim":     {kind: "APIResource", set: `spec: {verification: {audience: {claim: token_use, values: [access]}}}`},
	"audience-value":     {kind: "APIResource", set: `spec: {verification: {audience: {claim: client_id, values: ["cärt"]}}}`},
	"audience-prefix":    {kind: "APIResource", set: `spec: {verification: {audience: {scopePrefix: payments}}}`},
	"scope-no-claim":     {kind: "APIResource", set: `spec: {scopes: [{name: a, carriedIn: OtherClaim}]}`},
	"scope-claim-alone":  {kind: "APIResource", set: `spec: {scopes: [{name: a, claim: roles}]}`},
	"file-reserved":      {kind: "APIResource", set: `spec: {verification: {files: [{name: jwks.json, template: a}]}}`},
	"file-name":          {kind: "APIResource", set: `spec: {verification: {files: [{name: "*-*.pem", template: a}]}}`},
	"file-name-long": {kind: "APIResource",
		set: `spec: {verification: {files: [{name: "` + strings.Repeat("k", 207) + `*.pem", template: a}]}}`},
	"file-format": {kind: "APIResource",
		set: `spec: {verification: {formats: [PEM, PEMPerKey], files: [{name: key-*.pem, template: a}]}}`},
	"format": {kind: "APIResource", set: `spec: {verification: {formats: [DER]}}`},

	"enforcement-none":       {kind: "APIResource", set: `spec: {enforcement: [{name: public}]}`},
	"enforcement-name":       {kind: "APIResource", set: `spec: {enforcement: [{name: Public, envoy: {}}]}`},
	"enforcement-name-spare": {kind: "APIResource", set: `spec: {enforcement: [{name: spare-1, envoy: {}}]}`},
	"enforcement-scope":      {kind: "APIResource", set: `spec: {enforcement: [{name: public, envoy: {}, rules: [{name: a, scopes: ["payments:refund"]}]}]}`},
	"enforcement-wildcard": {kind: "APIResource",
		set: `spec: {scopes: [{name: "payments:*"}], enforcement: [{name: mesh, istio: {selector: {matchLabels: {app: a}}}, rules: [{name: a, scopes: ["payments:*"]}]}]}`},
	"enforcement-path":   {kind: "APIResource", set: `spec: {enforcement: [{name: public, envoy: {}, rules: [{name: a, paths: [{type: PathPrefix, value: /v1/../admin}]}]}]}`},
	"enforcement-target": {kind: "APIResource", set: `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: [{kind: Service, name: payment}]}}]}`},
	"enforcement-spare": {kind: "APIResource",
		set: `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: a}], spareTargetRefs: [{kind: HTTPRoute, name: b}, {kind: HTTPRoute, name: b}]}}]}`},
	"enforcement-spare-gateway": {kind: "APIResource",
		set: `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: a}], spareTargetRefs: [{kind: HTTPRoute, name: b}, {kind: Gateway, name: b}]}}]}`},
	"enforcement-spare-of-gateway": {kind: "APIResource",
		set: `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: [{kind: Gateway, name: a}], spareTargetRefs: [{kind: HTTPRoute, name: b}, {kind: HTTPRoute, name: c}]}}]}`},
	"enforcement-drain": {kind: "APIResource",
		set: `spec: {enforcement: [{name: public, drain: 10m, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: a}]}}]}`},
	"enforcement-elsewhere": {kind: "APIResource",
		set: `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: payment, namespace: shop}]}}]}`},
	"enforcement-both": {kind: "APIResource",
		set: `spec: {enforcement: [{name: mesh, istio: {selector: {matchLabels: {app: a}}, targetRefs: [{kind: Service, name: payment}]}}]}`},
	"enforcement-labels": {kind: "APIResource", set: `spec: {enforcement: [{name: mesh, istio: {selector: {matchLabels: {` +
		listed(16, func(i int) string { return fmt.Sprintf("%sx%d: a", strings.Repeat("a", 128), i) }) + `}}}}]}`},

	"client-name-long": {kind: "M2MClient", set: `metadata: {name: ` + strings.Repeat("a", 64) + `}`},
	"access-both":      {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, resource: b}]}`},
	"access-none":      {kind: "M2MClient", set: `spec: {access: [{key: a}]}`},
	"access-no-key":    {kind: "M2MClient", set: `spec: {access: [{resource: "https://payment.example.com/api"}]}`},
	"access-verification": {kind: "M2MClient",
		set: `spec: {access: [{apiResourceRef: {name: a}, verification: {carriedIn: Nowhere}}]}`},
	"access-no-claim": {kind: "M2MClient",
		set: `spec: {access: [{resource: a, key: a, verification: {carriedIn: OtherClaim}}]}`},
	"access-same-key": {kind: "M2MClient",
		set: `spec: {access: [{apiResourceRef: {name: api, namespace: a}}, {apiResourceRef: {name: api, namespace: b}}]}`},
	"access-many-scopes": {kind: "M2MClient", set: `spec: {access: [` +
		listed(5, func(i int) string {
			return fmt.Sprintf("{apiResourceRef: {name: api-%d}, scopes: [", i) + listed(52, func(j int) string { return fmt.Sprintf("s-%d", j) }) + "]}"
		}) + `]}`},
	"access-key-path":       {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, key: a/b}]}`},
	"access-key-parent":     {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, key: ..}]}`},
	"parameter-own":         {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, parameters: [{name: Scope, value: b}]}]}`},
	"parameter-name":        {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, parameters: [{name: client.id, value: b}]}]}`},
	"parameter-twice":       {kind: "M2MClient", set: `spec: {access: [{apiResourceRef: {name: a}, parameters: [{name: b, value: c}, {name: b, value: d}]}]}`},
	"resource-management":   {kind: "M2MClient", set: `spec: {access: [{resource: "https://default.logto.app/api", key: a}]}`},
	"credentials-no-server": {kind: "M2MClient", set: `spec: {authorizationServerRef: null}`},
	"resource-unregistered": {kind: "M2MClient",
		set: `spec: {credentials: null, access: [{resource: "https://payment.example.com/api", key: a}]}`},
	"rotation-foreign": {kind: "M2MClient", set: `spec: {credentialRotation: {every: 720h}}`},
	"rotation-every":   {kind: "M2MClient", set: `spec: {credentials: null, credentialRotation: {every: 30s}}`},
	"rotation-overlap": {kind: "M2MClient", set: `spec: {credentials: null, credentialRotation: {overlap: 721h}}`},
	"credentials-none": {kind: "M2MClient", set: `spec: {credentials: {clientSecret: null}}`},
	"credentials-two":  {kind: "M2MClient", set: `spec: {credentials: {serviceAccount: {name: cart}}}`},
	"credentials-two-ids": {kind: "M2MClient",
		set: `spec: {credentials: {clientSecret: {clientID: cart, clientIDKey: CLIENT_ID, secretRef: {name: a}}}}`},
	"key-two-ids": {kind: "M2MClient",
		set: `spec: {credentials: {clientSecret: null, privateKeyJWT: {clientID: cart, clientIDKey: CLIENT_ID, secretRef: {name: a}}}}`},
	"credentials-method": {kind: "M2MClient", set: `spec: {credentials: {clientSecret: {method: client_secret_basic}}}`},
	"credentials-alg": {kind: "M2MClient",
		set: `spec: {credentials: {clientSecret: null, privateKeyJWT: {secretRef: {name: a}, algorithm: HS256}}}`},
	"bundle-label":            {kind: "APIResource", set: `spec: {bundle: {labels: {app.kubernetes.io/managed-by: helm}}}`},
	"bundle-annotation":       {kind: "APIResource", set: `spec: {bundle: {annotations: {m2m-operator.io/contents: "{}"}}}`},
	"bundle-labels-long":      {kind: "APIResource", set: `spec: {bundle: {labels: {a: "` + strings.Repeat("x", 8192) + `"}}}`},
	"bundle-annotations-long": {kind: "APIResource", set: `spec: {bundle: {annotations: {a: "` + strings.Repeat("x", 8192) + `"}}}`},
	"secret-label":            {kind: "M2MClient", set: `spec: {secret: {labels: {app.kubernetes.io/managed-by: helm}}}`},
	"secret-annotation":       {kind: "M2MClient", set: `spec: {secret: {annotations: {m2m-operator.io/tokens: "{}"}}}`},
	"secret-labels-long":      {kind: "M2MClient", set: `spec: {secret: {labels: {a: "` + strings.Repeat("x", 8192) + `"}}}`},
	"secret-annotations-long": {kind: "M2MClient", set: `spec: {secret: {annotations: {a: "` + strings.Repeat("x", 8192) + `"}}}`},
	"template-key":            {kind: "M2MClient", set: `spec: {secret: {template: {"a/b": c}}}`},
	"template-long":           {kind: "M2MClient", set: `spec: {secret: {template: {a: "` + strings.Repeat("x", 4097) + `"}}}`},
	"template-token-key":      {kind: "M2MClient", set: `spec: {secret: {template: {payment-api: c}}}`},
	"refresh-both":            {kind: "M2MClient", set: `spec: {refresh: {atPercent: 50, before: 5m}}`},
	"refresh-before":          {kind: "M2MClient", set: `spec: {refresh: {before: 1s}}`},
}

// logtoDriver makes Logto the server to provision at.
const logtoDriver = `logto: {endpoint: "https://auth.example.com", credentialsSecretRef: {name: logto-management}}`

// listed joins what a function returns for each number.
func listed(n int, of func(int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = of(i)
	}
	return strings.Join(all, ", ")
}
