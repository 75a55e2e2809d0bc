// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Reasons of a [VerifyError], in CamelCase as conditions want them.
const (
	// ReasonOpaque: the token is not a signed JWT in compact form, so only its
	// server can judge it. An encrypted one (RFC 7516) is opaque too.
	ReasonOpaque = "OpaqueToken"
	// ReasonMalformed: the token is a signed JWT, but violates RFC 7519 or has a
	// critical header that we do not know, so that a verifier must not accept it.
	ReasonMalformed = "MalformedToken"
	// ReasonAlgorithm: the token's alg is not allowed, or does not suit the key that
	// the token names.
	ReasonAlgorithm = "AlgorithmNotAllowed"
	// ReasonUnknownKey: the key set has no key of the token's kid, or none of its
	// algorithm where it has no kid. A newer key set may have one.
	ReasonUnknownKey = "UnknownKey"
	// ReasonUnusableKey: the token names a key that its server publishes but that
	// cannot be used. A newer key set may have another one of that kid.
	ReasonUnusableKey = "UnusableKey"
	// ReasonBadSignature: the signature does not match the key. A newer key set may
	// help if the server has reused the kid for another key.
	ReasonBadSignature = "BadSignature"
	// ReasonWrongType: the header's typ is not the expected one.
	ReasonWrongType = "WrongType"
	// ReasonWrongIssuer: iss is missing or not exactly the issuer.
	ReasonWrongIssuer = "WrongIssuer"
	// ReasonWrongAudience: neither aud nor whatever else names the API names this
	// one.
	ReasonWrongAudience = "WrongAudience"
	// ReasonExpired: exp is past.
	ReasonExpired = "Expired"
	// ReasonNotYetValid: nbf or iat is in the future.
	ReasonNotYetValid = "NotYetValid"
	// ReasonMissingScopes: some of the scopes asked for are missing.
	ReasonMissingScopes = "MissingScopes"
)

// KeyReasons are the reasons that a fetch of the keys may put right: a new key may have
// come, also under an old ID.
var KeyReasons = []string{ReasonUnknownKey, ReasonUnusableKey, ReasonBadSignature, ReasonAlgorithm}

// maxDate is the last second whose year has four digits. RFC 3339 cannot write later
// ones.
const maxDate = 253402300799

// Expectation is what a token must satisfy to be accepted.
type Expectation struct {
	// Issuer is compared with iss exactly. A token without iss is never accepted.
	Issuer string
	// Audience must be among the values of aud; "" accepts any audience.
	Audience string
	// Named is how else the token must name its API; the zero value asks for
	// nothing.
	Named Named
	// Algorithms is the allow-list (RFC 8725 §3.1); empty allows all that
	// Algorithms lists. Unsupported algorithms stay refused even if listed.
	Algorithms []string
	// LeftOut are the keys that Parse left out of the key set, with IDs as Parse
	// returned them. They tell why a key is not known.
	LeftOut []Skipped
	// Scopes are the scopes that the token's scope claim must grant, all of them.
	Scopes []string
	// Values are what other claims must hold, by the claims' names. Each claim is a
	// string of values separated by spaces, or a list of them.
	Values map[string][]string
	// Type is the expected typ, compared as RFC 7515 §4.1.9 says: case and an
	// omitted "application/" do not matter. "" accepts any typ, and none.
	Type string
	// Skew is how much our clock and the server's may differ.
	Skew time.Duration
	// Now is the present time.
	Now time.Time
}

// Named is how a token names an API other than by aud. The first of Claims that the
// token has must be one of Values or a list with one, or have a word that begins with
// Prefix.
type Named struct {
	Claims []string
	Values []string
	Prefix string
}

// Claims is the part of a token's claims that matters here.
type Claims struct {
	// Issuer and Subject are iss and sub. ClientID is client_id (RFC 9068), else
	// azp. Each is "" if the token has none.
	Issuer, Subject, ClientID string
	// KeyID is the kid of the key that verified the token or, from Inspect, the kid
	// of its header. Algorithm and Type are the header's alg and typ.
	KeyID, Algorithm, Type string
	// KeyThumbprint is the thumbprint (RFC 7638, SHA-256) of the key that verified
	// the token; "" from Inspect.
	KeyThumbprint string
	// Audience is aud, as a list in the token's order.
	Audience []string
	// ExpiresAt, NotBefore and IssuedAt are exp, nbf and iat in UTC, without
	// fractions of a second; zero if the token has none.
	ExpiresAt, NotBefore, IssuedAt time.Time
	// Scopes lists what scope grants or, if there is no scope, what scp grants.
	// Either may be a string of names separated by spaces, or a list of them. Verify
	// adds the scopes that it was told to find in other claims.
	Scopes []string
	// ScopePresent reports whether the token has such a claim at all: an empty claim
	// grants nothing, a missing one does not say.
	ScopePresent bool
}

// ScopeClaims returns the claims that carry scopes: that of RFC 9068 section 2.2.3,
// and the one that Hydra, Okta and others use instead. The first that a token has
// counts.
func ScopeClaims() []string { return []string{"scope", "scp"} }

// VerifyError is why a token is not accepted.
type VerifyError struct {
	// Reason is one of the constants above.
	Reason string
	// Message is a sentence fragment that says what was expected and what came. It
	// is bounded, printable and the same for the same mistake. It may quote the
	// token's key ID, issuer or audience, but never the token.
	Message string
	// NoClaim means that scopes are missing because the token does not have the
	// claim at all. It may carry them in another one.
	NoClaim bool
}

// Error returns the message.
func (e *VerifyError) Error() string { return e.Message }

func refuse(reason, format string, args ...any) error {
	return &VerifyError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Verify checks a signed JWT (RFC 7519 §7.2, RFC 8725): algorithm, signature,
// type, issuer, audience, times and scopes, in this order, and returns its
// claims. Every error is a *VerifyError.
//
// It tries the keys whose ID is the header's kid or, without a kid, all that suit the
// algorithm. It ignores keys that the token brings along or points to (jwk, jku, x5c,
// x5u). A token must have an exp, and its times must be numbers: a lenient reader
// would accept other forms, but the API's reader may not.
func Verify(token string, keys []Key, want Expectation) (*Claims, error) {
	claims, members, err := inspect(token)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(token, claims, keys, want); err != nil {
		return nil, err
	}
	if want.Type != "" && !strings.EqualFold(mediaType(claims.Type), mediaType(want.Type)) {
		return nil, refuse(ReasonWrongType, "typ is %s, expected %s", quote(claims.Type), quote(want.Type))
	}
	if claims.Issuer == "" || claims.Issuer != want.Issuer {
		return nil, refuse(ReasonWrongIssuer, "issuer is %s, expected %s", quote(claims.Issuer), quote(want.Issuer))
	}
	if want.Audience != "" && !slices.Contains(claims.Audience, want.Audience) {
		if len(claims.Audience) == 0 {
			return nil, refuse(ReasonWrongAudience, "audience is missing, expected %s", quote(want.Audience))
		}
		return nil, refuse(ReasonWrongAudience, "audience is %s, expected %s", quoteAll(claims.Audience), quote(want.Audience))
	}
	if err := want.Named.verify(members); err != nil {
		return nil, err
	}
	if claims.ExpiresAt.IsZero() {
		return nil, refuse(ReasonMalformed, "token has no exp")
	}
	if !want.Now.Before(claims.ExpiresAt.Add(want.Skew)) {
		return nil, refuse(ReasonExpired, "token has expired")
	}
	if latest := want.Now.Add(want.Skew); claims.NotBefore.After(latest) || claims.IssuedAt.After(latest) {
		return nil, refuse(ReasonNotYetValid, "token is not valid yet, its nbf or iat is in the future")
	}
	if err := verifyScopes(claims, members, want); err != nil {
		return nil, err
	}
	return claims, nil
}

// verify checks that the token names the API.
func (n Named) verify(members map[string]json.RawMessage) error {
	if len(n.Claims) == 0 {
		return nil
	}
	claim := firstOf(members, n.Claims)
	expected, have, is := quoteParts(n.Values), values(members, claim), func(s string) bool { return slices.Contains(n.Values, s) }
	if n.Prefix != "" {
		expected, have, is = "a value that begins with "+quote(n.Prefix), words(members, claim), func(s string) bool { return strings.HasPrefix(s, n.Prefix) }
	}
	switch {
	case slices.ContainsFunc(have, is):
		return nil
	case members[claim] == nil:
		return refuse(ReasonWrongAudience, "claim %s is missing, expected %s", printable(claim), expected)
	case len(have) == 0:
		return refuse(ReasonWrongAudience, "claim %s is empty, expected %s", printable(claim), expected)
	}
	return refuse(ReasonWrongAudience, "claim %s is %s, expected %s", printable(claim), quoteParts(have), expected)
}

// firstOf returns the first of claims that a token has, or else simply the first.
func firstOf(members map[string]json.RawMessage, claims []string) string {
	for _, name := range claims {
		if members[name] != nil {
			return name
		}
	}
	return claims[0]
}

// verifyScopes checks that the scopes are where they are expected, and adds those
// found in other claims to claims.
func verifyScopes(claims *Claims, members map[string]json.RawMessage, want Expectation) error {
	if err := missing(members, firstOf(members, ScopeClaims()), claims.Scopes, want.Scopes); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want.Values)) {
		if err := missing(members, name, words(members, name), want.Values[name]); err != nil {
			return err
		}
		for _, s := range want.Values[name] {
			if !slices.Contains(claims.Scopes, s) {
				claims.Scopes = append(claims.Scopes, s)
			}
		}
	}
	return nil
}

// missing refuses a token if one of its claims lacks something, and says what the
// token has instead.
func missing(members map[string]json.RawMessage, claim string, have, want []string) error {
	lacks := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(have, s) })
	switch {
	case len(lacks) == 0:
		return nil
	case members[claim] == nil:
		bad := &VerifyError{Reason: ReasonMissingScopes, NoClaim: true}
		bad.Message = fmt.Sprintf("claim %s is missing, expected %s", printable(claim), quoteAll(lacks))
		if others := slices.DeleteFunc(slices.Collect(maps.Keys(members)), func(name string) bool { return slices.Contains(wellKnown, name) }); len(others) > 0 {
			bad.Message += "; its other claims are " + quoteParts(others)
		}
		return bad
	case len(have) == 0:
		return refuse(ReasonMissingScopes, "scopes missing: %s; claim %s is empty", quoteAll(lacks), printable(claim))
	}
	return refuse(ReasonMissingScopes, "scopes missing: %s; claim %s has %s", quoteAll(lacks), printable(claim), quoteParts(have))
}

// wellKnown are claims that never carry scopes (RFC 7519 section 4.1, RFC 9068
// section 2.2), so a message about missing scopes does not list them.
var wellKnown = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp"}

// words reads a claim that is a string of words or a list. A claim of another form
// has no words.
func words(members map[string]json.RawMessage, name string) []string {
	if s, ok := stringMember(members, name); ok {
		return strings.Fields(s)
	}
	return values(members, name)
}

// values reads a claim that is a string or a list. A claim of another form has no
// values.
func values(members map[string]json.RawMessage, name string) []string {
	r := reader{members: members}
	return r.list(name)
}

// verifySignature finds the key that signed the token and notes it in the claims.
func verifySignature(token string, claims *Claims, keys []Key, want Expectation) error {
	alg, allowed := claims.Algorithm, want.Algorithms
	if len(allowed) == 0 {
		allowed = Algorithms()
	}
	// Check this before looking at any key, so that no key is ever used in a way
	// that its owner did not mean: "none", or HMAC with a public key as the secret.
	if keyFamilies[alg] == "" || !slices.Contains(allowed, alg) {
		return refuse(ReasonAlgorithm, "signed with %s, expected %s", quote(alg), strings.Join(allowed, ", "))
	}
	kid := claims.KeyID
	known := kid == ""
	var candidates []any
	var ids []string
	for _, key := range keys {
		if kid != "" && key.ID != kid {
			continue
		}
		known = true
		if key.Algorithm != "" && key.Algorithm != alg {
			continue
		}
		if public, ok := knownKeys.public(key.JWK); ok && family(public) == keyFamilies[alg] {
			candidates, ids = append(candidates, public), append(ids, key.ID)
		}
	}
	unusable := slices.IndexFunc(want.LeftOut, func(s Skipped) bool { return s.ID == escaped(kid) })
	switch {
	case !known && !ValidKeyID(kid):
		return refuse(ReasonUnusableKey, "signed with the key %s, whose ID is longer than %d characters or not printable ASCII", quote(kid), MaxKeyID)
	case !known && unusable >= 0:
		return refuse(ReasonUnusableKey, "signed with the key %s, which the server publishes but which %s", quote(kid), want.LeftOut[unusable].Reason)
	case len(candidates) == 0 && kid == "" && unusable >= 0:
		return refuse(ReasonUnusableKey, "signed with a key without an ID, and the one that the server publishes %s", want.LeftOut[unusable].Reason)
	case !known:
		return refuse(ReasonUnknownKey, "signed with the key %s, which is not in the key set", quote(kid))
	case len(candidates) == 0 && kid == "":
		return refuse(ReasonUnknownKey, "signed with a key without an ID, and the key set has none for %s", alg)
	case len(candidates) == 0:
		return refuse(ReasonAlgorithm, "signed with %s and the key %s, which is not for that algorithm", alg, quote(kid))
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return refuse(ReasonMalformed, "token has a malformed header")
	}
	for i, public := range candidates {
		if _, err := jws.Verify(public); err == nil {
			claims.KeyID, claims.KeyThumbprint = ids[i], thumbprintOf(public)
			return nil
		}
	}
	if kid == "" {
		return refuse(ReasonBadSignature, "no key for %s in the key set verifies the signature", alg)
	}
	return refuse(ReasonBadSignature, "the key %s in the key set does not verify the signature", quote(kid))
}

// mediaType normalises a typ (RFC 7515 §4.1.9), in which "application/" may be
// omitted if it contains no other slash.
func mediaType(typ string) string {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) && !strings.Contains(typ[len(prefix):], "/") {
		return typ[len(prefix):]
	}
	return typ
}

// Inspect decodes a signed JWT WITHOUT verifying it: anybody may have written the
// claims. Use it for a token that has just come from the authorization server
// itself, to learn an expiry that the server left out of its answer, and never to
// decide about access. Every error is a *VerifyError, with reason ReasonOpaque or
// ReasonMalformed.
//
// It is as strict as the strictest verifiers: it wants canonical base64url without
// padding, no duplicate member, no critical header (RFC 7515 §4.1.11), and claims of
// the types that RFC 7519 gives them.
func Inspect(token string) (*Claims, error) {
	claims, _, err := inspect(token)
	return claims, err
}

// inspect also returns all members of the payload.
func inspect(token string) (*Claims, map[string]json.RawMessage, error) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || !looksSigned(parts[0]) {
		return nil, nil, refuse(ReasonOpaque, "token is not a signed JWT")
	}
	var sections [3][]byte
	for i, part := range parts {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		// The decoder would skip line breaks, which an HTTP header cannot hold.
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, nil, refuse(ReasonMalformed, "token is not base64url as RFC 7515 requires")
		}
		sections[i] = raw
	}
	header, ok := object(sections[0])
	payload, alsoOK := object(sections[1])
	if !ok || !alsoOK {
		return nil, nil, refuse(ReasonMalformed, "token's header or payload is not a JSON object, or has a duplicate member")
	}
	// b64 (RFC 7797) must be listed in crit: otherwise some readers would heed it
	// and others would not.
	if header["crit"] != nil || header["b64"] != nil {
		return nil, nil, refuse(ReasonMalformed, "token's header has a critical extension")
	}
	h, p := reader{members: header}, reader{members: payload}
	c := &Claims{
		Algorithm: h.text("alg"), KeyID: h.text("kid"), Type: h.text("typ"),
		Issuer: p.text("iss"), Subject: p.text("sub"), Audience: p.list("aud"),
		ExpiresAt: p.date("exp"), NotBefore: p.date("nbf"), IssuedAt: p.date("iat"),
	}
	for _, name := range ScopeClaims() {
		if c.ScopePresent = payload[name] != nil; !c.ScopePresent {
			continue
		}
		for _, s := range p.list(name) {
			c.Scopes = append(c.Scopes, strings.Fields(s)...)
		}
		break
	}
	if wrong := cmp.Or(h.wrong, p.wrong); wrong != "" {
		return nil, nil, refuse(ReasonMalformed, "token's %s is malformed", wrong)
	}
	if c.ClientID, ok = stringMember(payload, "client_id"); !ok || c.ClientID == "" {
		c.ClientID, _ = stringMember(payload, "azp")
	}
	return c, payload, nil
}

// looksSigned reports whether the first part of a token with dots is a JWS header: a
// JSON object with an alg (RFC 7515 §4.1.1). It is lenient, because a JWT with a flaw
// must be called malformed rather than pass as an opaque token, which nobody can
// check.
func looksSigned(part string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(part, "="))
	if err != nil || !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return false
	}
	members, ok := object(raw)
	return !ok || members["alg"] != nil
}

// reader reads members and remembers the first one of the wrong type.
type reader struct {
	members map[string]json.RawMessage
	wrong   string
}

func (r *reader) mark(name string) { r.wrong = cmp.Or(r.wrong, name) }

// text reads a string.
func (r *reader) text(name string) string {
	value, ok := stringMember(r.members, name)
	if !ok {
		r.mark(name)
	}
	return value
}

// list reads a string, as a list of one, or a list of strings.
func (r *reader) list(name string) []string {
	raw, there := r.members[name]
	if !there {
		return nil
	}
	if one, ok := stringMember(r.members, name); ok {
		return []string{one}
	}
	// Pointers, because a null among the strings would otherwise pass for an empty one.
	var list []*string
	if json.Unmarshal(raw, &list) != nil || slices.Contains(list, nil) {
		r.mark(name)
		return nil
	}
	values := make([]string, len(list))
	for i, s := range list {
		values[i] = *s
	}
	return values
}

// date reads a NumericDate (RFC 7519 §2), which may have a fraction. One written
// as a string is refused, as other verifiers refuse it.
func (r *reader) date(name string) time.Time {
	raw, there := r.members[name]
	if !there {
		return time.Time{}
	}
	// Of all JSON values, ParseFloat takes numbers only.
	n, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || n < 0 || n > maxDate {
		r.mark(name)
		return time.Time{}
	}
	return time.Unix(int64(n), 0).UTC()
}
