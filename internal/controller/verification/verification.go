// SPDX-License-Identifier: Apache-2.0

// Package verification derives what an API must check of its tokens from the
// APIResource and its server. Package bundle hands that to the API's pods, and
// package m2mclient checks tokens against it, so both apply the same rules. The
// package also remembers rendered bundles, and which bundles the API server
// refuses. It writes no object.
package verification

import (
	"encoding/json"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// DefaultClockSkewSeconds is how far the clocks of issuer and API may differ where the
// spec does not say.
const DefaultClockSkewSeconds = 30

// InvalidBundleMetadata returns the problem with a label or annotation that the spec sets on
// bundles, nil if there is none.
func InvalidBundleMetadata(api *v1alpha1.APIResource) *rules.Problem {
	return write.InvalidMetadata(field.NewPath("spec", "bundle"), api.Spec.Bundle.Labels, api.Spec.Bundle.Annotations)
}

// BundleOf returns what an APIResource's bundle contains.
func BundleOf(api *v1alpha1.APIResource, srv *rules.Server) render.Bundle {
	v := api.Spec.Verification
	b := render.Bundle{
		Name: api.Name, Namespace: api.Namespace,
		Issuer: srv.Spec.Issuer, Audience: string(api.Spec.Identifier), JWKSURI: string(srv.Status.Endpoints.JWKS),
		Named:            render.Named(Named(v.Audience)),
		ClockSkewSeconds: clockSkewSeconds(v), TokenType: v.TokenType,
	}
	for _, a := range v.Algorithms {
		b.Algorithms = append(b.Algorithms, string(a))
	}
	for _, s := range api.Spec.Scopes {
		b.Scopes = append(b.Scopes, render.Scope{Name: string(s.Name), Description: s.Description, Claims: Carriers(string(s.Name), s.CarriedIn, s.Claim)})
	}
	for _, f := range v.Formats {
		b.Formats.Names = append(b.Formats.Names, string(f))
		if f == v1alpha1.FormatOpenIDConfiguration {
			b.Formats.Directory = v1alpha1.VerifyDir + "/" + api.Name
		}
	}
	for i := range api.Spec.Enforcement {
		if e := &api.Spec.Enforcement[i]; e.Envoy != nil {
			b.Formats.Requests = append(b.Formats.Requests, render.Requests{Name: string(e.Name), Rules: RulesOf(e)})
		}
	}
	for _, k := range record.TrustedRecords(srv) {
		b.Keys = append(b.Keys, render.Key{ID: k.ID, Algorithm: k.Algorithm, JWK: k.JWK, Retired: !k.RetiredAt.IsZero()})
	}
	return b
}

// RulesOf turns the rules of an entry of spec.enforcement into those of package render.
func RulesOf(e *v1alpha1.Enforcement) (rules []render.Rule) {
	for _, rule := range e.Rules {
		var to render.Rule
		for _, m := range rule.Methods {
			to.Methods = append(to.Methods, string(m))
		}
		for _, p := range rule.Paths {
			to.Paths = append(to.Paths, render.Path{Value: p.Value, Prefix: p.Type == v1alpha1.PathPrefix})
		}
		for _, s := range rule.Scopes {
			to.Scopes = append(to.Scopes, string(s))
		}
		rules = append(rules, to)
	}
	return rules
}

// EnforcedContents returns the contents of an entry of spec.enforcement: the keys, and as
// terms all else that its gateway is told.
func EnforcedContents(api *v1alpha1.APIResource, srv *rules.Server, e *v1alpha1.Enforcement) render.Contents {
	checked := *e
	checked.Drain, checked.EnvoyGateway.SpareTargetRefs = "", nil // they decide when, not what
	encoded, err := json.Marshal(&checked)
	if err != nil {
		panic(err) // strings only
	}
	return render.ContentsOf(BundleOf(api, srv), map[string]string{"": string(encoded)})
}

// DrainOf returns how long the gateway of an entry keeps connections to which a change of
// the keys does not apply.
func DrainOf(e *v1alpha1.Enforcement) time.Duration {
	if GatewayOf(e) == enforcement.Istio {
		return e.Drain.Or(45 * time.Second)
	}
	return e.Drain.Or(time.Minute)
}

// GatewayOf returns the gateway of an entry, "" for an Envoy that reads files.
func GatewayOf(e *v1alpha1.Enforcement) enforcement.Gateway {
	switch {
	case len(e.EnvoyGateway.TargetRefs) > 0:
		return enforcement.EnvoyGateway
	case e.Envoy == nil:
		return enforcement.Istio
	}
	return ""
}

func clockSkewSeconds(v v1alpha1.Verification) int {
	return int(v.ClockSkew.Or(DefaultClockSkewSeconds * 1e9).Seconds())
}

// ExtraFiles returns the templates of the files that an API's owner adds to the bundle, by
// file name.
func ExtraFiles(api *v1alpha1.APIResource) map[string]string {
	files := make(map[string]string, len(api.Spec.Verification.Files))
	for _, f := range api.Spec.Verification.Files {
		files[f.Name] = f.Template
	}
	return files
}

// ExpectationOf returns what an API must check of tokens, without the time and the scopes.
func ExpectationOf(api *v1alpha1.APIResource, srv *rules.Server) jwks.Expectation {
	v := api.Spec.Verification
	e := jwks.Expectation{
		Issuer: srv.Spec.Issuer, Audience: string(api.Spec.Identifier), Named: Named(v.Audience), Type: v.TokenType,
		Skew: time.Duration(clockSkewSeconds(v)) * time.Second,
	}
	for _, alg := range v.Algorithms {
		e.Algorithms = append(e.Algorithms, string(alg))
	}
	return e
}

// Terms returns a hash of what an API must check of tokens: the expectation, and where to
// find scopes that are in an unusual place.
func Terms(api *v1alpha1.APIResource, srv *rules.Server) string {
	terms := ExpectationTerms(ExpectationOf(api, srv))
	for _, s := range api.Spec.Scopes {
		if s.CarriedIn != "" {
			terms += "\n" + string(s.Name) + " " + string(s.CarriedIn) + " " + string(s.Claim)
		}
	}
	return refresh.HashValue(terms)
}

// ExpectationTerms returns a hash of an expectation.
func ExpectationTerms(e jwks.Expectation) string {
	encoded, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings, numbers and times only
	}
	return refresh.HashValue(string(encoded))
}

// Carriers returns the claims that may carry a scope; the first of them that a token has
// must contain it. If the spec does not say, a scope that ends in "/.default" is in no
// claim: Entra's "<API>/.default" requests whatever the application was granted.
func Carriers(scope string, in v1alpha1.ScopeCarrier, claim v1alpha1.ClaimName) []string {
	switch {
	case in == v1alpha1.CarriedInOtherClaim:
		return []string{string(claim)}
	case in == v1alpha1.CarriedNowhere, in == "" && strings.HasSuffix(scope, "/.default"):
		return nil
	}
	return jwks.ScopeClaims()
}

// Named returns how tokens name an API other than by aud.
func Named(by v1alpha1.TokenAudience) (n jwks.Named) {
	switch {
	case by.Claim != "":
		n.Claims = []string{string(by.Claim)}
	case by.ScopePrefix != "":
		n.Claims = jwks.ScopeClaims()
	}
	for _, v := range by.Values {
		n.Values = append(n.Values, string(v))
	}
	n.Prefix = string(by.ScopePrefix)
	return n
}
