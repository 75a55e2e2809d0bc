// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// maxIssuer is how long an issuer may be in a SecurityPolicy.
const maxIssuer = 253

// maxCondition is how long a condition may be in a SecurityPolicy.
const maxCondition = 4096

// envoyCondition demands what Envoy does not verify and a SecurityPolicy has no field for:
// exp, which Envoy verifies only where a token has it, and the audience to the letter.
// Envoy ignores http://, https:// and a slash at the end of it, so that a token for
// another API, which may be another tenant's, would pass. The claim is a text or a list of
// them. A comparison that does not fit is an error, which permits nothing.
func envoyCondition(b render.Bundle) (string, error) {
	claims := fmt.Sprintf("metadata.filter_metadata['envoy.filters.http.jwt_authn']['%s']", b.Name)
	audience := strconv.Quote(b.Audience)
	condition := fmt.Sprintf("has(%[1]s.exp) && (%[1]s.aud == %[2]s || %[2]s in %[1]s.aud)", claims, audience)
	if len(condition) > maxCondition {
		return "", notEnforceable("Envoy Gateway allows a condition of at most %d characters, and the names of this API make it longer", maxCondition)
	}
	return condition, nil
}

// envoyGateway returns the ConfigMap with the keys, and the SecurityPolicy that refers
// to it. All fields that have a default are set, so that the API server adds none.
func envoyGateway(b render.Bundle, e Entry, rules []Rule, keys string) ([]*unstructured.Unstructured, error) {
	if len(b.Issuer) > maxIssuer {
		return nil, notEnforceable("Envoy Gateway allows an issuer of at most %d characters", maxIssuer)
	}
	condition, err := envoyCondition(b)
	if err != nil {
		return nil, err
	}
	var allow []any
	for _, r := range rules {
		name := r.Name
		if name == "" {
			name = "every-token"
		}
		principal, err := envoyPrincipal(b, r)
		if err != nil {
			return nil, err
		}
		paths := r.Paths
		if len(paths) == 0 {
			paths = []render.Path{{}}
		}
		for j, path := range paths {
			rule := map[string]any{
				"name": name, "action": "Allow", "principal": principal, "cel": condition,
			}
			if j > 0 {
				rule["name"] = fmt.Sprintf("%s-%d", name, j+1)
			}
			if operation := envoyOperation(r.Methods, path); len(operation) > 0 {
				rule["operation"] = operation
			}
			allow = append(allow, rule)
		}
	}
	configMap := object(e, "v1", "ConfigMap", KeysName(e.API, e.Name))
	configMap.Object["data"] = map[string]any{KeysField: keys}
	return []*unstructured.Unstructured{configMap, securityPolicy(e, map[string]any{
		"jwt": envoyProviders(b, map[string]any{
			"type":     "ValueRef",
			"valueRef": map[string]any{"group": "", "kind": "ConfigMap", "name": configMap.GetName()},
		}),
		"authorization": map[string]any{"defaultAction": "Deny", "rules": allow},
	})}, nil
}

// envoyProviders says by which keys tokens are verified.
func envoyProviders(b render.Bundle, keys map[string]any) map[string]any {
	return map[string]any{"providers": []any{map[string]any{
		"name": b.Name, "issuer": b.Issuer, "audiences": texts(b.Audience), "localJWKS": keys,
		// By default Envoy Gateway takes a token from the query, too (RFC 6750 section 5.3).
		"extractFrom": map[string]any{"headers": []any{map[string]any{"name": "Authorization", "valuePrefix": "Bearer "}}},
	}}}
}

func securityPolicy(e Entry, spec map[string]any) *unstructured.Unstructured {
	spec["targetRefs"] = targetRefs(e.Targets)
	o := object(e, "gateway.envoyproxy.io/v1alpha1", "SecurityPolicy", ObjectName(e.API, e.Name))
	o.Object["spec"] = spec
	return o
}

func targetRefs(targets []Target) []any {
	return anys(targets, func(t Target) any {
		ref := map[string]any{"group": t.Group, "kind": t.Kind, "name": t.Name}
		if t.Section != "" {
			ref["sectionName"] = t.Section
		}
		return ref
	})
}

// envoyPrincipal demands the issuer and all scopes of a rule. The issuer was compared
// before; a principal must name something.
func envoyPrincipal(b render.Bundle, r Rule) (map[string]any, error) {
	req, err := requirements(b, r)
	if err != nil {
		return nil, err
	}
	claims := []any{map[string]any{"name": "iss", "valueType": "String", "values": texts(b.Issuer)}}
	for _, c := range req.claims {
		if strings.Contains(c.claim, ".") {
			return nil, notEnforceable("Envoy Gateway cannot look into the claim %q: it takes a dot for nesting", c.claim)
		}
		claims = append(claims, map[string]any{"name": c.claim, "valueType": "StringArray", "values": texts(c.scope)})
	}
	jwt := map[string]any{"provider": b.Name, "claims": claims}
	if len(req.scopes) > 0 {
		jwt["scopes"] = texts(req.scopes...)
	}
	return map[string]any{"jwt": jwt}, nil
}

func envoyOperation(methods []string, p render.Path) map[string]any {
	operation := map[string]any{}
	if len(methods) > 0 {
		operation["methods"] = texts(methods...)
	}
	if p.Value != "" {
		path := map[string]any{"type": "Exact", "value": p.Value, "invert": false}
		if p.Prefix {
			path["type"], path["value"] = "PathPrefix", prefix(p.Value)
		}
		operation["path"] = path
	}
	return operation
}

// prefix returns a prefix of whole segments without the slash at its end, which Gateway
// API ignores.
func prefix(path string) string {
	if path = strings.TrimRight(path, "/"); path == "" {
		return "/"
	}
	return path
}
