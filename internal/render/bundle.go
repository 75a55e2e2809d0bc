// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The files of every verification bundle.
const (
	FileJWKS              = "jwks.json"
	FileIssuer            = "issuer"
	FileAudience          = "audience"
	FileVerification      = "verification.json"
	FileProtectedResource = "protected-resource.json"
	FileEnvoy             = "envoy-jwt-authn.yaml"
)

// fixedFiles are names that an extra file cannot have, even if the bundle lacks the
// file.
var fixedFiles = []string{FileJWKS, FileIssuer, FileAudience, FileVerification, FileProtectedResource, FileEnvoy}

const (
	// MaxScopes bounds the scopes of an API, and so the cost of a template's range.
	MaxScopes = 256

	// MaxKeys does the same for the keys. It is how many package jwks keeps.
	MaxKeys = 32

	// maxAlgorithms does the same for the algorithms: there are no more.
	maxAlgorithms = 10

	// maxNamedClaims and maxNamedValues do the same for how tokens name the API.
	maxNamedClaims = 2
	maxNamedValues = 64

	// maxScopeClaims does the same for the claims that carry scopes.
	maxScopeClaims = 72

	// MaxBundleTotal bounds the sum of all names and contents of a bundle, which is
	// in etcd once for each namespace that verifies. Only the files that every
	// verifier needs may exceed it, because their parts have bounds of their own.
	MaxBundleTotal = 512 << 10

	// maxConfigMapName is how long Kubernetes allows a ConfigMap's name to be.
	maxConfigMapName = 253
)

// Bundle holds what an API's pods must know to verify a token.
type Bundle struct {
	// Name and Namespace are the APIResource's.
	Name, Namespace string

	// Issuer must equal a token's iss, and its aud must contain Audience, exactly.
	// Both are required.
	Issuer, Audience string

	// Named is how tokens name the API if not by aud. The zero value means by aud.
	Named Named

	// JWKSURI is where the issuer publishes its keys, empty if unknown. It only
	// informs, because the bundle holds the keys.
	JWKSURI string

	// Algorithms is the allow-list of a token's alg, asymmetric ones only. Empty
	// means those of the keys, with RS256 for an RSA key that states none.
	Algorithms []string

	// Scopes are all scopes of the API, at most MaxScopes, in its own order.
	Scopes []Scope

	// ClockSkewSeconds is how wrong a verifier's clock may be, 0 or more.
	ClockSkewSeconds int

	// TokenType is the required typ of a token's header, such as "at+jwt" (RFC
	// 9068); empty allows any.
	TokenType string

	// Keys are the issuer's public keys. Without any, no token verifies.
	Keys []Key

	// Formats are files that only some verifiers need.
	Formats Formats `json:"Formats,omitzero"`
}

// Named is how tokens name an API. The first of Claims that a token has must be one
// of Values or a list with one of them, exactly; or, with Prefix, have a word that
// begins with it. There are at most maxNamedClaims Claims and maxNamedValues
// Values.
type Named struct {
	Claims []string `json:"claims"`
	Values []string `json:"values,omitempty"`
	Prefix string   `json:"prefix,omitempty"`
}

func (n Named) byAud() bool { return len(n.Claims) == 0 }

// LeftOut returns the names of the files that a bundle lacks because they could not
// check how tokens name the API: Envoy's filter knows aud only.
func (b Bundle) LeftOut() []string {
	if b.Named.byAud() {
		return nil
	}
	return []string{FileEnvoy}
}

// Closed returns the names of the files that refuse every request because they could
// not check how tokens name the API. Unlike a file that is left out, they replace
// what a gateway read before.
func (b Bundle) Closed() (names []string) {
	if b.Named.byAud() {
		return nil
	}
	return slices.Sorted(maps.Keys(b.envoyFiles(nil)))
}

// Scope is a scope of an API.
type Scope struct {
	Name, Description string
	// Claims are the claims that may carry the scope. The first of them that a
	// token has counts. If there are none, tokens do not carry the scope.
	Claims []string
}

// Key is a public key of the issuer.
type Key struct {
	// ID is the JWK's kid, empty if it has none.
	ID string
	// Algorithm is the alg that the key signs with, empty if it states none.
	Algorithm string
	// JWK is the key in JSON (RFC 7517). The bundle omits members that a verifier
	// does not need. A private or symmetric key is an error.
	JWK string
	// Retired means that the issuer no longer publishes the key. It comes after
	// published keys of the same ID, because many verifiers take the first.
	Retired bool
}

// Verification renders the files of a verification bundle by name, and the
// extra files (name to template) that the API's owner adds:
//
//   - jwks.json: the issuer's keys (RFC 7517 section 5).
//   - issuer, audience: the plain values, without a line break at the end, so
//     that reading the file and a shell's $(cat ...) agree.
//   - verification.json: everything a verifier must check; its form is
//     verification.schema.json.
//   - protected-resource.json: RFC 9728 metadata that the API can publish; only
//     where the audience is an http or https URI without fragment.
//   - envoy-jwt-authn.yaml: Envoy's envoy.filters.http.jwt_authn filter with
//     the keys inline; only where tokens name the API by aud.
//   - the files that Formats asks for.
//
// A template sees .Name, .Namespace, .Issuer, .Audience, .JWKS (the content of
// jwks.json), .JWKSURI, .Algorithms (list), .Scopes (list of names), .ScopeClaims
// (list of all claims that carry one), .ClockSkewSeconds (whole number),
// .TokenType, .Keys (list), each with .ID, .Type (RSA, EC or OKP), .Algorithm,
// .JWK, .PEM and .Thumbprint, and, if tokens do not name the API by aud,
// .AudienceClaims and .AudienceValues (lists) and .AudiencePrefix. It has at most 4
// KiB and the functions base64, json, quote, join, indent, and, or, not, eq, ne,
// len and index. Its errors give line and column and say what to change. An
// asterisk in the name of an extra file renders it for each key: .Key is the key,
// and its thumbprint replaces the asterisk. An empty result is no file.
//
// The same bundle gives the same bytes, whatever the order of its keys and
// algorithms. Verification leaves out what it cannot render, because a revoked key
// must leave jwks.json whatever else is wrong: a key that is not public, and an
// extra file (or a ready-made one for a gateway) that fails or makes the files
// larger than MaxBundleTotal. Then it returns an *Incomplete beside the files. It
// returns no files if issuer, audience, algorithms, clock skew or scopes cannot be
// asserted, because verifiers would check less than they should.
func Verification(b Bundle, extra map[string]string) (map[string]string, error) {
	keys, problems := parseKeys(b.Keys)
	left := &Incomplete{problems: problems}
	var err error
	if b.Algorithms, err = allowList(b.Algorithms, keys); err != nil {
		return nil, err
	}
	if err := b.validate(); err != nil {
		return nil, err
	}

	files := map[string]string{
		FileJWKS:         keySet(apply(keys, publicKey.json)),
		FileIssuer:       b.Issuer,
		FileAudience:     b.Audience,
		FileVerification: document(b.verification()),
	}
	size := 0
	for name, content := range files {
		size += len(name) + len(content)
	}
	add := func(name, content string, err error) {
		if former, ok := files[name]; ok && err == nil {
			if former == content {
				return
			}
			err = fmt.Errorf("file %q: two files have this name", name)
		}
		if total := size + len(name) + len(content); err == nil && total > MaxBundleTotal {
			err = fmt.Errorf("file %q: with it the bundle would hold %d bytes, more than %d", name, total, MaxBundleTotal)
		}
		if err != nil {
			left.Files = append(left.Files, name)
			left.problems = append(left.problems, err)
			return
		}
		files[name] = content
		size += len(name) + len(content)
	}
	if isWebURI(b.Audience) {
		add(FileProtectedResource, document(b.protectedResource()), nil)
	}
	if b.Named.byAud() {
		filter, err := b.envoy(keys)
		add(FileEnvoy, filter, err)
	}
	b.formats(keys, add)
	if len(extra) > 0 {
		data := b.data(files[FileJWKS], keys)
		for _, name := range slices.Sorted(maps.Keys(extra)) {
			extraFile(name, extra[name], data, add)
		}
	}
	if len(left.problems) > 0 {
		return files, left
	}
	return files, nil
}

// Incomplete is the error of a bundle from which something is missing.
type Incomplete struct {
	Files    []string // the names of the missing files
	problems []error
}

// maxTold bounds the message of an Incomplete, in bytes.
const maxTold = 800

// Error returns the first problems.
func (e *Incomplete) Error() string {
	told := e.problems[0].Error()
	for i, p := range e.problems[1:] {
		if next := "; " + p.Error(); len(told)+len(next) <= maxTold {
			told += next
			continue
		}
		told += fmt.Sprintf("; and %d more", len(e.problems)-1-i)
		break
	}
	return told
}

// allowList returns the sorted, explicit list of algorithms. It is never nil,
// because a verifier might read a missing list as "any".
func allowList(stated []string, keys []publicKey) ([]string, error) {
	known := slices.Concat(slices.Collect(maps.Values(algorithmsOf))...)
	for _, alg := range stated {
		if !slices.Contains(known, alg) {
			return nil, fmt.Errorf("algorithm %.20q is not one of %s", alg, quoted(known))
		}
	}
	list := append([]string{}, stated...)
	if len(list) == 0 {
		list = append(list, apply(keys, publicKey.algorithm)...)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// validate refuses a bundle that would make a verifier check less than it should.
func (b Bundle) validate() error {
	for _, v := range []struct{ name, value string }{{"issuer", b.Issuer}, {"audience", b.Audience}} {
		if v.value == "" {
			return fmt.Errorf("the %s must not be empty", v.name)
		}
		if !utf8.ValidString(v.value) || strings.ContainsFunc(v.value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("the %s must consist of printable characters", v.name)
		}
	}
	if err := b.Named.validate(); err != nil {
		return err
	}
	if b.ClockSkewSeconds < 0 {
		return errors.New("the clock skew must not be negative")
	}
	if len(b.Scopes) > MaxScopes {
		return fmt.Errorf("the API has %d scopes, more than %d", len(b.Scopes), MaxScopes)
	}
	if n := len(b.scopeClaims()); n > maxScopeClaims {
		return fmt.Errorf("the API's scopes are in %d claims, more than %d", n, maxScopeClaims)
	}
	return nil
}

// validate refuses a condition that every token meets, or none.
func (n Named) validate() error {
	if n.byAud() && len(n.Values) == 0 && n.Prefix == "" {
		return nil
	}
	if n.byAud() || (len(n.Values) == 0) == (n.Prefix == "") || slices.Contains(n.Claims, "") || slices.Contains(n.Values, "") {
		return errors.New("tokens must name the API by claims, with either values or a prefix")
	}
	if len(n.Claims) > maxNamedClaims || len(n.Values) > maxNamedValues {
		return fmt.Errorf("tokens name the API by more than %d claims or %d values", maxNamedClaims, maxNamedValues)
	}
	return nil
}

// verification is the content of verification.json. verification.schema.json
// promises its form to users.
type verification struct {
	APIResource struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"apiResource"`
	Issuer            string              `json:"issuer"`
	Audience          string              `json:"audience"`
	AudienceIn        *Named              `json:"audienceIn,omitempty"`
	Algorithms        []string            `json:"algorithms"`
	Scopes            []verificationScope `json:"scopes"`
	ClockSkewSeconds  int                 `json:"clockSkewSeconds"`
	TokenType         string              `json:"tokenType,omitempty"`
	JWKSURI           string              `json:"jwksUri,omitempty"`
	RequireExpiration bool                `json:"requireExpiration"`
}

type verificationScope struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Claims      []string `json:"claims"`
}

func (b Bundle) verification() verification {
	v := verification{
		Issuer: b.Issuer, Audience: b.Audience, Algorithms: b.Algorithms, Scopes: []verificationScope{},
		ClockSkewSeconds: b.ClockSkewSeconds, TokenType: b.TokenType, JWKSURI: b.JWKSURI, RequireExpiration: true,
	}
	v.APIResource.Namespace, v.APIResource.Name = b.Namespace, b.Name
	if !b.Named.byAud() {
		v.AudienceIn = &b.Named
	}
	for _, s := range b.Scopes {
		v.Scopes = append(v.Scopes, verificationScope{s.Name, s.Description, append([]string{}, s.Claims...)})
	}
	return v
}

// protectedResource is OAuth 2.0 protected resource metadata, RFC 9728 section 2.
// jwks_uri is absent, because it would name the keys of the resource itself, not
// those of the issuer.
type protectedResource struct {
	Resource               string   `json:"resource"`
	AuthorizationServers   []string `json:"authorization_servers"`
	ScopesSupported        []string `json:"scopes_supported,omitempty"`
	BearerMethodsSupported []string `json:"bearer_methods_supported"`
	ResourceName           string   `json:"resource_name"`
}

func (b Bundle) protectedResource() protectedResource {
	return protectedResource{
		Resource: b.Audience, AuthorizationServers: []string{b.Issuer}, ScopesSupported: b.scopeNames(),
		BearerMethodsSupported: []string{"header"}, ResourceName: b.Name,
	}
}

// isWebURI reports whether an audience can be a resource identifier of RFC 9728
// section 1.2, with http allowed for development.
func isWebURI(audience string) bool {
	u, err := url.Parse(audience)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && !strings.Contains(audience, "#")
}

func (b Bundle) scopeNames() []string {
	return apply(b.Scopes, func(s Scope) string { return s.Name })
}

// scopeClaims adds all claims that carry a scope to a list, each once, in the order
// of their first appearance.
func (b Bundle) scopeClaims(claims ...string) []string {
	for _, s := range b.Scopes {
		for _, c := range s.Claims {
			if !slices.Contains(claims, c) {
				claims = append(claims, c)
			}
		}
	}
	return claims
}

// data is what templates of a bundle see.
func (b Bundle) data(jwks string, keys []publicKey) map[string]any {
	return map[string]any{
		fieldKeys: apply(keys, publicKey.data),
		"Name":    b.Name, "Namespace": b.Namespace, "Issuer": b.Issuer, "Audience": b.Audience,
		"JWKS": jwks, "JWKSURI": b.JWKSURI, "Algorithms": b.Algorithms, "Scopes": b.scopeNames(), "ScopeClaims": b.scopeClaims(),
		"AudienceClaims": append([]string{}, b.Named.Claims...), "AudienceValues": append([]string{}, b.Named.Values...), "AudiencePrefix": b.Named.Prefix,
		"ClockSkewSeconds": b.ClockSkewSeconds, "TokenType": b.TokenType,
	}
}

// ConfigMapName returns the name of the ConfigMap that holds the bundle of an
// APIResource, in any namespace: m2m-verify.<namespace>.<name>. No two APIResources
// share a name, since a namespace has no dot. In a name that would be too long, a
// hash of all of it replaces the end.
func ConfigMapName(namespace, name string) string {
	full := configMapPrefix + namespace + "." + name
	if len(full) <= maxConfigMapName {
		return full
	}
	sum := sha256.Sum256([]byte(full))
	hash := hex.EncodeToString(sum[:16])
	return strings.TrimRight(full[:maxConfigMapName-1-len(hash)], "-.") + "-" + hash
}

// KeyIDs returns the key ids of a bundle, sorted, each once.
func KeyIDs(b Bundle) []string {
	ids := apply(b.Keys, func(k Key) string { return k.ID })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}

// document returns indented JSON with a line break at the end.
func document(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		panic(err) // structs of strings always encode
	}
	return b.String()
}

// apply maps a list. The result is never nil.
func apply[T, U any](list []T, f func(T) U) []U {
	out := make([]U, 0, len(list))
	for _, v := range list {
		out = append(out, f(v))
	}
	return out
}
