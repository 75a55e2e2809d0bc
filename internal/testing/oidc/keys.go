// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// keyring holds the signing keys. The published keys need not include the one that signs: that is one of the faults.
type keyring struct {
	mu        sync.Mutex
	alg       string
	rsaBits   int
	current   jose.JSONWebKey
	next      *jose.JSONWebKey  // announced and not yet promoted
	published []jose.JSONWebKey // public halves, in the order of the JWKS
}

// keyState is the keyring at one moment.
type keyState struct {
	current   jose.JSONWebKey
	published []jose.JSONWebKey
}

func (k *keyring) now() keyState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return keyState{current: k.current, published: slices.Clone(k.published)}
}

// SetAlgorithm sets the algorithm of keys made from now on; existing keys keep theirs. See [Options.Algorithm].
func (s *Server) SetAlgorithm(alg string) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	s.keys.alg = alg
}

// SetRSABits sets the length of RSA keys made from now on; the default is 2048.
func (s *Server) SetRSABits(bits int) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	s.keys.rsaBits = bits
}

// RotateKey makes a new key that signs at once and unannounced, and returns its kid. The JWKS becomes [new,
// previous]; older and announced keys leave it.
func (s *Server) RotateKey() (kid string, err error) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	previous := s.keys.current
	if err := s.keys.replace(); err != nil {
		return "", err
	}
	s.keys.published = append(s.keys.published, previous.Public())
	return s.keys.current.KeyID, nil
}

// RotateKeyHard makes a new key that signs at once and is the only one in the JWKS.
func (s *Server) RotateKeyHard() error {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	return s.keys.replace()
}

// ReuseKeyID makes a new key under the kid of the current one. It signs at once and is the only one in the JWKS, as
// when somebody replaces a key under the same name in a server's configuration.
func (s *Server) ReuseKeyID() error {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	kid := s.keys.current.KeyID
	if err := s.keys.replace(); err != nil {
		return err
	}
	s.keys.current.KeyID, s.keys.published[0].KeyID = kid, kid
	return nil
}

// ChangeKeyAlgorithm makes the current key sign with another algorithm, under the same
// kid.
func (s *Server) ChangeKeyAlgorithm(alg string) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	s.keys.current.Algorithm, s.keys.next = alg, nil
	s.keys.published = []jose.JSONWebKey{s.keys.current.Public()}
}

// AnnounceKey publishes a new key behind the current one without signing with it, and returns its kid. It replaces a
// key that was announced earlier and not promoted.
func (s *Server) AnnounceKey() (kid string, err error) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	next, err := pki.NewSigningKey(s.keys.alg, s.keys.rsaBits)
	if err != nil {
		return "", err
	}
	if s.keys.next != nil {
		s.keys.withdraw(s.keys.next.KeyID)
	}
	s.keys.next = &next
	s.keys.published = slices.Insert(s.keys.published, min(1, len(s.keys.published)), next.Public())
	return next.KeyID, nil
}

// PromoteKey makes the announced key sign. The JWKS becomes [announced, previous]. It fails if none is announced.
func (s *Server) PromoteKey() error {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	if s.keys.next == nil {
		return errors.New("no key is announced")
	}
	previous := s.keys.current
	s.keys.current, s.keys.next = *s.keys.next, nil
	s.keys.published = []jose.JSONWebKey{s.keys.current.Public(), previous.Public()}
	return nil
}

// RevokeKey removes a key from the JWKS. If it is the current key, the server keeps signing with it, and no verifier
// accepts its signatures.
func (s *Server) RevokeKey(kid string) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	s.keys.withdraw(kid)
}

// KeyID returns the kid of the key that signs now.
func (s *Server) KeyID() string { return s.keys.now().current.KeyID }

// loosen rewrites a JWKS as [Options.LooseKeys] says.
func loosen(set map[string]any) {
	keys, _ := set["keys"].([]any)
	for _, key := range keys {
		members, _ := key.(map[string]any)
		for _, name := range []string{"n", "e", "x", "y"} {
			value, _ := members[name].(string)
			raw, err := base64.RawURLEncoding.DecodeString(value)
			if err != nil || value == "" {
				continue
			}
			if members["kty"] == "EC" {
				raw = bytes.TrimLeft(raw, "\x00")
			}
			members[name] = base64.StdEncoding.EncodeToString(raw)
		}
		if members["alg"] == "EdDSA" {
			members["alg"] = "Ed25519"
		}
	}
}

func (k *keyring) replace() error {
	key, err := pki.NewSigningKey(k.alg, k.rsaBits)
	if err != nil {
		return err
	}
	k.current, k.next = key, nil
	k.published = []jose.JSONWebKey{key.Public()}
	return nil
}

func (k *keyring) withdraw(kid string) {
	k.published = slices.DeleteFunc(k.published, func(key jose.JSONWebKey) bool { return key.KeyID == kid })
}

// SignToken signs a token with these claims and the current key, like the server's own tokens. It fills in iss,
// iat and exp if they are missing.
func (s *Server) SignToken(claims map[string]any) (string, error) {
	return sign(s.keys.now().current, s.opts.TokenType, s.withDefaults(claims))
}

// ForgeToken is [Server.SignToken] with a key that the server never had, under the kid of the current key.
func (s *Server) ForgeToken(claims map[string]any) (string, error) {
	current := s.keys.now().current
	forged, err := pki.NewSigningKey(current.Algorithm, 0)
	if err != nil {
		return "", err
	}
	forged.KeyID = current.KeyID
	return sign(forged, s.opts.TokenType, s.withDefaults(claims))
}

func (s *Server) withDefaults(claims map[string]any) map[string]any {
	now := s.opts.Now()
	all := map[string]any{"iss": s.issuer, "iat": now.Unix(), "exp": now.Add(s.opts.TokenLifetime).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	return all
}

func sign(key jose.JSONWebKey, typ string, claims map[string]any) (string, error) {
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	// Not jwt.Signed: go-jose's own JSON package writes numbers that were read with UseNumber as strings.
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed.CompactSerialize()
}

// claimsOf reads a JWT that this server made. It reports false for an opaque token.
func claimsOf(token string) (map[string]any, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, false
	}
	var claims map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(payload)))
	decoder.UseNumber()
	return claims, decoder.Decode(&claims) == nil
}

// NewKeyPair makes a key pair for RS256, PS256, ES256, ES384 or EdDSA. It returns the private key in PEM (PKCS #8)
// and as a JWK, and a JWKS of its public half. The kid is the key's thumbprint (RFC 7638).
func NewKeyPair(alg string) (pemPrivate, jwkPrivate, publicJWKS []byte, err error) {
	key, err := pki.NewSigningKey(alg, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	if pemPrivate, err = pki.EncodeKey(key.Key); err != nil {
		return nil, nil, nil, err
	}
	if jwkPrivate, err = json.Marshal(key); err != nil {
		return nil, nil, nil, err
	}
	publicJWKS, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key.Public()}})
	return pemPrivate, jwkPrivate, publicJWKS, err
}
