// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// issued is a token that the server made.
type issued struct {
	claims map[string]any
	keyID  string
}

// oauthError is an error of the token endpoint. It has the fields of the Management API's errors and of RFC 6749's.
func oauthError(status int, code, description string) answer {
	return reply(status, map[string]any{
		"code": "oidc." + code, "message": "Das hat nicht geklappt.", "error": code, "error_description": description,
	})
}

var tokenParameters = []string{
	"grant_type", "resource", "scope", "client_id", "client_secret", "client_assertion", "client_assertion_type",
	"audience", "organization_id",
}

func (s *Server) serveToken(c *call) answer {
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return breach("content type %q", t)
	}
	form, err := url.ParseQuery(string(c.raw))
	if err != nil {
		return breach("the form cannot be parsed")
	}
	for name, values := range form {
		if !slices.Contains(tokenParameters, name) || len(values) > 1 && name != "resource" {
			return breach("parameter %q", name)
		}
	}
	if grant := form.Get("grant_type"); grant != "client_credentials" {
		return breach("grant_type %q", grant)
	}
	a, refused := s.authenticate(c.Request, form)
	if refused != nil {
		return *refused
	}
	return s.grant(a, form)
}

// authenticate returns the application that sends the request.
func (s *Server) authenticate(r *http.Request, form url.Values) (*application, *answer) {
	refuse := func(status int, code, description string) (*application, *answer) {
		a := oauthError(status, code, description)
		if status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
			a.header = http.Header{"Www-Authenticate": {`Basic realm="` + s.Issuer() + `"`}}
		}
		return nil, &a
	}
	id, secret := form.Get("client_id"), form.Get("client_secret")
	rawID, rawSecret, basic := r.BasicAuth()
	switch {
	case r.Header.Get("Authorization") != "" && !basic:
		return refuse(http.StatusBadRequest, "invalid_request", "invalid authorization header value format")
	case form.Has("client_assertion"):
		return refuse(http.StatusUnauthorized, "invalid_client", "client authentication failed")
	case basic && form.Has("client_secret"):
		return refuse(http.StatusBadRequest, "invalid_request",
			"client authentication must only be provided using one mechanism")
	case basic:
		// RFC 6749 §2.3.1: both are form-encoded.
		var errID, errSecret error
		id, errID = url.QueryUnescape(rawID)
		secret, errSecret = url.QueryUnescape(rawSecret)
		if errID != nil || errSecret != nil {
			return refuse(http.StatusBadRequest, "invalid_request",
				"client_id and client_secret in the authorization header are not properly encoded")
		}
		if form.Has("client_id") && form.Get("client_id") != id {
			return refuse(http.StatusBadRequest, "invalid_request", "mismatch in body and authorization client ids")
		}
	case id == "":
		return refuse(http.StatusBadRequest, "invalid_request", "no client authentication mechanism provided")
	}
	a := s.state.applications[id]
	if a == nil {
		return refuse(http.StatusBadRequest, "invalid_client", "invalid client "+id)
	}
	for _, c := range a.secrets {
		if c.value != secret {
			continue
		}
		if !c.expires.IsZero() && !s.now().Before(c.expires) {
			return refuse(http.StatusBadRequest, "invalid_request", "client secret has expired")
		}
		return a, nil
	}
	if s.opts.minor <= 41 && secret == a.secret {
		return a, nil
	}
	return refuse(http.StatusUnauthorized, "invalid_client", "client authentication failed")
}

// grant makes a token. It silently leaves out scopes that were requested and are not granted.
func (s *Server) grant(a *application, form url.Values) answer {
	resources, organization := form["resource"], form.Get("organization_id")
	if organization != "" && form.Get("scope") != "" {
		return breach("scopes together with an organization")
	}
	if len(resources) > 1 || len(resources) == 0 && organization == "" {
		return oauthError(http.StatusBadRequest, "invalid_target",
			"only a single resource indicator value must be requested/granted")
	}
	if organization != "" && !s.state.organizations[organization][a.id] {
		return oauthError(http.StatusForbidden, "access_denied", "application is not a member of the organization")
	}
	now := s.now()
	ttl := defaultTTL
	claims := map[string]any{
		"jti": s.opaque(alphanumeric, 32), "sub": a.id, "client_id": a.id, "iss": s.Issuer(), "iat": now.Unix(),
	}
	var scopes []string
	if len(resources) == 0 {
		claims["aud"] = "urn:logto:organization:" + organization
	} else {
		r := s.resourceAt(resources[0])
		if r == nil || !isIndicator(resources[0]) {
			return oauthError(http.StatusBadRequest, "invalid_target", "resource indicator is missing, or unknown")
		}
		claims["aud"] = r.indicator
		if organization != "" {
			claims["organization_id"] = organization
		}
		if ttl = r.ttl; ttl == 0 {
			ttl = 600
		}
		scopes = s.granted(a, r, strings.Fields(form.Get("scope")))
	}
	claims["exp"] = now.Unix() + int64(ttl)
	body := map[string]any{"expires_in": ttl, "token_type": "Bearer"}
	if len(scopes) > 0 {
		claims["scope"] = strings.Join(scopes, " ")
		body["scope"] = claims["scope"]
	}
	token, err := s.keys.current.sign(claims)
	if err != nil {
		return plain(http.StatusInternalServerError)
	}
	s.tokens[token] = issued{claims: claims, keyID: s.keys.current.public.KeyID}
	body["access_token"] = token
	answer := reply(http.StatusOK, body)
	answer.header = http.Header{"Cache-Control": {"no-store"}}
	return answer
}

// isIndicator reports whether RFC 8707 allows this name for a resource: an absolute URI without fragment.
func isIndicator(indicator string) bool {
	u, err := url.Parse(indicator)
	return err == nil && u.IsAbs() && !strings.Contains(indicator, "#")
}

// granted returns which of the requested scopes the application's roles have.
func (s *Server) granted(a *application, r *resource, asked []string) []string {
	var scopes []string
	for _, name := range asked {
		c := s.scopeOf(r.id, name)
		if c == nil || slices.Contains(scopes, name) {
			continue
		}
		for id := range a.roles {
			if s.state.roles[id].scopes[c.id] {
				scopes = append(scopes, name)
				break
			}
		}
	}
	return scopes
}

func (k *signingKey) sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// authorize checks the bearer token of a request to the Management API.
func (s *Server) authorize(r *http.Request) *answer {
	header := r.Header.Get("Authorization")
	if header == "" {
		a := fail(http.StatusUnauthorized, "auth.authorization_header_missing")
		return &a
	}
	token, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		a := fail(http.StatusUnauthorized, "auth.authorization_token_type_not_supported")
		return &a
	}
	made, ok := s.tokens[token]
	exp, _ := made.claims["exp"].(int64)
	scope, _ := made.claims["scope"].(string)
	switch {
	case !ok:
		return unauthorized("ERR_JWS_SIGNATURE_VERIFICATION_FAILED", unverified(token))
	case !s.publishes(made.keyID): // two rotations after it was issued
		return unauthorized("ERR_JWKS_NO_MATCHING_KEY", made.claims)
	case exp <= s.now().Unix():
		return unauthorized("ERR_JWT_EXPIRED", made.claims)
	case made.claims["aud"] != ManagementAPI:
		return unauthorized("ERR_JWT_CLAIM_VALIDATION_FAILED", made.claims)
	case !slices.Contains(strings.Fields(scope), "all"):
		a := fail(http.StatusForbidden, "auth.forbidden")
		return &a
	}
	return nil
}

// unauthorized echoes the token's claims.
func unauthorized(code string, claims map[string]any) *answer {
	a := reply(http.StatusUnauthorized, map[string]any{
		"code": "auth.unauthorized", "message": "Das hat nicht geklappt.",
		"data": map[string]any{"code": code, "payload": claims},
	})
	return &a
}

func unverified(token string) (claims map[string]any) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES384, jose.RS256, jose.ES256})
	if err != nil {
		return nil
	}
	_ = json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims)
	return claims
}

// Sensitive returns every secret and every token that the server ever made. None of
// them may appear anywhere.
func (s *Server) Sensitive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.state.secrets)
	for token := range s.tokens {
		all = append(all, token)
	}
	slices.Sort(all)
	return all
}
