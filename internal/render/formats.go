// SPDX-License-Identifier: Apache-2.0

package render

import (
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The formats that a bundle can have beside the files of every bundle.
const (
	FormatPEM                 = "PEM"
	FormatPEMPerKey           = "PEMPerKey"
	FormatJWKPerKey           = "JWKPerKey"
	FormatOpenIDConfiguration = "OpenIDConfiguration"
	FormatEnvoy               = "Envoy"
)

// The files of the formats. An asterisk stands for the thumbprint of a key.
const (
	FilePEM                 = "keys.pem"
	FilePEMPerKey           = "key-*.pem"
	FileJWKPerKey           = "key-*.jwk"
	FileOpenIDConfiguration = "openid-configuration.json"
	FileEnvoyJWT            = "envoy-ecds-jwt-authn.yaml"
	FileEnvoyRBAC           = "envoy-ecds-rbac.yaml"
)

// Formats are files that only some verifiers need. Most bundles have none of them,
// so that ConfigMaps stay small. The zero value asks for none.
type Formats struct {
	// Names are the requested formats.
	Names []string `json:"names,omitempty"`

	// Directory is where a pod finds the bundle, for FormatOpenIDConfiguration.
	Directory string `json:"directory,omitempty"`

	// Requests are what the filters of plain Envoys allow, each in a file of its
	// own.
	Requests []Requests `json:"requests,omitempty"`
}

// Requests are the requests that one of the API's gateways allows.
type Requests struct {
	// Name tells the gateway from others of the API.
	Name string `json:"name"`

	// Rules allow requests: one of them suffices. If there are none, every valid
	// token passes.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule allows requests.
type Rule struct {
	// Methods are the HTTP methods that the rule is for. If there are none, all.
	Methods []string `json:"methods,omitempty"`

	// Paths are the paths that the rule is for. If there are none, all.
	Paths []Path `json:"paths,omitempty"`

	// Scopes are the scopes of the API that the token must carry, all of them.
	Scopes []string `json:"scopes,omitempty"`
}

// Path is a path of a URL without its query.
type Path struct {
	// Value begins with a slash.
	Value string `json:"value"`

	// Prefix means that Value also stands for what is below it: /v1 for /v1/a but
	// not for /v10.
	Prefix bool `json:"prefix,omitempty"`
}

// formats passes each file that Formats asks for to add.
func (b Bundle) formats(keys []publicKey, add func(name, content string, err error)) {
	usable := slices.DeleteFunc(slices.Clone(keys), func(k publicKey) bool {
		return !slices.ContainsFunc(k.algorithms, func(alg string) bool { return slices.Contains(b.Algorithms, alg) })
	})
	if b.asksFor(FormatPEM) {
		add(FilePEM, strings.Join(slices.Compact(apply(usable, publicKey.pem)), ""), nil)
	}
	for _, f := range []struct {
		format, file string
		content      func(publicKey) string
	}{
		{FormatPEMPerKey, FilePEMPerKey, publicKey.pem},
		{FormatJWKPerKey, FileJWKPerKey, func(k publicKey) string { return string(k.json()) + "\n" }},
	} {
		if !b.asksFor(f.format) {
			continue
		}
		for _, k := range usable {
			if content := f.content(k); content != "" {
				add(fileOf(f.file, k.thumbprint()), content, nil)
			}
		}
	}
	if b.asksFor(FormatOpenIDConfiguration) {
		add(FileOpenIDConfiguration, document(b.openIDConfiguration()), nil)
	}
	files := b.envoyFiles(keys)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := yaml.Marshal(files[name])
		add(name, string(content), err)
	}
}

func (b Bundle) asksFor(format string) bool { return slices.Contains(b.Formats.Names, format) }

// openIDConfiguration is an OpenID Connect Discovery 1.0 document with the members
// that a verifier reads. Those that only clients need are absent.
type openIDConfiguration struct {
	Issuer                           string   `json:"issuer"`
	JWKSURI                          string   `json:"jwks_uri"`
	ResponseTypesSupported           []string `json:"response_types_supported"`
	SubjectTypesSupported            []string `json:"subject_types_supported"`
	IDTokenSigningAlgValuesSupported []string `json:"id_token_signing_alg_values_supported"`
}

func (b Bundle) openIDConfiguration() openIDConfiguration {
	file := url.URL{Scheme: "file", Path: path.Join("/", b.Formats.Directory, FileJWKS)}
	return openIDConfiguration{
		Issuer: b.Issuer, JWKSURI: file.String(), ResponseTypesSupported: []string{}, SubjectTypesSupported: []string{"public"},
		IDTokenSigningAlgValuesSupported: b.Algorithms,
	}
}
