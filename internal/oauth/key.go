// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const (
	// maxKeyBytes bounds the input. The largest acceptable key takes 7 KiB.
	maxKeyBytes = 16 << 10
	// minRSABits is the least that RS256 and PS256 allow (RFC 7518 §3.3).
	minRSABits = 2048
	// maxRSABits bounds the work of one signature.
	maxRSABits = 8192
)

// algorithms are the supported signature algorithms of client assertions.
var algorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}

// SigningKey is a private key with the algorithm it signs by. Printing it never shows the key.
type SigningKey struct {
	algorithm string // by its JWS name, for example "ES256"
	keyID     string // the kid that assertions carry, "" for none
	signer    jose.Signer
}

// Format prints algorithm and key id, whatever the verb.
func (k SigningKey) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s key %q", k.algorithm, k.keyID)
}

// sign returns claims as a JWT in compact form.
func (k SigningKey) sign(claims []byte) (string, error) {
	jws, err := k.signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// material is a private key as found, with what a JWK says about it.
type material struct {
	key       crypto.Signer
	algorithm string
	keyID     string
}

// ParseSigningKey reads one unencrypted private key: PEM (PKCS #1, PKCS #8, SEC 1) or a JWK (RFC 7517).
//
// algorithm is one of RS256, PS256, ES256, ES384 and EdDSA. If it is "", the JWK's alg counts or, without one, what
// fits the key: RS256, ES256, ES384 or EdDSA. If keyID is "", the JWK's kid counts; a PEM key has none. Errors say what
// to change and repeat nothing of the key.
func ParseSigningKey(data []byte, algorithm, keyID string) (*SigningKey, error) {
	if algorithm != "" && !slices.Contains(algorithms, algorithm) {
		return nil, fmt.Errorf("signature algorithm is not supported, use one of %s", strings.Join(algorithms, ", "))
	}
	if len(data) > maxKeyBytes {
		return nil, fmt.Errorf("private key is larger than %d bytes", maxKeyBytes)
	}
	var (
		m   material
		err error
	)
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return nil, errors.New("private key is empty")
	case data[0] == '{':
		m, err = parseJWK(data)
	default:
		m.key, err = parsePEM(data)
	}
	if err != nil {
		return nil, err
	}
	if m.algorithm != "" && algorithm != "" && m.algorithm != algorithm {
		return nil, fmt.Errorf("the JWK's alg differs from the requested algorithm %s", algorithm)
	}
	if m.keyID != "" && keyID != "" && m.keyID != keyID {
		return nil, errors.New("the JWK's kid differs from the requested key ID, remove one of them")
	}
	possible, err := algorithmsOf(m.key)
	if err != nil {
		return nil, err
	}
	k := &SigningKey{algorithm: algorithm, keyID: keyID}
	if k.algorithm == "" {
		k.algorithm = m.algorithm
	}
	if k.algorithm == "" {
		k.algorithm = possible[0]
	}
	if !slices.Contains(possible, k.algorithm) {
		return nil, fmt.Errorf("private key cannot sign with %s, only with %s", k.algorithm, strings.Join(possible, " or "))
	}
	if k.keyID == "" {
		k.keyID = m.keyID
	}
	k.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.algorithm), Key: jose.JSONWebKey{Key: m.key, KeyID: k.keyID}},
		// rfc7523bis: the explicit type keeps anybody from taking the assertion for another JWT of the same key.
		(&jose.SignerOptions{}).WithType("client-authentication+jwt"))
	if err != nil {
		return nil, errors.New("private key cannot be used for signatures")
	}
	if err := k.check(m.key.Public()); err != nil {
		return nil, err
	}
	return k, nil
}

// check signs once, which finds a private key whose halves do not belong together before the server does.
func (k SigningKey) check(public crypto.PublicKey) error {
	jws, err := k.signer.Sign([]byte("check"))
	if err == nil {
		_, err = jws.Verify(public)
	}
	if err != nil {
		return errors.New("private key is damaged: what it signs does not verify with its public key")
	}
	return nil
}

// algorithmsOf returns the algorithms that a key can sign with, the default first.
func algorithmsOf(key crypto.Signer) ([]string, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		switch bits := key.N.BitLen(); {
		case bits < minRSABits:
			return nil, fmt.Errorf("RSA key has %d bits, at least %d are needed", bits, minRSABits)
		case bits > maxRSABits:
			return nil, fmt.Errorf("RSA key has %d bits, at most %d are supported", bits, maxRSABits)
		}
		return []string{"RS256", "PS256"}, nil
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return []string{"ES256"}, nil
		case elliptic.P384():
			return []string{"ES384"}, nil
		}
		return nil, errors.New("EC key is on an unsupported curve, use P-256 or P-384")
	case ed25519.PrivateKey:
		return []string{"EdDSA"}, nil
	}
	return nil, errors.New("private key is of an unsupported type, use RSA, EC or Ed25519")
}

// parsePEM returns the only private key among the blocks. Certificates and curve parameters may accompany it.
func parsePEM(data []byte) (crypto.Signer, error) {
	var (
		found  []any
		public bool
		isPEM  bool
	)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		isPEM = true
		key, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		if key != nil {
			found = append(found, key)
		}
		public = public || strings.HasSuffix(block.Type, "PUBLIC KEY") || block.Type == "CERTIFICATE"
	}
	switch {
	case !isPEM:
		return nil, notPEM(data)
	case len(found) == 0 && public:
		return nil, errors.New("PEM holds only a public key or certificate, store the private key")
	case len(found) == 0:
		return nil, errors.New("PEM holds no private key")
	case len(found) > 1:
		return nil, errors.New("PEM holds several private keys, keep one")
	}
	signer, ok := found[0].(crypto.Signer)
	if !ok { // an X25519 key
		return nil, errors.New("private key is for key agreement, not for signatures")
	}
	return signer, nil
}

var (
	indentedPEM = regexp.MustCompile(`(?m)^[ \t]+-----(BEGIN|END) `)
	blanks      = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "")
)

// notPEM explains what happened to a private key on its way into the Secret.
func notPEM(data []byte) error {
	text := string(data)
	begins, ends := strings.Contains(text, "-----BEGIN "), strings.Contains(text, "-----END ")
	decoded, _ := base64.StdEncoding.DecodeString(blanks.Replace(text))
	switch {
	case strings.HasPrefix(text, "\ufeff"), strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		return errors.New("private key begins with a byte order mark, store it as UTF-8 without one")
	case begins && strings.Contains(text, `\n`):
		return errors.New(`private key has \n instead of line breaks, store it with line breaks`)
	case indentedPEM.MatchString(text):
		return errors.New("private key is indented, its lines -----BEGIN and -----END must begin without blanks")
	case begins && ends && !strings.Contains(text, "\n"):
		return errors.New("private key is on one line, store it with its line breaks")
	case begins && !ends:
		return errors.New("private key has no line -----END, it was cut off")
	case begins:
		return errors.New("private key is damaged PEM")
	case bytes.Contains(decoded, []byte("-----BEGIN ")), bytes.HasPrefix(decoded, []byte("{")):
		return errors.New("private key is base64-encoded twice, encode it once (kubectl create secret does) or use stringData")
	case isDER(decoded):
		return errors.New("private key is PEM without its lines -----BEGIN and -----END, add them")
	case isDER(data):
		return errors.New("private key is DER, convert it to PEM (openssl pkey -inform DER)")
	case strings.HasPrefix(text, `"`):
		return errors.New("private key is in quotes, store it without them")
	}
	return errors.New("private key is neither PEM nor a JWK")
}

// isDER reports whether data is one ASN.1 sequence, as keys in DER are. Bytes at its end that look like blanks may be
// missing.
func isDER(data []byte) bool {
	const cut = 2
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(append(bytes.Clone(data), make([]byte, cut)...), &sequence)
	return err == nil && len(rest) <= cut && sequence.Tag == asn1.TagSequence
}

// parseBlock returns a block's private key, nil if it is of another kind.
func parseBlock(block *pem.Block) (key any, err error) {
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("private key is encrypted, store it decrypted (openssl pkey)")
	}
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "OPENSSH PRIVATE KEY":
		return nil, errors.New("private key is in OpenSSH's format, convert it (ssh-keygen -p -m PKCS8)")
	default:
		return nil, nil
	}
	if err != nil {
		return nil, errors.New("PEM holds a private key that is damaged or of an unsupported type or curve")
	}
	return key, nil
}

// parseJWK reads a private JWK.
func parseJWK(data []byte) (material, error) {
	// Check before the library does, whose messages name neither the mistake nor what to do.
	var head struct {
		Keys json.RawMessage `json:"keys"`
		Kty  string          `json:"kty"`
		Use  string          `json:"use"`
		D    string          `json:"d"`
	}
	switch err := json.Unmarshal(data, &head); {
	case err != nil:
		return material{}, errors.New("private key is not a well-formed JWK")
	case head.Keys != nil:
		return material{}, errors.New("private key is a JWK set, store only the JWK itself")
	case head.Kty == "oct":
		return material{}, errors.New("JWK is a symmetric key (oct), use RSA, EC or Ed25519")
	case head.D == "":
		return material{}, errors.New("JWK is only a public key, store the private one")
	case head.Use == "enc":
		return material{}, errors.New("JWK is for encryption (use: enc), use one for signatures")
	}
	var jwk jose.JSONWebKey
	err := jwk.UnmarshalJSON(data)
	signer, ok := jwk.Key.(crypto.Signer)
	switch {
	case errors.Is(err, jose.ErrUnsupportedKeyType):
		return material{}, errors.New("JWK is of an unsupported type or curve, use RSA, EC (P-256, P-384) or Ed25519")
	case err != nil || !ok:
		return material{}, errors.New("JWK is incomplete or damaged (an RSA key needs n, e, d, p, q; an EC key x, y, d; an Ed25519 key x, d)")
	case jwk.Algorithm != "" && !slices.Contains(algorithms, jwk.Algorithm):
		return material{}, fmt.Errorf("the JWK's alg is not supported, use one of %s", strings.Join(algorithms, ", "))
	}
	return material{key: signer, algorithm: jwk.Algorithm, keyID: jwk.KeyID}, nil
}
