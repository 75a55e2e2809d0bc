// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// istio returns the RequestAuthentication, which refuses tokens that are not valid, and
// the AuthorizationPolicy, which refuses requests without a token that a rule permits.
// Other RequestAuthentications of a workload may accept tokens of other issuers, so
// each rule names the issuer and the audience.
func istio(b render.Bundle, e Entry, rules []Rule, keys string) ([]*unstructured.Unstructured, error) {
	for _, v := range []string{b.Issuer, b.Audience} {
		if wildcard(v) {
			return nil, notEnforceable("Istio takes the asterisk at an end of %q for a wildcard", v)
		}
	}
	authentication := map[string]any{
		"issuer": b.Issuer, "audiences": texts(b.Audience), "jwks": keys, "forwardOriginalToken": true,
		// By default Istio takes a token from the query, too (RFC 6750 section 5.3).
		"fromHeaders": []any{map[string]any{"name": "Authorization", "prefix": "Bearer "}},
	}
	var allow []any
	delimited := map[string]bool{}
	for _, r := range rules {
		alternatives, err := istioConditions(b, r, delimited)
		if err != nil {
			return nil, err
		}
		for _, when := range alternatives {
			rule := map[string]any{"when": when}
			if operation := istioOperation(r); len(operation) > 0 {
				rule["to"] = []any{map[string]any{"operation": operation}}
			}
			allow = append(allow, rule)
		}
	}
	if claims := delimitedOf(b, delimited); len(claims) > 0 {
		authentication["spaceDelimitedClaims"] = texts(claims...)
	}
	return []*unstructured.Unstructured{
		istioObject(e, "RequestAuthentication", map[string]any{"jwtRules": []any{authentication}}),
		istioObject(e, "AuthorizationPolicy", map[string]any{"action": "ALLOW", "rules": allow}),
	}, nil
}

func istioObject(e Entry, kind string, spec map[string]any) *unstructured.Unstructured {
	if len(e.Labels) > 0 {
		labels := make(map[string]any, len(e.Labels))
		for k, v := range e.Labels {
			labels[k] = v
		}
		spec["selector"] = map[string]any{"matchLabels": labels}
	} else {
		spec["targetRefs"] = targetRefs(e.Targets)
	}
	o := object(e, "security.istio.io/v1", kind, ObjectName(e.API, e.Name))
	o.Object["spec"] = spec
	return o
}

// istioConditions returns the alternatives of what a rule requires of a token: its
// scopes are all in scope, or all in scp. It notes the claims that may be a string with
// several scopes.
func istioConditions(b render.Bundle, r Rule, delimited map[string]bool) (alternatives []any, err error) {
	req, err := requirements(b, r)
	if err != nil {
		return nil, err
	}
	common := []any{condition("iss", b.Issuer), condition("aud", b.Audience)}
	for _, c := range req.claims {
		if strings.ContainsAny(c.claim, "[]") {
			return nil, notEnforceable("Istio cannot look into the claim %q: it takes brackets for nesting", c.claim)
		}
		delimited[c.claim] = true
		common = append(common, condition(c.claim, c.scope))
	}
	for _, s := range r.Scopes {
		if wildcard(s) {
			return nil, notEnforceable("Istio takes the asterisk at an end of the scope %q for a wildcard", s)
		}
	}
	if len(req.scopes) == 0 {
		return []any{common}, nil
	}
	delimited["scp"] = true // scope always is
	for _, claim := range standardClaims {
		when := append([]any{}, common...)
		for _, s := range req.scopes {
			when = append(when, condition(claim, s))
		}
		alternatives = append(alternatives, when)
	}
	return alternatives, nil
}

// delimitedOf returns the noted claims in the order of the API's scopes.
func delimitedOf(b render.Bundle, noted map[string]bool) (claims []string) {
	for _, s := range b.Scopes {
		for _, c := range s.Claims {
			if noted[c] {
				claims = append(claims, c)
				delete(noted, c)
			}
		}
	}
	return claims
}

func condition(claim, value string) map[string]any {
	return map[string]any{"key": "request.auth.claims[" + claim + "]", "values": texts(value)}
}

func istioOperation(r Rule) map[string]any {
	operation := map[string]any{}
	if len(r.Methods) > 0 {
		operation["methods"] = texts(r.Methods...)
	}
	var paths []string
	for _, p := range r.Paths {
		switch base := prefix(p.Value); {
		case !p.Prefix:
			paths = append(paths, p.Value)
		case base == "/":
			paths = append(paths, "/*")
		default:
			paths = append(paths, base, base+"/*")
		}
	}
	if len(paths) > 0 {
		operation["paths"] = texts(paths...)
	}
	return operation
}

// wildcard reports whether Istio does not take a value as it is.
func wildcard(value string) bool {
	return strings.HasPrefix(value, "*") || strings.HasSuffix(value, "*")
}
