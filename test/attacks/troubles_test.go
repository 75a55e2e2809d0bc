// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// trouble is something that an authorization server does wrong at one of its endpoints.
type trouble struct {
	at    oidc.Endpoint
	fault oidc.Fault
}

func status(code int, header ...string) oidc.Fault {
	f := oidc.Fault{Status: code, Body: `{"error":"temporarily_unavailable"}`}
	if len(header) == 2 {
		f.Header = http.Header{header[0]: {header[1]}}
	}
	return f
}

func refusal(code int, kind string) oidc.Fault {
	return oidc.Fault{Status: code, Body: `{"error":"` + kind + `","error_description":"by the test"}`}
}

func rewritten(change func(map[string]any)) oidc.Fault { return oidc.Fault{Rewrite: change} }

func without(name string) oidc.Fault {
	return rewritten(func(m map[string]any) { delete(m, name) })
}

func with(name string, value any) oidc.Fault {
	return rewritten(func(m map[string]any) { m[name] = value })
}

func claiming(name string, value any) oidc.Fault {
	return oidc.Fault{Claims: func(m map[string]any) { m[name] = value }}
}

// troubles are what the campaign lets servers do wrong. Those at the token endpoint can also
// be the trouble of one client.
var troubles = map[string]trouble{
	"400 invalid_request":        {oidc.Token, refusal(400, "invalid_request")},
	"401 invalid_client":         {oidc.Token, refusal(401, "invalid_client")},
	"400 invalid_scope":          {oidc.Token, refusal(400, "invalid_scope")},
	"400 invalid_target":         {oidc.Token, refusal(400, "invalid_target")},
	"400 unauthorized_client":    {oidc.Token, refusal(400, "unauthorized_client")},
	"403":                        {oidc.Token, status(403)},
	"404":                        {oidc.Token, status(404)},
	"418 without a body":         {oidc.Token, oidc.Fault{Status: 418, Empty: true}},
	"429":                        {oidc.Token, status(429)},
	"429 for a second":           {oidc.Token, status(429, "Retry-After", "1")},
	"429 for an hour":            {oidc.Token, status(429, "Retry-After", "3600")},
	"429 until an odd time":      {oidc.Token, status(429, "Retry-After", "soon")},
	"500":                        {oidc.Token, status(500)},
	"502 with a page":            {oidc.Token, oidc.Fault{Status: 502, Body: "<html>Bad Gateway</html>", ContentType: "text/html"}},
	"503":                        {oidc.Token, status(503)},
	"503 for ten seconds":        {oidc.Token, status(503, "Retry-After", "10")},
	"hangs":                      {oidc.Token, oidc.Fault{Hang: true}},
	"takes 3 s":                  {oidc.Token, oidc.Fault{Delay: 3 * time.Second}},
	"takes 9 s":                  {oidc.Token, oidc.Fault{Delay: slowness}},
	"cut off":                    {oidc.Token, oidc.Fault{Cut: true}},
	"redirected":                 {oidc.Token, oidc.Fault{Redirect: "/elsewhere"}},
	"truncated":                  {oidc.Token, oidc.Fault{Malformed: true}},
	"empty":                      {oidc.Token, oidc.Fault{Empty: true}},
	"32 MiB":                     {oidc.Token, oidc.Fault{Huge: true}},
	"no token":                   {oidc.Token, without("access_token")},
	"an empty token":             {oidc.Token, with("access_token", "")},
	"a token with a line break":  {oidc.Token, with("access_token", "a\nb")},
	"another token type":         {oidc.Token, with("token_type", "mac")},
	"a lifetime of zero":         {oidc.Token, with("expires_in", 0)},
	"a lifetime of -1":           {oidc.Token, with("expires_in", -1)},
	"a lifetime in words":        {oidc.Token, with("expires_in", "an hour")},
	"less scope":                 {oidc.Token, with("scope", "other")},
	"another issuer":             {oidc.Token, claiming("iss", "https://other.example.com")},
	"another audience":           {oidc.Token, claiming("aud", "https://other.example.com")},
	"expired":                    {oidc.Token, claiming("exp", 1)},
	"metadata: 500":              {oidc.Discovery, status(500)},
	"metadata: another issuer":   {oidc.Discovery, with("issuer", "https://other.example.com")},
	"metadata: hangs":            {oidc.Discovery, oidc.Fault{Hang: true}},
	"keys: 503":                  {oidc.JWKS, status(503)},
	"keys: none":                 {oidc.JWKS, with("keys", []any{})},
	"keys: truncated":            {oidc.JWKS, oidc.Fault{Malformed: true}},
	"keys: those of a stranger":  {oidc.JWKS, oidc.Fault{Body: string(newKeys())}},
	"keys: all under one key ID": {oidc.JWKS, rewritten(sameID)},
}

// sameID gives all keys of a JWKS the same ID.
func sameID(set map[string]any) {
	keys, _ := set["keys"].([]any)
	for _, k := range keys {
		k.(map[string]any)["kid"] = "same"
	}
}

// namesOf returns the names of the troubles in an order; ofClients leaves out those that only
// a whole server can have.
func namesOf(ofClients bool) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(troubles)) {
		if !ofClients || !strings.HasPrefix(name, "metadata") && !strings.HasPrefix(name, "keys") {
			all = append(all, name)
		}
	}
	return all
}
