// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// verdict is a manifest and a part of the API server's answer; none if it takes it.
type verdict struct{ kind, set, says string }

// TestEveryClause looks at each clause of the rules alone: at values just within a bound,
// and at values that one clause refuses. make mutants shows that none can be taken away
// unnoticed.
func TestEveryClause(t *testing.T) {
	for _, v := range slices.Concat(durations(), sizes(), fileNames(), listsOfNames(), scopesOfRules(), clausesOfClients(), clausesOfServers()) {
		name := v.set
		if len(name) > 120 {
			name = name[:120]
		}
		if got := answer(t, admission{kind: v.kind, set: v.set}); (v.says == "") != (got == "") || !strings.Contains(got, v.says) {
			t.Errorf("%s: %s: got %.300q, want %q", v.kind, name, got, v.says)
		}
	}
}

func durations() (all []verdict) {
	for _, field := range []struct{ kind, set, least, most, more string }{
		{"AuthorizationServer", `spec: {defaultTokenLifetime: %s}`, "10s", "24h", "25h"},
		{"AuthorizationServer", `spec: {jwks: {retention: %s}}`, "0s", "720h", "721h"},
		{"APIResource", `spec: {accessTokenLifetime: %s}`, "1m", "24h", "25h"},
		{"APIResource", `spec: {verification: {clockSkew: %s}}`, "0s", "5m", "6m"},
		{"APIResource", `spec: {enforcement: [{name: public, drain: %s, envoyGateway: {targetRefs: [{kind: HTTPRoute, name: a}]}}]}`, "0s", "2m", "3m"},
		{"M2MClient", `spec: {refresh: {before: %s}}`, "5s", "24h", "25h"},
		{"M2MClient", `spec: {credentials: null, credentialRotation: {every: %s}}`, "1m", "8760h", "8761h"},
		{"M2MClient", `spec: {credentials: null, credentialRotation: {overlap: %s}}`, "0s", "720h", "721h"},
	} {
		set := func(value string) string { return fmt.Sprintf(field.set, value) }
		all = append(all, verdict{field.kind, set(field.least), ""}, verdict{field.kind, set(field.most), ""},
			verdict{field.kind, set(field.more), "must be a duration"}, verdict{field.kind, set("1.5m"), "must be a duration"})
	}
	return all
}

func sizes() []verdict {
	text := func(n int) string { return strings.Repeat("x", n) }
	names := func(prefix string, n int) string {
		return "[" + listed(n, func(i int) string { return fmt.Sprintf("%s-%d", prefix, i) }) + "]"
	}
	grants := func(each int, last string) string { // eight of them, each with as many names, clients and scopes
		return `spec: {scopes: [` + listed(22, func(i int) string { return fmt.Sprintf("{name: s-%d}", i) }) + `], grants: [` +
			listed(8, func(i int) string {
				return fmt.Sprintf("{clients: {namespaces: {names: %s}, names: %s}, scopes: %s}", names("n", each), names("c", each), names("s", 64-2*each))
			}) + last + `]}`
	}
	selected := func(size int) string {
		return `spec: {enforcement: [{name: mesh, istio: {selector: {matchLabels: {` + text(1024) + ": " + text(63) + ", " +
			strings.Repeat("y", size-1024-63-10) + ": " + text(10) + `}}}}]}`
	}
	access := func(last int) string {
		return `spec: {access: [` + listed(5, func(i int) string {
			return fmt.Sprintf("{apiResourceRef: {name: api-%d}, scopes: %s}", i, names("s", map[bool]int{true: 51, false: last}[i < 4]))
		}) + `]}`
	}
	return []verdict{
		{"APIResource", `metadata: {name: ` + text(63) + `}`, ""},
		{"APIResource", `spec: {bundle: {labels: {a: "` + text(8191) + `"}}}`, ""},
		{"APIResource", `spec: {bundle: {annotations: {a: "` + text(8191) + `"}}}`, ""},
		{"APIResource", selected(2048), ""},
		{"APIResource", selected(2049), "at most 2048 characters"},
		{"APIResource", grants(21, ""), ""},
		{"APIResource", grants(21, ", {clients: {namespaces: {names: [more]}}}"), "at most 512 names and scopes"},
		{"APIResource", `spec: {verification: {files: [{name: "*` + text(210) + `", template: a}]}}`, ""},
		{"APIResource", `spec: {verification: {files: [{name: "` + text(212) + `", template: a}]}}`, ""},
		{"M2MClient", `spec: {secret: {template: {a: "` + text(4096) + `"}}}`, ""},
		{"M2MClient", `spec: {secret: {template: {a: b, c: "` + text(4097) + `"}}}`, "at most 4096 characters"},
		{"M2MClient", access(52), ""},
	}
}

func fileNames() (all []verdict) {
	const plain = "must be a plain file name"
	for name, says := range map[string]string{
		".": plain, "..": plain, "..data": plain, "a/b": plain,
		"jwks.json": "is the name of a file", "issuer": "is the name of a file", "audience": "is the name of a file", "verification.json": "is the name of a file",
		"protected-resource.json": "is the name of a file", "envoy-jwt-authn.yaml": "is the name of a file",
	} {
		all = append(all, verdict{"APIResource", `spec: {verification: {files: [{name: "` + name + `", template: a}]}}`, says})
		if says == plain {
			all = append(all,
				verdict{"AuthorizationServer", `spec: {caBundle: {configMapRef: {name: a, key: "` + name + `"}}}`, plain},
				verdict{"M2MClient", `spec: {secret: {template: {plain: a, "` + name + `": a}}}`, "keys must be plain file names"})
		}
	}
	for file, format := range map[string]string{
		"keys.pem": "PEM", "key-*.pem": "PEMPerKey", "key-*.jwk": "JWKPerKey", "openid-configuration.json": "OpenIDConfiguration",
		"envoy-ecds-jwt-authn.yaml": "Envoy", "envoy-ecds-rbac.yaml": "Envoy",
	} {
		files := `files: [{name: other, template: a}, {name: "` + file + `", template: a}]`
		another := map[bool]string{true: "PEMPerKey", false: "PEM"}[format == "PEM"]
		all = append(all,
			verdict{"APIResource", `spec: {verification: {formats: [` + format + `], ` + files + `}}`, "a file has the name of one"},
			verdict{"APIResource", `spec: {verification: {formats: [` + another + `], ` + files + `}}`, ""},
			verdict{"APIResource", `spec: {verification: {` + files + `}}`, ""},
			verdict{"APIResource", `spec: {verification: {formats: [` + format + `], files: [{name: other, template: a}]}}`, ""},
			verdict{"APIResource", `spec: {verification: {formats: [` + format + `]}}`, ""})
	}
	return all
}

func listsOfNames() (all []verdict) {
	for _, claim := range []string{"iss", "aud", "exp", "nbf", "iat", "jti", "typ", "token_use", "scope", "scp"} {
		all = append(all, verdict{"APIResource", `spec: {verification: {audience: {claim: ` + claim + `, values: [a]}}}`, "claim must be one that distinguishes"})
	}
	return append(all,
		verdict{"APIResource", `spec: {bundle: {labels: {m2m-operator.io/shard: a}}}`, "labels of m2m-operator.io/"},
		verdict{"APIResource", `spec: {bundle: {labels: {team: a, m2m-operator.io/shard: a}}}`, "labels of m2m-operator.io/"},
		verdict{"APIResource", `spec: {bundle: {annotations: {team: a, m2m-operator.io/contents: a}}}`, "annotations of m2m-operator.io/"},
	)
}

func scopesOfRules() (all []verdict) {
	const undeclared = `"payments:refund"`
	for part, says := range map[string]string{
		`grants: [{clients: {namespaces: {names: [shop]}}, scopes: [%s]}]`:                                        "a grant names a scope",
		`grants: [{clients: {namespaces: {names: [shop]}}}, {clients: {namespaces: {names: [a]}}, scopes: [%s]}]`: "a grant names a scope",
		`grants: [{clients: {namespaces: {names: [shop]}}, scopes: ["payments:read", %s]}]`:                       "a grant names a scope",
		`enforcement: [{name: a, envoy: {}, rules: [{name: a, scopes: [%s]}]}]`:                                   "a rule requires a scope",
		`enforcement: [{name: a, envoy: {}}, {name: b, envoy: {}, rules: [{name: a, scopes: [%s]}]}]`:             "a rule requires a scope",
		`enforcement: [{name: a, envoy: {}, rules: [{name: a}, {name: b, scopes: [%s]}]}]`:                        "a rule requires a scope",
		`enforcement: [{name: a, envoy: {}, rules: [{name: a, scopes: ["payments:read", %s]}]}]`:                  "a rule requires a scope",
	} {
		all = append(all, verdict{"APIResource", `spec: {` + fmt.Sprintf(part, undeclared) + `}`, says},
			verdict{"APIResource", `spec: {` + fmt.Sprintf(part, `"payments:write"`) + `}`, ""},
			verdict{"APIResource", `spec: {scopes: null, ` + fmt.Sprintf(part, undeclared) + `}`, says})
	}
	const where = `istio: {selector: {matchLabels: {app: a}}}`
	for rules, refused := range map[string]bool{
		`[{name: a, scopes: ["*:read"]}]`:                               true,
		`[{name: a, scopes: ["read:*"]}]`:                               true,
		`[{name: a, scopes: ["re*ad"]}]`:                                false,
		`[{name: a, scopes: ["re*ad", "read:*"]}]`:                      true,
		`[{name: a, scopes: ["re*ad"]}, {name: b, scopes: ["read:*"]}]`: true,
		`[{name: a}]`: false,
	} {
		scopes := `spec: {scopes: [{name: "*:read"}, {name: "read:*"}, {name: "re*ad"}], enforcement: [{name: mesh, `
		all = append(all, verdict{"APIResource", scopes + where + `, rules: ` + rules + `}]}`, map[bool]string{true: "Istio takes an asterisk"}[refused]},
			verdict{"APIResource", scopes + `envoy: {}, rules: ` + rules + `}]}`, ""})
	}
	for name, says := range map[string]string{"spare-2": "must not be spare-1 or spare-2", "spare-3": ""} {
		all = append(all, verdict{"APIResource", `spec: {enforcement: [{name: ` + name + `, envoy: {}}]}`, says})
	}
	const spare = `, spareTargetRefs: [{kind: HTTPRoute, name: b}, {kind: HTTPRoute, name: c}]`
	for targets, says := range map[string]string{
		`[{kind: Gateway, name: a}]`:                                     "",
		`[{kind: HTTPRoute, name: a}]` + spare:                           "",
		`[{kind: HTTPRoute, name: a}, {kind: Gateway, name: a}]` + spare: "spareTargetRefs work only if all targetRefs are routes",
	} {
		all = append(all, verdict{"APIResource", `spec: {enforcement: [{name: public, envoyGateway: {targetRefs: ` + targets + `}}]}`, says})
	}
	return append(all, verdict{"APIResource", `spec: {enforcement: [{name: mesh, ` + where + `}]}`, ""},
		verdict{"APIResource", `spec: {scopes: [{name: a, carriedIn: ScopeClaim}]}`, ""})
}

func clausesOfClients() []verdict {
	return []verdict{
		{"M2MClient", `spec: {secret: {template: {payment-api: a}}, access: [{apiResourceRef: {name: another}}, {apiResourceRef: {name: payment-api}}]}`, "already the key of an access"},
		{"M2MClient", `spec: {secret: {template: {mine: a}}, access: [{apiResourceRef: {name: payment-api}, key: mine}]}`, "already the key of an access"},
		{"M2MClient", `spec: {secret: {template: {payment-api: a}}, access: [{apiResourceRef: {name: payment-api}, key: mine}]}`, ""},
		{"M2MClient", `spec: {secret: {template: {a: b}}, access: [{apiResourceRef: {name: c}}, {resource: "https://payment.example.com/api"}]}`, "key is required with resource"},
		{"M2MClient", `spec: {credentials: null, access: [{apiResourceRef: {name: a}}, {resource: "https://payment.example.com/api", key: b}]}`, "resource requires credentials"},
	}
}

func clausesOfServers() []verdict {
	const opaque = "opaque tokens need no keys"
	return []verdict{
		{"AuthorizationServer", `spec: {tokenFormat: Opaque, endpoints: {token: "https://auth.example.com/token"}}`, ""},
		{"AuthorizationServer", `spec: {tokenFormat: Opaque, endpoints: {jwks: "https://auth.example.com/jwks"}}`, opaque},
		{"AuthorizationServer", `spec: {tokenFormat: Opaque, jwks: {retention: 1h}}`, opaque},
		{"AuthorizationServer", `spec: {provisioning: {` + logtoDriver + `, adoption: {clients: [{clientID: a, namespace: shop, name: a}, {clientID: b, namespace: shop, name: b}, {clientID: b, namespace: shop, name: c}]}}}`,
			"only one M2MClient can take over a client"},
	}
}
