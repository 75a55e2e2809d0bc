// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/go-jose/go-jose/v4"
)

var (
	// publicMembers are the members of a JWK that are distributed (RFC 7517 section
	// 4, RFC 7518 section 6, RFC 8037). Certificates are not among them, because
	// nothing here checks them and x5u would make a verifier fetch.
	publicMembers = []string{"kty", "use", "alg", "kid", "n", "e", "crv", "x", "y"}

	// privateMembers must never get near a bundle, in any spelling: some decoders
	// ignore the case of a member's name.
	privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

	// requiredMembers are the public material of each type of key. "oct" is
	// missing, because a symmetric key would let every verifier forge tokens.
	requiredMembers = map[string][]string{
		"RSA": {"n", "e"},
		"EC":  {"crv", "x", "y"},
		"OKP": {"crv", "x"},
	}

	// algorithmsOf are the algorithms that a key can sign with, by its type and
	// curve. The first one is assumed for a key that states none: servers that omit
	// alg on RSA keys sign with RS256.
	algorithmsOf = map[string][]string{
		"RSA/":        {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
		"EC/P-256":    {"ES256"},
		"EC/P-384":    {"ES384"},
		"EC/P-521":    {"ES512"},
		"OKP/Ed25519": {"EdDSA"},
	}
)

// publicKey is a JWK that may be distributed.
type publicKey struct {
	members map[string]string

	// algorithms are those it may verify: the one it states, or all of its type.
	algorithms []string

	retired bool
}

// algorithm returns the one that the key states, or else the usual one of its type.
func (k publicKey) algorithm() string { return k.algorithms[0] }

// json returns the canonical form: members sorted by name, no white space.
func (k publicKey) json() json.RawMessage { return encode(k.members) }

// withAlgorithm returns the same key for one algorithm only.
func (k publicKey) withAlgorithm(alg string) json.RawMessage {
	members := maps.Clone(k.members)
	members["alg"] = alg
	return encode(members)
}

// keyData is a key as templates see it.
type keyData struct{ ID, Type, Algorithm, JWK, PEM, Thumbprint string }

// keyFields are the fields of keyData that templates may name.
var keyFields = []string{"Algorithm", "ID", "JWK", "PEM", "Thumbprint", "Type"}

// String returns the key's id, which a template prints if it names no field.
func (k keyData) String() string { return k.ID }

// data returns the key for templates.
func (k publicKey) data() keyData {
	return keyData{
		ID: k.members["kid"], Type: k.members["kty"], Algorithm: k.algorithm(), JWK: string(k.json()), PEM: k.pem(), Thumbprint: k.thumbprint(),
	}
}

// pem returns the key as SubjectPublicKeyInfo in PEM, or nothing for a key that
// turns out invalid.
func (k publicKey) pem() string {
	var parsed jose.JSONWebKey
	if parsed.UnmarshalJSON(k.json()) != nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(parsed.Key)
	if err != nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// thumbprintLength is the length of every thumbprint.
const thumbprintLength = 43

// thumbprint returns the thumbprint of RFC 7638 with SHA-256, which fits into a
// file's name.
func (k publicKey) thumbprint() string {
	required := map[string]string{"kty": k.members["kty"]}
	for _, name := range requiredMembers[k.members["kty"]] {
		required[name] = k.members[name]
	}
	sum := sha256.Sum256(encode(required))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// parseKey extracts the public part of a JWK and refuses anything but a public
// signature key. This is the last line of defence: whoever collected the keys has
// already sorted them, and an error here means that this failed. No error holds the
// material of a key.
func parseKey(k Key) (publicKey, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(k.JWK), &raw); err != nil {
		return publicKey{}, errors.New("not a JSON object")
	}
	for name := range raw {
		if slices.ContainsFunc(privateMembers, func(p string) bool { return strings.EqualFold(p, name) }) {
			return publicKey{}, errors.New("it holds a private or symmetric key")
		}
	}
	members := map[string]string{}
	for _, name := range publicMembers {
		if value, ok := raw[name]; ok {
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				return publicKey{}, fmt.Errorf("member %q is not a string", name)
			}
			members[name] = s
		}
	}

	kty := members["kty"]
	required, ok := requiredMembers[kty]
	if !ok {
		return publicKey{}, fmt.Errorf("key type %.20q is not RSA, EC or OKP", kty)
	}
	for _, name := range required {
		if members[name] == "" {
			return publicKey{}, fmt.Errorf("member %q is missing", name)
		}
	}
	if use, ok := members["use"]; ok && use != "sig" {
		return publicKey{}, fmt.Errorf("use is %.20q, not \"sig\"", use)
	}
	if kid, ok := members["kid"]; ok && kid != k.ID {
		return publicKey{}, fmt.Errorf("its kid is %.60q", kid)
	}
	if strings.ContainsFunc(k.ID, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return publicKey{}, errors.New("its kid is not printable") // YAML could not hold it
	}

	algorithms, ok := algorithmsOf[kty+"/"+members["crv"]]
	if !ok {
		return publicKey{}, fmt.Errorf("curve %.20q is not supported for %s", members["crv"], kty)
	}
	for _, stated := range []string{members["alg"], k.Algorithm} {
		if stated == "" {
			continue
		}
		if !slices.Contains(algorithms, stated) {
			return publicKey{}, fmt.Errorf("algorithm %.20q does not fit, want one of %s", stated, quoted(algorithms))
		}
		algorithms = []string{stated}
	}
	if len(algorithms) == 1 {
		members["alg"] = algorithms[0] // the only one there is; some libraries refuse a key without it (jwx)
	}
	return publicKey{members: members, algorithms: algorithms, retired: k.Retired}, nil
}

// parseKeys parses each key by itself, and returns each once, in an order that does
// not depend on theirs. It also returns why it left keys out.
func parseKeys(keys []Key) (parsed []publicKey, problems []error) {
	for _, k := range keys {
		p, err := parseKey(k)
		if err != nil {
			problems = append(problems, fmt.Errorf("key %+.60q: %w", k.ID, err))
			continue
		}
		parsed = append(parsed, p)
	}
	order := func(a, b publicKey) int {
		return cmp.Or(strings.Compare(a.members["kid"], b.members["kid"]), last(a.retired)-last(b.retired), strings.Compare(string(a.json()), string(b.json())))
	}
	slices.SortFunc(parsed, order)
	return slices.CompactFunc(parsed, func(a, b publicKey) bool { return order(a, b) == 0 }), problems
}

// last returns 1 for a key that comes last, 0 for the rest.
func last(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keySet returns a JWK Set (RFC 7517 section 5) of canonical keys, one per line.
func keySet(keys []json.RawMessage) string {
	var b strings.Builder
	b.WriteString(`{"keys":[`)
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(k)
	}
	b.WriteString("\n]}\n")
	return b.String()
}

// encode marshals maps and strings, which cannot fail.
func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
