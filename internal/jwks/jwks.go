// SPDX-License-Identifier: Apache-2.0

// Package jwks knows an authorization server by what it publishes: Discover
// reads its metadata, Fetch and Parse read its key set key by key so that one
// odd key does not spoil the rest, Merge keeps retired keys for as long as
// tokens signed by them may be about, and Verify checks a token against the
// result exactly as the receiving API will. Everything a server or a token says
// is foreign: it is bounded, and only printable excerpts of it reach a message.
// The package keeps no state and reads no clock; HTTP clients and the present
// time are passed in.
package jwks

import (
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Reasons of an [Error], in CamelCase as conditions want them.
const (
	// Unreachable: no answer came, or it broke off.
	Unreachable = "Unreachable"
	// BadStatus: the answer has an unexpected HTTP status. A redirect is one, since
	// none is followed.
	BadStatus = "BadStatus"
	// Malformed: the answer is not the document it should be, or is too large.
	Malformed = "Malformed"
	// IssuerMismatch: the discovery document speaks for another issuer.
	IssuerMismatch = "IssuerMismatch"
	// NoKeys: the key set is well-formed but holds no usable key.
	NoKeys = "NoKeys"
	// Refused: the request was not sent, because the URL or its address is not
	// allowed.
	Refused = "Refused"
)

// Error is why a discovery document or a key set could not be fetched or used.
type Error struct {
	// Reason is one of the constants above.
	Reason string
	// Message is a sentence fragment fit for a condition, the same for the same
	// failure. It holds no times and no ephemeral ports, and of a response's body
	// only an issuer or a key ID, quoted and cut.
	Message string
	// Cause is why there was no answer; empty if there was one.
	Cause egress.Cause
	// RetryAfter is how long the server asked to be left alone (RFC 9110
	// §10.2.3), at most an hour; 0 if it did not ask.
	RetryAfter time.Duration
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Key is one public signing key.
type Key struct {
	// ID is exactly the JWK's kid; "" if it has none. It is never made up, because
	// verifiers match it against the token's header.
	ID string
	// Algorithm is the JWK's alg. If it has none, Algorithm is "" and the key suits
	// every algorithm of its type and curve.
	Algorithm string
	// Type is the JWK's kty: RSA, EC or OKP.
	Type string
	// JWK is the key as compact JSON with sorted members: kty, the public
	// members of that type, and kid, use and alg where the server gave them. Other
	// members, such as x5c, are dropped. It has at most 8 KiB.
	JWK string
}

// keyFamilies maps each supported algorithm (RFC 7518 §3.1, RFC 8037 §3.1) to
// the one family of keys that can have made its signatures: a curve, or RSA.
var keyFamilies = map[string]string{
	"RS256": "RSA", "RS384": "RSA", "RS512": "RSA",
	"PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521",
	"EdDSA": "Ed25519",
}

// Algorithms lists the supported signature algorithms, all of them asymmetric.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// object decodes the members of a JSON object, as strictly as RFC 8725 §2.6 and
// RFC 7515 §4 ask for: names match exactly, and a duplicate name is an error,
// because two readers might take different values. Members that are null are left
// out.
func object(data []byte) (map[string]json.RawMessage, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || members == nil {
		return nil, false
	}
	for name, value := range members {
		if string(value) == "null" {
			delete(members, name)
		}
	}
	return members, true
}

// stringMember decodes a string member; ok is false if it is there and no string.
func stringMember(members map[string]json.RawMessage, name string) (value string, ok bool) {
	raw, there := members[name]
	if !there {
		return "", true
	}
	return value, json.Unmarshal(raw, &value) == nil
}

const (
	// quoteLimit bounds one quoted excerpt, in bytes.
	quoteLimit = 200
	// listLimit bounds how many excerpts stand in one message.
	listLimit = 5
)

// quote makes foreign text fit for a message.
func quote(s string) string { return text.Quote(s, quoteLimit) }

// quoteAll is quote for a list.
func quoteAll(list []string) string { return text.QuoteAll(list, quoteLimit, listLimit) }

// quoteParts is quoteAll for lists whose parts are cut shorter, so that they leave
// room for the rest of a message.
func quoteParts(list []string) string { return text.QuoteAll(list, 64, listLimit) }

// escaped makes foreign text fit to stand by itself, without quotation marks.
func escaped(s string) string {
	quoted := quote(s)
	return quoted[1 : len(quoted)-1]
}

// printable makes an address fit to stand by itself.
func printable(s string) string { return text.Line(text.CutBytes(s, quoteLimit)) }
