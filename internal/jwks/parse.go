// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxKeys bounds three lists: the keys taken from one set in its own order, the
	// keys taken besides because they are named, and the keys left out.
	maxKeys = 64
	// maxKeySize bounds what is read of one key, in bytes. A certificate chain
	// beside it does not count, because it is not read.
	maxKeySize = 8 << 10
	// MaxKeyID bounds a kid, in bytes. A longer one is dropped rather than cut,
	// because a cut one would match no token.
	MaxKeyID = 128
	// minRSABits is the least that RFC 7518 §3.3 allows.
	minRSABits = 2048
	// maxRSAExponent is the largest one that crypto/rsa verifies with.
	maxRSAExponent = 1<<31 - 1
)

// Skipped is one key of a set that was left out, and why.
type Skipped struct {
	// ID is the key's kid, cut and escaped to printable ASCII; "" if it has none.
	ID string
	// Reason is a sentence fragment: "is symmetric". The same for the same key.
	Reason string
	// More is how many further keys it stands for, which were not read.
	More int
	// OtherUse means that the key is not meant for signatures, so nothing is wrong.
	OtherUse bool
	// Beyond means that there were too many keys, and this one was not judged.
	Beyond bool
}

// ValidKeyID reports whether a kid can be used: printable ASCII, at most
// MaxKeyID characters. Others would get into files and messages that cannot hold
// them, or in which they could forge lines. An empty kid stands for none.
func ValidKeyID(id string) bool {
	return len(id) <= MaxKeyID && !strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' })
}

// errOtherUse is a key that is not meant for signatures.
type errOtherUse string

func (e errOtherUse) Error() string { return string(e) }

// Parse reads a JWK Set (RFC 7517 §5) one key at a time and returns, in the
// server's order, the public halves of those that can verify signatures, and
// what was left out. Left out are symmetric and encryption keys, keys not meant
// for verifying (use, key_ops), unsupported types, curves and algorithms, RSA
// keys below 2048 or above 4096 bits, keys whose kid is not valid (ValidKeyID),
// malformed keys, and all after the 64th whose kid is not among the named ones.
// An identical key under an identical kid is taken once. Different keys under the
// same kid are all taken, as is one key with different algorithms, and any of them
// may have signed a token: refusing the set would turn a server's slip into an
// outage, and picking one key would be a guess.
//
// Parse reads what is unambiguous, even if RFC 7518 wants it written differently:
// padded or standard base64, EC coordinates without or with additional leading
// zeros, and alg "Ed25519" (RFC 9864) for "EdDSA". It writes the result as the RFCs
// want it and as verifiers read it.
//
// The error is always an *Error with reason Malformed and means that the body is not
// a JWK Set at all. A set without a usable key is not an error here.
func Parse(body []byte, named ...string) (keys []Key, skipped []Skipped, err error) {
	var list []json.RawMessage
	members, ok := object(body)
	if ok {
		raw, there := members["keys"]
		ok = there && json.Unmarshal(raw, &list) == nil
	}
	if !ok {
		return nil, nil, &Error{Reason: Malformed, Message: `key set is not a JSON object with an array "keys"`}
	}
	skip := func(id string, reason error) {
		if len(skipped) < maxKeys {
			var other errOtherUse
			skipped = append(skipped, Skipped{ID: escaped(id), Reason: reason.Error(), OtherUse: errors.As(reason, &other)})
		}
	}
	seen := map[identity]bool{}
	unread := 0
	for _, raw := range list {
		if len(keys) >= maxKeys && (len(keys) >= 2*maxKeys || !isNamed(raw, named)) {
			unread++
			continue
		}
		key, public, err := parseKey(raw)
		if err != nil {
			skip(key.ID, err)
			continue
		}
		id := identify(key, public)
		if seen[id] {
			skip(key.ID, errTwice)
			continue
		}
		seen[id] = true
		keys = append(keys, key)
	}
	if unread > 0 {
		unreadKeys := Skipped{Reason: fmt.Sprintf("comes after the first %d, and only those are read", maxKeys), More: unread - 1, Beyond: true}
		skipped = append(skipped[:min(len(skipped), maxKeys-1)], unreadKeys)
	}
	return keys, skipped, nil
}

// isNamed reports whether a key that is beyond the bound has one of these kids.
func isNamed(raw json.RawMessage, named []string) bool {
	if len(named) == 0 {
		return false
	}
	members, _ := object(raw)
	id, _ := stringMember(members, "kid")
	return id != "" && slices.Contains(named, id)
}

var errTwice = errors.New("appears twice")

// identity is what two keys share if they are the same: kid, public key and
// algorithm. A server that states the alg that a key was used with all along has not
// changed the key.
type identity struct{ id, thumbprint, alg string }

// usualAlgorithms are the algorithms assumed for a key without an alg: the only one
// of its family, or the one that RSA keys are commonly used with.
var usualAlgorithms = map[string]string{"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}

// identify returns a key's identity.
func identify(key Key, public any) identity {
	return identity{key.ID, thumbprintOf(public), cmp.Or(key.Algorithm, usualAlgorithms[family(public)])}
}

// thumbprintOf returns the RFC 7638 thumbprint with SHA-256.
func thumbprintOf(public any) string {
	// Every public key from parseKey has one.
	sum, _ := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum)
}

// publicMembers lists, for each supported kty, the members of a public key. Members
// that are neither here nor in commonMembers are never read, so private members (d,
// p, q, …) and certificates stay behind.
var publicMembers = map[string][]string{
	"RSA": {"e", "n"},
	"EC":  {"crv", "x", "y"},
	"OKP": {"crv", "x"},
}

// commonMembers are the members of every key that matter for verifying.
var commonMembers = []string{"kty", "kid", "use", "alg"}

// parseKey reads one JWK. With an error, the Key holds at most the kid.
func parseKey(raw []byte) (Key, any, error) {
	members, ok := object(raw)
	if !ok {
		return Key{}, nil, errors.New("is not a JSON object, or has a duplicate member")
	}
	id, _ := stringMember(members, "kid")
	values, err := readMembers(members)
	if err != nil {
		return Key{ID: id}, nil, err
	}
	public, err := publicKey(values)
	if err != nil {
		return Key{ID: id}, nil, err
	}
	if alg := values["alg"]; alg != "" && keyFamilies[alg] != family(public) {
		return Key{ID: id}, nil, fmt.Errorf("has the algorithm %s, which is not supported for its type", quote(alg))
	}
	return Key{ID: id, Algorithm: values["alg"], Type: values["kty"], JWK: canonical(public, values)}, public, nil
}

// readMembers reads the members of a public key and checks its purpose.
func readMembers(members map[string]json.RawMessage) (map[string]string, error) {
	kty, _ := stringMember(members, "kty")
	if kty == "oct" {
		return nil, errOtherUse("is symmetric")
	}
	public, ok := publicMembers[kty]
	if !ok {
		return nil, fmt.Errorf("has the type %s, which is not supported", quote(kty))
	}
	values, size := map[string]string{}, 0
	for _, name := range slices.Concat(commonMembers, public) {
		if values[name], ok = stringMember(members, name); !ok {
			return nil, fmt.Errorf("has a %q that is not a string", name)
		}
		size += len(values[name])
	}
	if size > maxKeySize {
		return nil, fmt.Errorf("is larger than %d KiB", maxKeySize>>10)
	}
	if use := values["use"]; use != "" && use != "sig" {
		return nil, errOtherUse(fmt.Sprintf("is for the use %s, not for signatures", quote(use)))
	}
	if ops, there := members["key_ops"]; there {
		var list []string
		if json.Unmarshal(ops, &list) != nil || !slices.Contains(list, "verify") {
			return nil, errOtherUse(`has key_ops without "verify"`)
		}
	}
	if !ValidKeyID(values["kid"]) {
		return nil, fmt.Errorf("has a kid that is longer than %d characters or not printable ASCII", MaxKeyID)
	}
	if values["alg"] == "Ed25519" {
		// RFC 9864 renames EdDSA for this curve. Most verifiers do not know the new
		// name, and refuse the key or the whole set for it.
		values["alg"] = "EdDSA"
	}
	return values, nil
}

// publicKey decodes and checks the key itself.
func publicKey(values map[string]string) (any, error) {
	kty := values["kty"]
	if crv := values["crv"]; kty != "RSA" && !slices.Contains([]string{"EC P-256", "EC P-384", "EC P-521", "OKP Ed25519"}, kty+" "+crv) {
		return nil, fmt.Errorf("has the curve %s, which is not supported", quote(crv))
	}
	document := map[string]string{"kty": kty}
	for _, name := range publicMembers[kty] {
		document[name] = values[name]
		if name != "crv" {
			document[name] = base64url(values[name], coordinateSizes[kty+" "+values["crv"]])
		}
	}
	encoded, _ := json.Marshal(document) // a map of strings always encodes
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(encoded); errors.Is(err, jose.ErrUnsupportedKeyType) {
		return nil, fmt.Errorf("is an RSA key of more than %d bits", jose.MaxRSAModulusBits)
	} else if err != nil {
		return nil, errors.New("has malformed public members")
	}
	if key, ok := jwk.Key.(*rsa.PublicKey); ok {
		if key.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("is an RSA key of less than %d bits", minRSABits)
		}
		if key.N.Bit(0) == 0 || key.E%2 == 0 || key.E > maxRSAExponent {
			return nil, errors.New("is an RSA key with an impossible modulus or exponent")
		}
	}
	return jwk.Key, nil
}

// coordinateSizes are the lengths of a coordinate, in bytes (RFC 7518 §6.2.1.2).
var coordinateSizes = map[string]int{"EC P-256": 32, "EC P-384": 48, "EC P-521": 66}

// base64url rewrites a number as RFC 7518 wants it: in base64url without padding
// and, if size is not 0, of that many bytes. It returns anything but base64 as it is.
func base64url(s string, size int) string {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || size == 0 || len(raw) == 0 {
		return s
	}
	raw = bytes.TrimLeft(raw, "\x00")
	if len(raw) < size {
		raw = append(make([]byte, size-len(raw)), raw...)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// family returns the family of a key, one of the values of keyFamilies.
func family(public any) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return key.Curve.Params().Name
	default:
		return "Ed25519"
	}
}

// canonical encodes a public key anew, so that the same key gives the same bytes
// however the server wrote it.
func canonical(public any, values map[string]string) string {
	// Every public key from publicKey encodes, and to strings only.
	encoded, _ := jose.JSONWebKey{Key: public}.MarshalJSON()
	document := map[string]string{}
	_ = json.Unmarshal(encoded, &document)
	for _, name := range commonMembers {
		if values[name] != "" {
			document[name] = values[name]
		}
	}
	sorted, _ := json.Marshal(document) // maps are encoded in the order of their keys
	return string(sorted)
}
