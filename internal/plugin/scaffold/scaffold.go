// SPDX-License-Identifier: Apache-2.0

// Package scaffold writes the first objects of somebody who has an authorization server and no
// object yet: commented YAML of a server, an API and a client, from what the server's metadata
// says. It is pure: the metadata is an argument. What it guesses, it says in a comment.
package scaffold

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// Wanted is what the objects are for.
type Wanted struct {
	Issuer    string
	Namespace string
	Server    string // the name of the AuthorizationServer

	API        string // the name of the APIResource
	Identifier string
	Scopes     []string

	Client string // the name of the M2MClient
	CA     string // PEM certificates that the server's chain to, "" for the public ones
}

// Metadata is what a server says of itself. An empty list means that it does not say.
type Metadata struct {
	TokenEndpoint, JWKS, Registration string
	AuthenticationMethods, GrantTypes []string
	Keys                              int // usable signing keys
}

// Guess is something that no metadata says, and why it is assumed.
type Guess struct{ Value, Why string }

// vendors are servers that are known by their addresses, and how they name an API in a token
// request.
var vendors = []struct {
	name, parameter string
	why             string
	is              func(issuer *url.URL, m Metadata) bool
}{
	{"Logto", "Resource", "Logto knows APIs by RFC 8707", isLogto},
	{"Auth0", "Audience", "Auth0 takes audience=", func(u *url.URL, _ Metadata) bool { return strings.HasSuffix(u.Hostname(), ".auth0.com") }},
	{"Keycloak", "None", "Keycloak names APIs by client scopes with an audience mapper", func(u *url.URL, _ Metadata) bool { return strings.Contains(u.Path, "/realms/") }},
	{"Microsoft Entra", "None", "Entra names APIs by a scope such as api://…/.default", func(u *url.URL, _ Metadata) bool {
		return u.Hostname() == "login.microsoftonline.com" || u.Hostname() == "sts.windows.net"
	}},
	{"Amazon Cognito", "None", "Cognito names APIs by scopes, and its tokens have no aud: set spec.verification.audience of the APIResource", func(u *url.URL, _ Metadata) bool {
		return strings.HasPrefix(u.Hostname(), "cognito-idp.")
	}},
	{"Okta", "None", "an authorization server of Okta has one audience for all APIs", func(u *url.URL, _ Metadata) bool {
		return strings.HasSuffix(u.Hostname(), ".okta.com") || strings.HasSuffix(u.Hostname(), ".oktapreview.com")
	}},
	{"Ory Hydra", "Audience", "Hydra takes audience=, which each client's whitelist must have", func(_ *url.URL, m Metadata) bool {
		return strings.HasSuffix(m.TokenEndpoint, "/oauth2/token") && strings.HasSuffix(m.JWKS, "/.well-known/jwks.json")
	}},
}

// isLogto knows Logto by where it has its endpoints.
func isLogto(issuer *url.URL, m Metadata) bool {
	base := strings.TrimSuffix(issuer.String(), "/")
	return strings.HasSuffix(issuer.Path, "/oidc") && m.TokenEndpoint == base+"/token" && m.JWKS == base+"/jwks"
}

// Vendor returns the server's product by its addresses, "" if it is not known, and how a token
// request names the API there.
func Vendor(issuer string, m Metadata) (vendor string, parameter Guess) {
	if u, err := url.Parse(issuer); err == nil {
		for _, v := range vendors {
			if v.is(u, m) {
				return v.name, Guess{v.parameter, "It looks like " + v.name + ": " + v.why}
			}
		}
	}
	return "", Guess{"Resource", "The standard, RFC 8707. Auth0 and Hydra need Audience; Entra and Keycloak need None"}
}

// Method returns how a client proves who it is: Basic, Post or PrivateKey.
func Method(m Metadata) Guess {
	has := func(name string) bool { return slices.Contains(m.AuthenticationMethods, name) }
	switch {
	case len(m.AuthenticationMethods) == 0:
		return Guess{"Basic", "The server does not say how clients authenticate; this is the default of RFC 8414"}
	case has("client_secret_basic"):
		return Guess{"Basic", "The server supports it"}
	case has("client_secret_post"):
		return Guess{"Post", "The server supports it, and not Basic"}
	case has("private_key_jwt"):
		return Guess{"PrivateKey", "The server takes no client secrets"}
	}
	return Guess{"Basic", "The server lists no method that the operator knows: " + strings.Join(m.AuthenticationMethods, ", ")}
}

// Warnings say what will not work with a server.
func Warnings(m Metadata) (all []string) {
	if len(m.GrantTypes) > 0 && !slices.Contains(m.GrantTypes, "client_credentials") {
		all = append(all, "the server's metadata does not list the grant type client_credentials, without which no client gets a token")
	}
	if m.TokenEndpoint == "" {
		all = append(all, "the server's metadata names no token endpoint; set spec.endpoints.token of the AuthorizationServer")
	}
	switch {
	case m.JWKS == "":
		all = append(all, "the server's metadata names no JWKS; set spec.endpoints.jwks of the AuthorizationServer, or spec.tokenFormat to Opaque if its tokens are not JWTs")
	case m.Keys == 0:
		all = append(all, "the server publishes no signing key that can be used")
	}
	return all
}

// notInNames are the characters that no name of an object has.
var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// NameOf returns a name for the APIResource with an identifier.
func NameOf(identifier string) string {
	name := identifier
	if u, err := url.Parse(identifier); err == nil && u.Hostname() != "" {
		name, _, _ = strings.Cut(u.Hostname(), ".")
	}
	name = strings.Trim(notInNames.ReplaceAllString(strings.ToLower(name), "-"), "-")
	name = strings.TrimSuffix(name, "-api")
	if name == "" || name == "api" || len(name) > 50 {
		return "my-api"
	}
	return name + "-api"
}

//go:embed objects.yaml.tmpl
var text string

var objects = template.Must(template.New("").Funcs(template.FuncMap{
	"q": quoted, "indent": func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") },
	"list": func(all []string) string {
		var b []string
		for _, s := range all {
			b = append(b, quoted(s))
		}
		return strings.Join(b, ", ")
	},
}).Parse(text))

// quoted returns a string as YAML has it between double quotes.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

// YAML returns the objects.
func YAML(w Wanted, m Metadata) ([]byte, error) {
	vendor, parameter := Vendor(w.Issuer, m)
	data := struct {
		Wanted
		Metadata  Metadata
		Vendor    string
		Parameter Guess
		Method    Guess
		Warnings  []string
		Logto     string // its address, if it is Logto
	}{Wanted: w, Metadata: m, Vendor: vendor, Parameter: parameter, Method: Method(m), Warnings: Warnings(m)}
	if vendor == "Logto" {
		data.Logto = strings.TrimSuffix(strings.TrimSuffix(w.Issuer, "/"), "/oidc")
	}
	var b bytes.Buffer
	if err := objects.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("write the objects: %w", err)
	}
	return b.Bytes(), nil
}
