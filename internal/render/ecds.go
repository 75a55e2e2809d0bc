// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strings"
)

// The names of the filters that Envoy's configuration discovers in our files.
const (
	envoyJWTResource  = "m2m-jwt-authn"
	envoyRBACResource = "m2m-rbac"
)

// tree is a part of Envoy's configuration. It is built as a structure and then
// encoded, so that no value can break out into what is around it.
type tree = map[string]any

// EnvoyRBACFile returns the name of the file with the RBAC filter for requests of a
// name.
func EnvoyRBACFile(name string) string {
	return strings.TrimSuffix(FileEnvoyRBAC, ".yaml") + "-" + name + ".yaml"
}

// envoyFiles returns what a plain Envoy discovers: the filter that verifies tokens,
// the RBAC filter that takes every valid token, and one for each of
// Formats.Requests. Envoy reads these files again when they change, which it does
// not do with keys in its own configuration.
//
// The RBAC filters also check what the first filter cannot: the exact aud, which
// Envoy compares without https:// and a slash at the end, and the typ. If tokens do
// not name the API by aud, all filters refuse every request: Envoy would go on with
// what it read last if there were no files.
func (b Bundle) envoyFiles(keys []publicKey) map[string]tree {
	if !b.asksFor(FormatEnvoy) && len(b.Formats.Requests) == 0 {
		return nil
	}
	if !b.Named.byAud() {
		keys = nil
	}
	verify := b.envoyJWT(keys)
	for name, provider := range verify.Providers {
		provider.HeaderInMetadata = envoyHeaders
		verify.Providers[name] = provider
	}
	files := map[string]tree{FileEnvoyJWT: envoyResource(envoyJWTResource, verify)}
	if b.asksFor(FormatEnvoy) {
		files[FileEnvoyRBAC] = envoyResource(envoyRBACResource, b.envoyRBAC(nil))
	}
	for _, r := range b.Formats.Requests {
		files[EnvoyRBACFile(r.Name)] = envoyResource(envoyRBACResource, b.envoyRBAC(r.Rules))
	}
	return files
}

// envoyResource returns the answer of a discovery service with one filter.
func envoyResource(name string, config any) tree {
	return tree{"resources": []any{tree{
		"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": name, "typed_config": config,
	}}}
}

// envoyRBAC returns the configuration of an RBAC filter. It refuses what no policy
// allows.
func (b Bundle) envoyRBAC(rules []Rule) tree {
	if len(rules) == 0 {
		rules = []Rule{{}}
	}
	policies := tree{}
	for i, r := range rules {
		if principal, can := b.envoyPrincipal(r.Scopes); can && b.Named.byAud() {
			policies[fmt.Sprintf("rule-%02d", i)] = tree{"permissions": []any{r.envoyPermission()}, "principals": []any{principal}}
		}
	}
	return tree{"@type": envoyExtensions + "rbac.v3.RBAC", "rules": tree{"action": "ALLOW", "policies": policies}}
}

// envoyPermission returns the requests that a rule is for.
func (r Rule) envoyPermission() tree {
	var all []any
	if len(r.Methods) > 0 {
		all = append(all, combined("or_rules", "rules", apply(r.Methods, func(m string) any {
			return tree{"header": tree{"name": ":method", "string_match": tree{"exact": m}}}
		})))
	}
	if len(r.Paths) > 0 {
		var paths []any
		for _, p := range r.Paths {
			value := p.Value
			if p.Prefix {
				value = strings.TrimSuffix(value, "/")
				paths = append(paths, envoyPath("prefix", value+"/"))
			}
			if value != "" {
				paths = append(paths, envoyPath("exact", value))
			}
		}
		all = append(all, combined("or_rules", "rules", paths))
	}
	if len(all) == 0 {
		return tree{"any": true}
	}
	return combined("and_rules", "rules", all)
}

func envoyPath(how, value string) tree {
	return tree{"url_path": tree{"path": tree{how: value}}}
}

// envoyPrincipal returns the tokens that are for the API and carry all of some
// scopes, and false if no token can carry them.
func (b Bundle) envoyPrincipal(scopes []string) (tree, bool) {
	audience := tree{"exact": b.Audience}
	all := []any{combined("or_ids", "ids", []any{
		envoyMetadata(tree{"string_match": audience}, envoyPayload, "aud"),
		envoyMetadata(tree{"list_match": tree{"one_of": tree{"string_match": audience}}}, envoyPayload, "aud"),
	})}
	if b.TokenType != "" {
		short := strings.TrimPrefix(strings.ToLower(b.TokenType), "application/")
		all = append(all, combined("or_ids", "ids", apply([]string{short, "application/" + short}, func(typ string) any {
			return envoyMetadata(tree{"string_match": tree{"exact": typ, "ignore_case": true}}, envoyHeaders, "typ")
		})))
	}
	for _, name := range scopes {
		i := slices.IndexFunc(b.Scopes, func(s Scope) bool { return s.Name == name })
		if i < 0 || len(b.Scopes[i].Claims) == 0 {
			return nil, false
		}
		all = append(all, b.Scopes[i].envoyPrincipal())
	}
	return combined("and_ids", "ids", all), true
}

// envoyPrincipal returns the tokens that carry the scope: the first of its claims
// that a token has must contain it.
func (s Scope) envoyPrincipal() tree {
	carries := tree{"list_match": tree{"one_of": tree{"string_match": tree{"exact": s.Name}}}}
	var alternatives []any
	for i, claim := range s.Claims {
		var all []any
		for _, former := range s.Claims[:i] {
			all = append(all, tree{"not_id": envoyMetadata(tree{"present_match": true}, envoyPayload, former)})
		}
		all = append(all, envoyMetadata(carries, envoyPayload, claim))
		alternatives = append(alternatives, combined("and_ids", "ids", all))
	}
	return combined("or_ids", "ids", alternatives)
}

// envoyMetadata returns the tokens with a value in the metadata that the first
// filter leaves.
func envoyMetadata(value tree, path ...string) tree {
	return tree{"sourced_metadata": tree{"metadata_matcher": tree{
		"filter": envoyJWTFilter, "path": apply(path, func(key string) any { return tree{"key": key} }), "value": value,
	}}}
}

// combined combines conditions, or returns the only one.
func combined(how, member string, conditions []any) tree {
	if len(conditions) == 1 {
		return conditions[0].(tree)
	}
	return tree{how: tree{member: conditions}}
}
