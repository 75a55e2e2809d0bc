// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Bounds of the parts of an answer that are kept, in bytes.
const (
	maxID     = 1024
	maxSecret = 4096
	maxURL    = 2048
)

const clientCredentials = "client_credentials"

// metadata is what a client is registered with (RFC 7591 section 2). The default of response_types does not suit such
// clients; redirect_uris has no default and is left out.
func (d *Driver) metadata(want provision.Client, c *provision.Credential) map[string]any {
	m := map[string]any{
		"client_name":                clientName(want, c),
		"grant_types":                []string{clientCredentials},
		"response_types":             []string{},
		"token_endpoint_auth_method": d.config.AuthenticationMethod,
	}
	if all := scopes(want.Access); len(all) > 0 {
		m["scope"] = strings.Join(all, " ")
	}
	if d.config.Audience {
		m[audienceMember] = audiences(want.Access)
	}
	return m
}

const audienceMember = "audience"

// audiences returns the identifiers of all APIs, sorted.
func audiences(access []provision.Access) []string {
	all := []string{}
	for _, a := range access {
		all = append(all, a.Resource)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// audience returns what the registration's audience should be: the APIs of the client, and what an administrator added.
func (s *syncing) audience(r *registered) []string {
	own := audiences(s.want.Access)
	all := slices.Clone(own)
	for _, a := range r.audience {
		if !slices.Contains(s.beforeAudience, a) {
			all = append(all, a)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// rightAudience reports whether a registration names the APIs that it should. If the server does not say, the answer is
// yes.
func (s *syncing) rightAudience(r *registered) bool {
	if !s.config.Audience || r.audience == nil {
		return true
	}
	has := slices.Clone(r.audience)
	slices.Sort(has)
	return slices.Equal(slices.Compact(has), s.audience(r))
}

// replacement returns the body of an update: the whole registration without the members that RFC 7592 section 2.2
// forbids, and without the secret, which is optional and which some servers refuse.
func (s *syncing) replacement(found *registered, c *provision.Credential) map[string]any {
	m := map[string]any{}
	for name, value := range found.members {
		if string(value) != "null" {
			m[name] = value
		}
	}
	for _, name := range []string{
		"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at",
		"client_secret", "scope",
	} {
		delete(m, name)
	}
	if _, ok := m["redirect_uris"]; ok {
		m["redirect_uris"] = []string{}
	}
	maps.Copy(m, s.metadata(s.want, c))
	if s.config.Audience {
		m[audienceMember] = s.audience(found)
	}
	m["client_id"] = c.ClientID
	return m
}

// matches reports whether a registration is as it should be. What the server does not say counts as right, except for
// the scopes.
func (s *syncing) matches(r *registered, c *provision.Credential) bool {
	return slices.Equal(r.scopes(), s.wanted) && r.grants() && s.rightAudience(r) &&
		(r.name == "" || r.name == clientName(s.want, c)) &&
		(r.method == "" || r.method == s.config.AuthenticationMethod)
}

// scopes returns the scopes of all APIs, sorted.
func scopes(access []provision.Access) []string {
	var all []string
	for _, a := range access {
		all = append(all, a.Scopes...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// granted returns the part of the access that the server has registered, all of it if scope is nil.
func granted(want []provision.Access, scope *string) []provision.Access {
	var access []provision.Access
	for _, a := range want {
		a := provision.Access{Resource: a.Resource, Scopes: slices.Clone(a.Scopes)}
		if scope != nil {
			has := strings.Fields(*scope)
			asked := len(a.Scopes)
			a.Scopes = slices.DeleteFunc(a.Scopes, func(s string) bool { return !slices.Contains(has, s) })
			if asked > 0 && len(a.Scopes) == 0 {
				continue
			}
		}
		access = append(access, a)
	}
	return access
}

// registered holds what an answer says about a client (RFC 7591 section 3.2.1, RFC 7592 section 3).
type registered struct {
	members      map[string]json.RawMessage
	id, secret   string
	expires      *int64 // 0 for never
	token, uri   string
	name, method string
	grantTypes   []string
	audience     []string // nil if the answer does not say
	scope        *string
}

func (r *registered) scopes() []string {
	if r.scope == nil {
		return nil
	}
	all := strings.Fields(*r.scope)
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *registered) grants() bool {
	return r.grantTypes == nil || slices.Equal(r.grantTypes, []string{clientCredentials})
}

var errMalformed = errors.New("malformed")

// parse reads an answer with a client. An unusable registration access token or URI counts as none.
func parse(body []byte) (*registered, error) {
	r := &registered{}
	if json.Unmarshal(body, &r.members) != nil {
		return nil, errMalformed
	}
	for name, into := range map[string]any{
		"client_id": &r.id, "client_secret": &r.secret, "client_secret_expires_at": &r.expires,
		"client_name": &r.name, "token_endpoint_auth_method": &r.method, "grant_types": &r.grantTypes, "scope": &r.scope,
	} {
		if raw, ok := r.members[name]; ok && json.Unmarshal(raw, into) != nil {
			return nil, errMalformed
		}
	}
	if raw, ok := r.members[audienceMember]; ok && json.Unmarshal(raw, &r.audience) != nil {
		r.audience = nil // the standard does not define it, so it may be anything
	}
	for name, into := range map[string]*string{"registration_access_token": &r.token, "registration_client_uri": &r.uri} {
		if raw, ok := r.members[name]; ok && json.Unmarshal(raw, into) != nil {
			*into = ""
		}
	}
	if !visible(r.id, maxID, ' ') || r.secret != "" && !visible(r.secret, maxSecret, ' ') || r.expires != nil && *r.expires < 0 {
		return nil, errMalformed
	}
	if !visible(r.token, maxSecret, '!') {
		r.token = ""
	}
	return r, nil
}

// take copies what an answer says to the credential, and reports whether that changed anything.
func (d *Driver) take(c *provision.Credential, r *registered) bool {
	former := *c
	if r.secret != "" {
		c.Secret = provision.Sensitive(r.secret)
	}
	if r.expires != nil {
		c.ExpiresAt = time.Time{}
		if *r.expires > 0 {
			c.ExpiresAt = time.Unix(*r.expires, 0).UTC()
		}
	}
	if r.token != "" {
		c.RegistrationToken = provision.Sensitive(r.token)
	}
	if d.trusted(r.uri) {
		c.RegistrationURI = r.uri
	}
	return former != *c
}

// trusted reports whether the registration access token may go to a URI that the server named: only to the registration
// endpoint and below it. A server elsewhere would learn the token, and the operator would send it PUT and DELETE.
func (d *Driver) trusted(uri string) bool {
	u, ok := absolute(uri)
	return ok && u.Scheme == d.endpoint.Scheme && strings.EqualFold(u.Hostname(), d.endpoint.Hostname()) && port(u) == port(d.endpoint) &&
		below(u.EscapedPath(), d.endpoint.EscapedPath())
}

// below reports whether a path is another one or below it, however the server or a proxy reads the path. Servers that
// name the client in the query use the same path for all.
func below(path, base string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(base, "/"))
	return ok && (rest == "" || rest[0] == '/') && !climbs(path)
}

// maxEncodings is how many times a path may be encoded: once for itself, once for a URL within it, and once more.
const maxEncodings = 3

// climbs reports whether any reading of a path has a segment that leads up or nowhere. Readings are: as it is or
// decoded, with backslashes for slashes, and without the parameters that some servers cut off segments.
func climbs(path string) bool {
	for range maxEncodings + 1 {
		for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
			if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || strings.ContainsFunc(decoded, unicode.IsControl) {
			return true
		}
		if decoded == path {
			return false
		}
		path = decoded
	}
	return true
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}

// absolute parses an absolute http or https URL without user information and fragment.
func absolute(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	ok := err == nil && len(s) <= maxURL && (u.Scheme == "https" || u.Scheme == "http") &&
		u.Hostname() != "" && u.User == nil && !strings.Contains(s, "#")
	return u, ok
}

// visible reports whether a text has 1 to most bytes, all between first and '~'. With first ' ' these are VSCHAR (RFC
// 6749 appendix A).
func visible(s string, most int, first rune) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < first || r > '~' })
}
