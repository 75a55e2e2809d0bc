// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4/json"
)

// maxListed bounds each list taken from a discovery document.
const maxListed = 100

// Metadata is the part of a discovery document that matters here.
type Metadata struct {
	// Issuer is the issuer identifier, equal to the one asked for.
	Issuer string
	// TokenEndpoint and JWKSURI are absolute http or https URLs; "" if the
	// document has none.
	TokenEndpoint, JWKSURI string
	// RegistrationEndpoint (RFC 7591) is such a URL too; "" if the document has
	// none, or a malformed one, which concerns only those who register clients.
	RegistrationEndpoint string
	// TokenEndpointAuthMethods, GrantTypes and ScopesSupported are the document's
	// lists: the first 100 entries that are printable and have at most 200 bytes;
	// nil if there are none. They only inform, because servers list what they do not
	// support and support what they do not list.
	TokenEndpointAuthMethods, GrantTypes, ScopesSupported []string
	// Source is the well-known URL that answered.
	Source string
}

// Discover reads an issuer's metadata. It asks as OpenID Connect Discovery 1.0 §4
// says and, if that gives nothing usable, as RFC 8414 §3 says. The document's issuer
// must equal the given one exactly. The issuer is an https or http URL without query
// and fragment.
//
// Every error is an *Error, the more telling of the two: IssuerMismatch, then
// Malformed, then BadStatus, then Unreachable. Of two alike the first counts, and a
// 404 counts least, since a server need only know one of the paths. If a server does
// not answer the first request at all, there is no second one.
func Discover(ctx context.Context, hc *http.Client, issuer string) (*Metadata, error) {
	base, ok := endpoint(issuer)
	if !ok || strings.Contains(issuer, "?") {
		return nil, &Error{Reason: Refused, Message: fmt.Sprintf("issuer %s is not an absolute http or https URL without query and fragment", quote(issuer))}
	}
	metadata, first, rank := discoverAt(ctx, hc, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", issuer)
	if first == nil {
		return metadata, nil
	}
	if first.Reason == Unreachable || first.Reason == Refused {
		return nil, first
	}
	inserted := base.Scheme + "://" + base.Host + "/.well-known/oauth-authorization-server" + strings.TrimSuffix(base.EscapedPath(), "/")
	metadata, second, secondRank := discoverAt(ctx, hc, inserted, issuer)
	if second == nil {
		return metadata, nil
	}
	wait := max(first.RetryAfter, second.RetryAfter)
	if secondRank > rank {
		first = second
	}
	first.RetryAfter = wait
	return nil, first
}

// telling ranks the failures of one discovery by how much they say.
var telling = map[string]int{IssuerMismatch: 4, Malformed: 3, BadStatus: 2, Refused: 1, Unreachable: 1}

// discoverAt reads the document at one well-known URL. It returns an error with its
// rank, which is lowest for a 404.
func discoverAt(ctx context.Context, hc *http.Client, source, issuer string) (*Metadata, *Error, int) {
	u, ok := endpoint(source)
	if !ok { // the issuer was valid, so the URL must be too long
		return nil, &Error{Reason: Refused, Message: fmt.Sprintf("discovery URL is longer than %d bytes", maxURL)}, 0
	}
	resp, body, failed := get(ctx, hc, u, http.Header{"Accept": {"application/json"}}) //nolint:bodyclose // get reads and closes it
	if failed != nil {
		if resp != nil && resp.StatusCode == http.StatusNotFound {
			return nil, failed, 0
		}
		return nil, failed, telling[failed.Reason]
	}
	metadata, failed := parseMetadata(body, issuer)
	if failed != nil {
		failed.Message = shown(u) + " " + failed.Message
		return nil, failed, telling[failed.Reason]
	}
	metadata.Source = source
	return metadata, nil, 0
}

// parseMetadata reads a discovery document and requires the given issuer.
func parseMetadata(body []byte, issuer string) (*Metadata, *Error) {
	members, ok := object(body)
	if !ok {
		return nil, &Error{Reason: Malformed, Message: "is not a JSON object, or has a duplicate member"}
	}
	m := &Metadata{
		TokenEndpointAuthMethods: entries(members["token_endpoint_auth_methods_supported"]),
		GrantTypes:               entries(members["grant_types_supported"]),
		ScopesSupported:          entries(members["scopes_supported"]),
	}
	if m.Issuer, ok = stringMember(members, "issuer"); !ok || m.Issuer == "" {
		return nil, &Error{Reason: Malformed, Message: "names no issuer"}
	}
	if m.Issuer != issuer {
		return nil, &Error{Reason: IssuerMismatch, Message: fmt.Sprintf("names the issuer %s, not %s", quote(m.Issuer), quote(issuer))}
	}
	if m.TokenEndpoint, ok = stringMember(members, "token_endpoint"); !ok || !optionalEndpoint(m.TokenEndpoint) {
		return nil, &Error{Reason: Malformed, Message: "has a token_endpoint that is not an absolute http or https URL"}
	}
	if m.JWKSURI, ok = stringMember(members, "jwks_uri"); !ok || !optionalEndpoint(m.JWKSURI) {
		return nil, &Error{Reason: Malformed, Message: "has a jwks_uri that is not an absolute http or https URL"}
	}
	if registration, ok := stringMember(members, "registration_endpoint"); ok && optionalEndpoint(registration) {
		m.RegistrationEndpoint = registration
	}
	return m, nil
}

// optionalEndpoint accepts what endpoint does, and "".
func optionalEndpoint(s string) bool {
	_, ok := endpoint(s)
	return ok || s == ""
}

// entries reads an informative list of strings. A malformed list counts as absent,
// since it is no reason to do without the server.
func entries(raw json.RawMessage) []string {
	var list, kept []string
	if raw == nil || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	for _, s := range list {
		if len(kept) == maxListed {
			break
		}
		if s != "" && printable(s) == s {
			kept = append(kept, s)
		}
	}
	return kept
}
