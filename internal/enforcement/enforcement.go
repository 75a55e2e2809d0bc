// SPDX-License-Identifier: Apache-2.0

// Package enforcement turns what an API says about its tokens into the policies by
// which gateways check them: a SecurityPolicy of Envoy Gateway, or a
// RequestAuthentication and an AuthorizationPolicy of Istio. The package is pure:
// values go in, and objects come out. A policy never permits more than its entry says.
// Where a gateway cannot check what must be checked, there is an error instead of a
// policy, and the caller writes the one that refuses every request.
package enforcement

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Gateway is a kind of gateway.
type Gateway string

// The gateways for which there are policies.
const (
	EnvoyGateway Gateway = "envoy-gateway"
	Istio        Gateway = "istio"
)

// Gateways returns the gateways for which there are policies.
func Gateways() []Gateway { return []Gateway{EnvoyGateway, Istio} }

// Name returns the gateway's name for people.
func (g Gateway) Name() string {
	if g == EnvoyGateway {
		return "Envoy Gateway"
	}
	return "Istio"
}

// KeysField is the key of a ConfigMap under which Envoy Gateway looks for a JWK Set. If a
// ConfigMap does not have it, Envoy Gateway takes any other.
const KeysField = "jwks"

// Entry is one entry of an APIResource's spec.enforcement.
type Entry struct {
	Namespace, API string // of the APIResource
	Name           string
	Gateway        Gateway

	// Targets and Labels say what the gateway protects. One of them is set.
	Targets []Target
	Labels  map[string]string

	// Spares are the places for keys that no request uses. There are two or none.
	Spares []Target

	// Rules permit requests. Without any, every valid token does.
	Rules []Rule
}

// Target is an object that a gateway serves.
type Target struct {
	Group, Kind, Name string
	Section           string // a listener or a rule of it; empty: all
}

// Rule permits requests, under a name that the gateway shows.
type Rule struct {
	Name string
	render.Rule
}

// Policy holds the objects that a gateway reads.
type Policy struct {
	// Objects are in the order in which they are written: what others need comes first.
	Objects []*unstructured.Unstructured
	// Unchecked names what the gateway cannot check of a token.
	Unchecked []string
}

// ObjectName returns the name of an entry's policies: m2m.<API>.<entry>. Only the last
// part has no dot, so no two entries share a name.
func ObjectName(api, entry string) string { return "m2m." + api + "." + entry }

// IsObjectName reports whether a name is one of an APIResource's policies.
func IsObjectName(api, name string) bool {
	entry, ok := strings.CutPrefix(name, ObjectName(api, ""))
	if e, place, cut := strings.Cut(entry, "."); cut && slices.Contains(sparePlaces, place) {
		entry = e
	}
	return ok && entry != "" && !strings.Contains(entry, ".")
}

// APIsOf returns the APIResources whose policy may have a name, none if it is no such name.
func APIsOf(name string) (apis []string) {
	api, ok := parse(name, "m2m.")
	if !ok {
		return nil
	}
	apis = append(apis, api)
	if of, ok := parse("m2m."+api, "m2m."); ok && IsObjectName(of, name) {
		apis = append(apis, of) // it is for a spare place
	}
	return apis
}

// KeysName returns the name of the ConfigMap with an entry's keys.
func KeysName(api, entry string) string { return keysPrefix + api + "." + entry }

const keysPrefix = "m2m-jwks."

// ParseKeysName returns the APIResource whose keys a ConfigMap of a name holds, and
// reports whether it is such a name.
func ParseKeysName(name string) (api string, ok bool) { return parse(name, keysPrefix) }

func parse(name, prefix string) (api string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	i := strings.LastIndexByte(rest, '.')
	if !ok || i <= 0 || i == len(rest)-1 {
		return "", false
	}
	return rest[:i], true
}

// NotEnforceable is the error for something that a gateway cannot check.
type NotEnforceable struct{ message string }

// Error implements error.
func (e *NotEnforceable) Error() string { return e.message }

func notEnforceable(format string, args ...any) error {
	return &NotEnforceable{fmt.Sprintf(format, args...)}
}

// Open returns the policy that permits what an entry says.
func Open(b render.Bundle, e Entry) (Policy, error) {
	if len(b.Named.Claims) > 0 {
		return Policy{}, notEnforceable("%s cannot check spec.verification.audience: it knows the claim aud only", e.Gateway.Name())
	}
	keys, err := render.EnvoyKeySet(b)
	if err != nil {
		return Policy{}, notEnforceable("%v", err)
	}
	rules := e.Rules
	if len(rules) == 0 {
		rules = []Rule{{}}
	}
	var p Policy
	if e.Gateway == EnvoyGateway {
		p.Objects, err = envoyGateway(b, e, rules, keys)
	} else {
		p.Objects, err = istio(b, e, rules, keys)
	}
	if err != nil {
		return Policy{}, err
	}
	p.Unchecked = unchecked(b, e)
	return p, nil
}

// Closed returns the policy that refuses every request.
func Closed(e Entry) Policy {
	if e.Gateway == EnvoyGateway {
		return Policy{Objects: []*unstructured.Unstructured{securityPolicy(e, map[string]any{
			"authorization": map[string]any{"defaultAction": "Deny"},
		})}}
	}
	// A policy with the action ALLOW and without rules allows nothing.
	return Policy{Objects: []*unstructured.Unstructured{istioObject(e, "AuthorizationPolicy", map[string]any{"action": "ALLOW"})}}
}

// unchecked returns what a gateway does not check although the API demands it.
func unchecked(b render.Bundle, e Entry) (list []string) {
	// Conditions on claims compare text, and exp is a number. A proxy checks it only where
	// a token has it.
	if e.Gateway == Istio {
		list = append(list, "that a token has an exp")
	}
	if b.TokenType != "" {
		list = append(list, fmt.Sprintf("the token type %s", b.TokenType))
	}
	if b.ClockSkewSeconds < envoySkewSeconds {
		list = append(list, fmt.Sprintf("the clock skew of %ds (%s allows %ds)", b.ClockSkewSeconds, e.Gateway.Name(), envoySkewSeconds))
	}
	return list
}

// envoySkewSeconds is the clock skew that Envoy allows where nothing else is configured.
const envoySkewSeconds = 60

// required lists the scopes that a rule requires, by the claim that carries them.
type required struct {
	scopes []string         // in scope or scp
	claims []claimWithScope // in another claim
}

type claimWithScope struct{ claim, scope string }

// requirements returns what a rule requires of a token's claims.
func requirements(b render.Bundle, r Rule) (req required, err error) {
	for _, name := range r.Scopes {
		i := slices.IndexFunc(b.Scopes, func(s render.Scope) bool { return s.Name == name })
		if i < 0 {
			return required{}, notEnforceable("scope %q is not in spec.scopes", name)
		}
		claims := b.Scopes[i].Claims
		switch {
		case len(claims) == 0:
			return required{}, notEnforceable("scope %q is in no claim of a token, so no gateway can require it", name)
		case slices.Contains(standardClaims, claims[0]):
			req.scopes = append(req.scopes, name)
		default:
			req.claims = append(req.claims, claimWithScope{claims[0], name})
		}
	}
	return req, nil
}

// standardClaims carry scopes unless the API says otherwise.
var standardClaims = []string{"scope", "scp"}

// object returns an object of an entry.
func object(e Entry, apiVersion, kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(e.Namespace)
	o.SetName(name)
	return o
}

// anys returns a list as JSON has it.
func anys[T any](list []T, f func(T) any) []any {
	out := make([]any, 0, len(list))
	for _, v := range list {
		out = append(out, f(v))
	}
	return out
}

func texts(list ...string) []any { return anys(list, func(s string) any { return s }) }
