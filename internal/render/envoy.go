// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"
)

const (
	// envoyJWTFilter is the filter that verifies tokens, and whose metadata has
	// what it found in them.
	envoyJWTFilter = "envoy.filters.http.jwt_authn"

	// envoyExtensions begins the type of every HTTP filter's configuration.
	envoyExtensions = "type.googleapis.com/envoy.extensions.filters.http."

	// envoyPayload and envoyHeaders are the metadata with a token's claims and
	// header.
	envoyPayload = "jwt_payload"
	envoyHeaders = "jwt_header"
)

// envoyFilter is an entry of Envoy's http_filters, as of
// envoy.extensions.filters.http.jwt_authn.v3. It is built as a structure and then
// encoded, so that no value can break out into the configuration around it.
type envoyFilter struct {
	Name        string            `json:"name"`
	TypedConfig envoyTypedJWTAuth `json:"typed_config"`
}

type envoyTypedJWTAuth struct {
	Type      string                   `json:"@type"`
	Providers map[string]envoyProvider `json:"providers"`
	Rules     []envoyRule              `json:"rules"`
}

type envoyProvider struct {
	Issuer            string          `json:"issuer"`
	Audiences         []string        `json:"audiences"`
	RequireExpiration bool            `json:"require_expiration"`
	ClockSkewSeconds  int             `json:"clock_skew_seconds"`
	LocalJWKS         envoyInline     `json:"local_jwks"`
	FromHeaders       []envoyHeader   `json:"from_headers"`
	Forward           bool            `json:"forward"`
	PayloadInMetadata string          `json:"payload_in_metadata"`
	HeaderInMetadata  string          `json:"header_in_metadata,omitempty"`
	Normalize         envoyNormalized `json:"normalize_payload_in_metadata"`
}

type envoyInline struct {
	InlineString string `json:"inline_string"`
}

type envoyHeader struct {
	Name        string `json:"name"`
	ValuePrefix string `json:"value_prefix"`
}

type envoyNormalized struct {
	SpaceDelimitedClaims []string `json:"space_delimited_claims"`
}

type envoyRule struct {
	Match struct {
		Prefix string `json:"prefix"`
	} `json:"match"`
	Requires struct {
		ProviderName string `json:"provider_name"`
	} `json:"requires"`
}

// envoy returns the content of envoy-jwt-authn.yaml.
func (b Bundle) envoy(keys []publicKey) (string, error) {
	out, err := yaml.Marshal(envoyFilter{Name: envoyJWTFilter, TypedConfig: b.envoyJWT(keys)})
	if err != nil {
		return "", fmt.Errorf("encode the Envoy filter: %w", err)
	}
	return string(out), nil
}

// envoyJWT returns the configuration of the filter. Every request needs a token, in
// the Authorization header only (RFC 6750 section 2.1; by default Envoy also takes
// one from the URL). The API decides which scope a request needs: Envoy forwards
// the token to it, and puts the payload into the filter's metadata, where an RBAC
// filter finds the scopes as a list.
func (b Bundle) envoyJWT(keys []publicKey) envoyTypedJWTAuth {
	provider := b.Namespace + "/" + b.Name
	var rule envoyRule
	rule.Match.Prefix = "/"
	rule.Requires.ProviderName = provider
	return envoyTypedJWTAuth{
		Type: envoyExtensions + "jwt_authn.v3.JwtAuthentication",
		Providers: map[string]envoyProvider{provider: {
			Issuer:            b.Issuer,
			Audiences:         []string{b.Audience},
			RequireExpiration: true,
			// Envoy reads 0 as its default of a minute.
			ClockSkewSeconds:  max(b.ClockSkewSeconds, 1),
			LocalJWKS:         envoyInline{keySet(b.envoyKeys(keys))},
			FromHeaders:       []envoyHeader{{Name: "Authorization", ValuePrefix: "Bearer "}},
			Forward:           true,
			PayloadInMetadata: envoyPayload,
			Normalize:         envoyNormalized{SpaceDelimitedClaims: b.scopeClaims("scope", "scp")},
		}},
		Rules: []envoyRule{rule},
	}
}

// envoyKeys enforces the allow-list of algorithms, for which Envoy has no setting:
// it accepts the algorithm that a key states, and any that fits if the key states
// none. So the list has each key once for each algorithm that both the key and the
// allow-list know. If there is none, it has unownedKey.
func (b Bundle) envoyKeys(keys []publicKey) (list []json.RawMessage) {
	for _, k := range keys {
		for _, alg := range k.algorithms {
			if slices.Contains(b.Algorithms, alg) {
				list = append(list, k.withAlgorithm(alg))
			}
		}
	}
	if len(list) == 0 {
		return []json.RawMessage{json.RawMessage(unownedKey)}
	}
	return list
}

// unownedKey is a key that signs nothing. Envoy refuses a set without keys and goes
// on with the keys that it had, so that withdrawn ones would stay. The point's x is
// the first SHA-256 of a text and a number that is on the curve, so nobody knows
// its private key.
const unownedKey = `{"alg":"ES256","crv":"P-256","kid":"nobody","kty":"EC","use":"sig","x":"1bdNaLHNnE9zaG76FEiJVTAcvEZY05w9x1W37g29oxs","y":"IHTH_1cgBbAA9VvrRneQA49i8obxiXA7dyQsFxbKIYI"}`

// EnvoyKeySet returns a bundle's keys as a JWK Set for verifiers that are built on
// Envoy, each key once for each algorithm that it may be used with. An Envoy thus
// accepts no other algorithm. If no key remains, the set has one that signs nothing.
// It fails where Verification does: a verifier would check less than it should.
func EnvoyKeySet(b Bundle) (string, error) {
	keys, _ := parseKeys(b.Keys)
	var err error
	if b.Algorithms, err = allowList(b.Algorithms, keys); err != nil {
		return "", err
	}
	if err := b.validate(); err != nil {
		return "", err
	}
	return keySet(b.envoyKeys(keys)), nil
}
