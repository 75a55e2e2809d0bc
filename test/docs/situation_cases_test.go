// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// Changes that many situations make.
const (
	company = `
apiVersion: m2m-operator.io/v1alpha1
kind: ClusterAuthorizationServer
metadata: {name: $CLUSTER}
spec:
  issuer: "$ISSUER"
  allowedNamespaces: {names: [$PAYMENTS]}
`
	privateKey = `spec: {credentials: {clientSecret: null, privateKeyJWT: {secretRef: {name: cart-credentials}}}}`
)

// fault returns a preparation that makes an endpoint misbehave.
func fault(e oidc.Endpoint, f oidc.Fault) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.as.SetFault(e, &f) }
}

// claims returns a preparation that changes the tokens' claims.
func claims(change func(map[string]any)) func(*testing.T, *world) {
	return fault(oidc.Token, oidc.Fault{Claims: change})
}

// application returns a preparation that registers the cart's application another
// way.
func application(c oidc.Client) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.setClient(t, c) }
}

// withKey returns a preparation that puts a private key of an algorithm into the cart's Secret.
func withKey(alg string, change func(string) string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		private, _, public, err := oidc.NewKeyPair(alg)
		if err != nil {
			t.Fatal(err)
		}
		w.setClient(t, oidc.Client{Method: oidc.PrivateKeyJWT, PublicJWKS: public})
		text := string(private)
		if change != nil {
			text = change(text)
		}
		w.names["$KEY"] = strings.ReplaceAll(text, "\n", `\n`)
	}
}

// key makes the cart authenticate with a private key.
var key = map[string]string{"cart": privateKey, "cart-credentials": `stringData: {private-key: "$KEY"}`}

// situations are the cases of the tables of docs/errors.md about what
// conditions say, by the names of their rows.
var situations = map[string]situation{
	// Authorization servers.
	"issuer-slash":          {set: map[string]string{"auth": `spec: {issuer: "$ISSUER/"}`}},
	"issuer-path":           {set: map[string]string{"auth": `spec: {issuer: "$ISSUER/oidc"}`}},
	"server-down":           {prepare: serverDown},
	"server-failing":        {prepare: fault(oidc.Discovery, oidc.Fault{Status: http.StatusServiceUnavailable})},
	"server-redirects":      {prepare: fault(oidc.Discovery, oidc.Fault{Redirect: "https://elsewhere.example.com/"})},
	"server-no-json":        {prepare: fault(oidc.Discovery, oidc.Fault{Body: "<html>", ContentType: "text/html"})},
	"http-refused":          {strict: true},
	"loopback-refused":      {strict: true, server: oidc.Options{TLS: true}},
	"metadata-refused":      {strict: true, set: map[string]string{"auth": `spec: {issuer: "https://169.254.169.254"}`}},
	"tls-unknown-authority": {server: oidc.Options{TLS: true}},
	"tls-none": {prepare: func(_ *testing.T, w *world) {
		w.names["$ISSUER"] = strings.Replace(w.names["$ISSUER"], "http:", "https:", 1)
	}},
	"ca-missing": {set: map[string]string{"auth": `spec: {caBundle: {configMapRef: {name: auth-ca}}}`}},
	"ca-no-pem": {
		set: map[string]string{"auth": `spec: {caBundle: {configMapRef: {name: auth-ca}}}`},
		also: `
apiVersion: v1
kind: ConfigMap
metadata: {name: auth-ca, namespace: $SHOP}
data: {ca.crt: "MIIB..."}
`},
	"no-token-endpoint": {prepare: fault(oidc.Discovery, oidc.Fault{Rewrite: func(m map[string]any) { delete(m, "token_endpoint") }})},
	"no-jwks":           {prepare: fault(oidc.Discovery, oidc.Fault{Rewrite: func(m map[string]any) { delete(m, "jwks_uri") }})},
	"jwks-wrong":        {set: map[string]string{"auth": `spec: {endpoints: {jwks: "$ISSUER/keys"}}`}},
	"jwks-empty":        {prepare: fault(oidc.JWKS, oidc.Fault{Body: `{"keys": []}`})},
	"jwks-symmetric":    {prepare: fault(oidc.JWKS, oidc.Fault{Body: `{"keys": [{"kty": "oct", "kid": "hs", "k": "c2VjcmV0"}]}`})},
	"keys-all-revoked": {
		prepare: func(_ *testing.T, w *world) { w.names["$KID"] = w.as.KeyID() },
		set:     map[string]string{"auth": `spec: {jwks: {revokedKeyIDs: ["$KID"]}}`},
	},

	// APIs.
	"api-server-unknown": {without: []string{"payments-auth"}},
	"api-server-refused": {
		also: strings.Replace(company, "$PAYMENTS", "$SHOP", 1),
		set:  map[string]string{"payment-api": `spec: {authorizationServerRef: {kind: ClusterAuthorizationServer, name: $CLUSTER}}`},
	},
	"identifier-claimed": {also: strings.ReplaceAll(story["payments-auth"]+"\n---\n"+story["payment-api"], "$PAYMENTS", "$SHOP"),
		without: []string{"auth"}, accepted: true},
	"identifier-contested": {
		also: strings.NewReplacer("$PAYMENTS", "$SHOP", "{name: auth}", "{kind: ClusterAuthorizationServer, name: $CLUSTER}").Replace(story["payment-api"]),
		set:  map[string]string{"payment-api": `spec: {authorizationServerRef: {kind: ClusterAuthorizationServer, name: $CLUSTER}}`},
		last: strings.Replace(company, "[$PAYMENTS]", "[$PAYMENTS, $SHOP]", 1),
	},
	"identifier-bound":   {also: company + `  identifierClaims: [{namespaces: {names: [$SHOP]}, prefixes: ["https://payment.example.com/"]}]` + "\n"},
	"issuer-not-allowed": {also: strings.Replace(company, "$PAYMENTS", "$SHOP", 1)},
	"identifier-not-allowed": {
		also: company + `  identifierClaims: [{namespaces: {names: [$SHOP]}, prefixes: ["https://payment.example.com/"]}]` + "\n",
		set:  map[string]string{"payment-api": `spec: {authorizationServerRef: {kind: ClusterAuthorizationServer, name: $CLUSTER}}`},
	},
	"api-no-keys": {prepare: serverDown},
	"api-opaque":  {set: opaqueServers},
	"bundle-not-owned": {also: `
apiVersion: v1
kind: ConfigMap
metadata: {name: m2m-verify.$PAYMENTS.payment-api, namespace: $PAYMENTS}
`},
	"bundle-refused":        {prepare: bundlesRefused},
	"gateway-not-enabled":   {strict: true, set: gateway(atRoute)},
	"gateway-not-installed": {set: gateway(`{name: mesh, istio: {selector: {matchLabels: {app: payment}}}}`)},
	"gateway-audience":      {set: gateway(atRoute, `verification: {audience: {claim: client_id, values: [cart]}}`)},
	"gateway-scope":         {set: gateway(strings.Replace(atRoute, "}]}", "}]}, rules: [{name: all, scopes: [admin]}]", 1), `scopes: [{name: admin, carriedIn: Nowhere}, {name: "payments:write"}]`)},
	"gateway-no-keys":       {prepare: serverDown, set: gateway(atRoute)},
	"gateway-opaque":        {set: both(opaqueServers, gateway(atRoute))},
	"gateway-taken": {set: gateway(atRoute), also: `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: m2m.payment-api.public, namespace: $PAYMENTS}
`},
	"gateway-keys-taken": {set: gateway(atRoute), also: `
apiVersion: v1
kind: ConfigMap
metadata: {name: m2m-jwks.payment-api.public, namespace: $PAYMENTS}
`},
	"gateway-refused": {
		prepare: func(t *testing.T, _ *world) { refuse(t, "no-gateway-keys", "m2m-jwks.payment-api.refused") },
		set:     gateway(strings.Replace(atRoute, "public", "refused", 1)),
	},
	"gateway-target":     {set: gateway(atRoute)},
	"gateway-conflict":   {set: gateway(atRoute), after: reports("Accepted", "False", "Conflicted", "another policy has the route")},
	"gateway-overridden": {set: gateway(atRoute), after: reports("Overridden", "True", "Overridden", "by a policy of the route")},

	"bundle-label-value": {set: map[string]string{"payment-api": `spec: {bundle: {labels: {team: "the payments"}}}`}},
	"file-syntax":        {set: file(`issuer: {{ .Issuer`)},
	"file-field":         {set: file(`issuer: {{ .Issuers }}`)},
	"file-function":      {set: file(`issuer: {{ toYaml .Issuer }}`)},
	"file-arguments":     {set: file(`scopes: {{ join .Scopes }}`)},
	"file-range":         {set: file(`{{ range .Issuer }}{{ . }}{{ end }}`)},
	"file-dot":           {set: file(`{{ range .Scopes }}{{ .Issuer }}{{ end }}`)},
	"file-key":           {set: file(`{{ range .Keys }}{{ .Kid }}{{ end }}`)},
	"file-define":        {set: file(`{{ define "a" }}b{{ end }}`)},
	"file-piece":         {set: file(`{{ index .Scopes 7 }}`)},

	// Clients.
	"client-server-unknown": {set: map[string]string{"cart": `spec: {authorizationServerRef: {name: oauth}}`}},
	"client-server-refused": {
		also: company,
		set:  map[string]string{"cart": `spec: {authorizationServerRef: {kind: ClusterAuthorizationServer, name: $CLUSTER}}`},
	},
	"client-server-not-ready": {prepare: serverDown},
	"api-unknown":             {set: map[string]string{"cart": `spec: {access: [{apiResourceRef: {name: payments-api, namespace: $PAYMENTS}}]}`}},
	"api-other-namespace":     {set: map[string]string{"cart": `spec: {access: [{apiResourceRef: {name: payment-api}}]}`}},
	"api-without-server":      {without: []string{"payments-auth"}},
	"api-not-accepted":        {also: strings.Replace(company, "$PAYMENTS", "$SHOP", 1)},
	"api-other-issuer": {
		also: company,
		set: map[string]string{
			"payment-api": `spec: {authorizationServerRef: {kind: ClusterAuthorizationServer, name: $CLUSTER}}`,
			"auth":        `spec: {issuer: "$ISSUER/", endpoints: {token: "$ISSUER/token", jwks: "$ISSUER/jwks"}}`,
		},
	},
	"not-granted": {set: map[string]string{"payment-api": `spec: {grants: null}`}},
	"not-granted-name": {set: map[string]string{
		"payment-api": `spec: {grants: [{clients: {namespaces: {names: [$SHOP]}, names: [checkout]}, scopes: ["payments:write"]}]}`,
	}},
	"scope-not-granted": {set: map[string]string{
		"cart": `spec: {access: [{apiResourceRef: {name: payment-api, namespace: $PAYMENTS}, scopes: ["payments:read"]}]}`,
	}},
	"scope-misspelled": {set: map[string]string{
		"cart": `spec: {access: [{apiResourceRef: {name: payment-api, namespace: $PAYMENTS}, scopes: ["payments:wirte"]}]}`,
	}},
	"scope-unknown": {
		also:    strings.ReplaceAll(strings.ReplaceAll(story["payment-api"], "$PAYMENTS", "$SHOP"), "payment-api}", "payment-api}"),
		set:     map[string]string{"cart": `spec: {access: [{apiResourceRef: {name: payment-api}, scopes: ["payments:refund"]}]}`},
		without: []string{"payment-api", "payment"},
	},
	"secret-missing":    {without: []string{"cart-credentials"}},
	"secret-key":        {set: map[string]string{"cart-credentials": `stringData: {client-secret: null, secret: $SECRET}`}},
	"secret-no-id":      {set: map[string]string{"cart-credentials": `stringData: {client-id: null}`}},
	"secret-characters": {set: map[string]string{"cart-credentials": `stringData: {client-secret: "pässword"}`}},
	"secret-wrong":      {set: map[string]string{"cart-credentials": `stringData: {client-secret: battery-staple}`}},
	"client-unknown":    {set: map[string]string{"cart-credentials": `stringData: {client-id: card}`}},
	"method-wrong":      {prepare: application(oidc.Client{Method: oidc.SecretPost, Secret: "correct-horse"})},
	"key-no-pem":        {prepare: withKey("ES256", func(string) string { return "secret" }), set: key},
	"key-newlines": {prepare: withKey("ES256", func(s string) string {
		return strings.ReplaceAll(s, "\n", `\\n`)
	}), set: key},
	"key-certificate": {prepare: withKey("ES256", func(s string) string {
		return strings.ReplaceAll(s, "PRIVATE KEY", "CERTIFICATE")
	}), set: key},
	"key-encrypted": {prepare: withKey("ES256", func(s string) string {
		return strings.ReplaceAll(s, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
	}), set: key},
	"key-openssh": {prepare: withKey("ES256", func(s string) string {
		return strings.ReplaceAll(s, "PRIVATE KEY", "OPENSSH PRIVATE KEY")
	}), set: key},
	"key-algorithm": {prepare: withKey("ES256", nil), set: map[string]string{
		"cart":             `spec: {credentials: {clientSecret: null, privateKeyJWT: {algorithm: RS256, secretRef: {name: cart-credentials}}}}`,
		"cart-credentials": key["cart-credentials"],
	}},
	"key-unknown": {set: key, prepare: func(t *testing.T, w *world) {
		withKey("ES256", nil)(t, w)
		registered := w.names["$KEY"]
		withKey("ES256", nil)(t, w) // the server knows this one
		w.names["$KEY"] = registered
	}},
	"assertion-audience": {server: oidc.Options{IssuerAudienceOnly: true}, prepare: withKey("ES256", nil), set: map[string]string{
		"cart":             `spec: {credentials: {clientSecret: null, privateKeyJWT: {audience: TokenEndpoint, secretRef: {name: cart-credentials}}}}`,
		"cart-credentials": key["cart-credentials"],
	}},
	"account-not-allowed": {set: map[string]string{
		"cart": `spec: {credentials: {clientSecret: null, serviceAccount: {name: cart}}}`,
	}},
	"account-missing": {
		also: accountRole,
		set:  map[string]string{"cart": `spec: {credentials: {clientSecret: null, serviceAccount: {name: cart}}}`},
	},
	"account-unknown": {
		also: accountRole + `
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart, namespace: $SHOP}
`,
		set: map[string]string{"cart": `spec: {credentials: {clientSecret: null, serviceAccount: {name: cart}}}`},
	},
	"parameter-audience": {set: map[string]string{
		"auth": `spec: {audienceParameter: Audience}`,
		"cart": `spec: {access: [{apiResourceRef: {name: payment-api, namespace: $PAYMENTS}, parameters: [{name: audience, value: payments}]}]}`,
	}},
	"refused-silently": {prepare: fault(oidc.Token, oidc.Fault{Status: http.StatusForbidden})},
	"audience-refused": {
		prepare: fault(oidc.Token, oidc.Fault{Status: 400, Body: `{"error": "invalid_request", "error_description": "Requested audience has not been whitelisted"}`}),
		set:     map[string]string{"auth": `spec: {audienceParameter: Audience}`},
	},
	"resource-unknown": {prepare: func(_ *testing.T, w *world) { w.as.RemoveResource(w.fill(paymentAPI)) }},
	"scope-refused":    {prepare: application(oidc.Client{Secret: "correct-horse", Scopes: map[string][]string{paymentAPI: {"payments:read"}}})},
	"grant-type":       {prepare: fault(oidc.Token, oidc.Fault{Status: 400, Body: `{"error": "unauthorized_client"}`})},
	"token-type-dpop":  {prepare: fault(oidc.Token, oidc.Fault{Rewrite: func(m map[string]any) { m["token_type"] = "DPoP" }})},
	"token-redirect":   {prepare: fault(oidc.Token, oidc.Fault{Redirect: "https://elsewhere.example.com/"})},
	"token-failing":    {prepare: fault(oidc.Token, oidc.Fault{Status: http.StatusBadGateway})},
	"token-limited":    {prepare: fault(oidc.Token, oidc.Fault{Status: http.StatusTooManyRequests})},
	"token-wrong-url":  {set: map[string]string{"auth": `spec: {endpoints: {token: "$ISSUER/oauth/token"}}`}},
	"scope-dropped": {
		server:  oidc.Options{DropUngrantedScopes: true},
		prepare: application(oidc.Client{Secret: "correct-horse", Scopes: map[string][]string{paymentAPI: {"payments:read"}}}),
	},
	"scope-elsewhere": {prepare: claims(func(c map[string]any) {
		c["roles"] = []string{"payments:write"}
		delete(c, "scope")
	})},
	"audience-parameter": {server: oidc.Options{AudienceParameter: "audience"},
		prepare: application(oidc.Client{Secret: "correct-horse", Scopes: map[string][]string{"": {"payments:write"}}})},
	"audience-other": {prepare: claims(func(c map[string]any) { c["aud"] = "https://ledger.example.com/api" })},
	"issuer-other":   {prepare: claims(func(c map[string]any) { c["iss"] = "https://login.example.com" })},
	"algorithm-not-allowed": {set: map[string]string{
		"payment-api": `spec: {verification: {algorithms: [RS256]}}`,
	}},
	"type-other": {server: oidc.Options{TokenType: "JWT"}, set: map[string]string{
		"payment-api": `spec: {verification: {tokenType: at+jwt}}`,
	}},
	"type-demanded-later": {server: oidc.Options{TokenType: "JWT"}, later: map[string]string{
		"payment-api": `spec: {verification: {tokenType: at+jwt}}`,
	}},
	"key-unusable": {prepare: func(t *testing.T, w *world) {
		w.as.SetAlgorithm("RS256")
		w.as.SetRSABits(1024)
		if _, err := w.as.RotateKey(); err != nil {
			t.Fatal(err)
		}
	}},
	"keys-of-other": {
		prepare: func(t *testing.T, w *world) {
			other, err := oidc.Start(oidc.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(other.Close)
			w.names["$OTHER"] = other.JWKSURL()
			w.names["$KID"] = w.as.KeyID()
		},
		set: map[string]string{
			"auth":          `spec: {endpoints: {jwks: "$OTHER"}}`,
			"payments-auth": `spec: {endpoints: {jwks: "$OTHER"}}`,
		},
	},
	"born-expired":  {prepare: claims(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() })},
	"not-yet-valid": {prepare: claims(func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() })},
	"opaque":        {prepare: application(oidc.Client{Secret: "correct-horse", Opaque: true})},
	"opaque-server": {set: opaqueServers},
	"secret-taken": {also: `
apiVersion: v1
kind: Secret
metadata: {name: cart-token, namespace: $SHOP}
`},
	"template-syntax":   {set: template(`Bearer {{ token "payment-api" }`)},
	"template-function": {set: template(`{{ env "HOME" }}`)},
	"template-token":    {set: template(`Bearer {{ token "payment" }}`)},
	"template-variable": {set: template(`{{ $k := "payment-api" }}{{ token $k }}`)},
	"template-field":    {set: template(`{{ .Values.token }}`)},
	"label-value":       {set: map[string]string{"cart": `spec: {secret: {labels: {team: "the shop"}}}`}},
	"annotation-key":    {set: map[string]string{"cart": `spec: {secret: {annotations: {"the team": shop}}}`}},
}

// bundlesRefused adds a policy to the cluster that refuses the bundle.
func bundlesRefused(t *testing.T, w *world) {
	refuse(t, "no-bundles", "m2m-verify."+w.names["$PAYMENTS"]+".")
}

// atRoute is an entry of spec.enforcement.
const atRoute = `{name: public, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: payment}]}}`

// gateway returns a change that gives the API an entry of spec.enforcement, and more.
func gateway(entry string, more ...string) map[string]string {
	fields := append([]string{"enforcement: [" + entry + "]"}, more...)
	return map[string]string{"payment-api": "spec: {" + strings.Join(fields, ", ") + "}"}
}

// both returns the changes of two maps.
func both(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// reports returns what a gateway does: it reports on the policy once that is there.
func reports(kind, status, reason, message string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		policy := &unstructured.Unstructured{}
		policy.SetAPIVersion("gateway.envoyproxy.io/v1alpha1")
		policy.SetKind("SecurityPolicy")
		kubetest.Eventually(t, func() error {
			name := types.NamespacedName{Namespace: w.names["$PAYMENTS"], Name: "m2m.payment-api.public"}
			if err := kube.Get(t.Context(), name, policy); err != nil {
				return err
			}
			policy.Object["status"] = map[string]any{"ancestors": []any{map[string]any{"conditions": []any{map[string]any{
				"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": policy.GetGeneration(),
			}}}}}
			return kube.Status().Update(t.Context(), policy)
		})
	}
}

// refuse makes the API server refuse the ConfigMaps whose names have a prefix.
func refuse(t *testing.T, name, prefix string) {
	t.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
				}}},
			},
			Validations: []admissionv1.Validation{{Expression: "!object.metadata.name.startsWith('" + prefix + "')", Message: "not here"}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	for _, o := range []client.Object{policy, binding} {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	kubetest.Eventually(t, func() error {
		probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: prefix + "probe"}}
		if kube.Create(t.Context(), probe, client.DryRunAll) == nil {
			return errors.New("the policy is not in force yet")
		}
		return nil
	})
}

// accountRole allows the operator to request tokens of the ServiceAccount cart.
const accountRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: cart-token, namespace: $SHOP}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [cart], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: cart-token, namespace: $SHOP}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: cart-token}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ` + operatorUser + `}]
`

// opaqueServers makes both servers issue opaque tokens.
var opaqueServers = map[string]string{"auth": `spec: {tokenFormat: Opaque}`, "payments-auth": `spec: {tokenFormat: Opaque}`}

// file gives the API an extra file.
func file(text string) map[string]string {
	return map[string]string{"payment-api": `spec: {verification: {files: [{name: app.yaml, template: '` + text + `'}]}}`}
}

// template gives the cart's Secret a key by template.
func template(text string) map[string]string {
	return map[string]string{"cart": `spec: {secret: {template: {header: '` + text + `'}}}`}
}
