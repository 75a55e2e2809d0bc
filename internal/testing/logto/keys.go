// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// keyring holds the signing keys: at most one previous and one next.
type keyring struct {
	current        *signingKey
	previous, next *signingKey
	nextAt         time.Time // when next begins to sign; zero: after a restart
}

type signingKey struct {
	public jose.JSONWebKey
	signer jose.Signer
}

// All servers of a process share the first keys, because making keys is slow.
var (
	firstKey      = sync.OnceValue(func() *signingKey { return newKey(jose.ES384) })
	firstCheapKey = sync.OnceValue(func() *signingKey { return newKey(jose.ES256) })
)

func newKeyring(cheap bool) keyring {
	if cheap {
		return keyring{current: firstCheapKey()}
	}
	return keyring{current: firstKey()}
}

func newKey(algorithm jose.SignatureAlgorithm) *signingKey {
	key, err := pki.NewSigningKey(string(algorithm), 0)
	if err != nil {
		panic(err) // there is no randomness
	}
	k := &signingKey{public: key.Public()}
	if algorithm == jose.RS256 {
		k.public.Algorithm = ""
	}
	k.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID}},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		panic(err) // of a key made above
	}
	return k
}

// Rotation says how [Server.RotateKeys] rotates.
type Rotation struct {
	// Grace delays the new key's first signature. The server publishes it at once.
	Grace time.Duration
	// RSA makes an RSA key, whose tokens are RS256, instead of an EC key.
	RSA bool
}

// RotateKeys makes a new signing key, as the console does. Without a grace period it signs at once. At most one
// previous key stays published. In 1.37 the rotation takes effect only at [Server.Restart].
func (s *Server) RotateKeys(how Rotation) {
	algorithm := jose.ES384
	if how.RSA {
		algorithm = jose.RS256
	}
	key := newKey(algorithm)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys.tick(s.now())
	s.rotate(key, how.Grace)
}

func (s *Server) rotate(key *signingKey, grace time.Duration) {
	s.keys.next = key
	switch {
	case s.opts.minor <= 37:
		s.keys.nextAt = time.Time{}
	case grace > 0:
		s.keys.nextAt = s.now().Add(grace)
	default:
		s.keys.promote()
	}
}

// Restart restarts the server's process.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys.tick(s.now())
	if s.keys.next != nil && s.keys.nextAt.IsZero() {
		s.keys.promote()
	}
}

func (k *keyring) promote() {
	k.previous, k.current, k.next = k.current, k.next, nil
}

func (k *keyring) tick(now time.Time) {
	if k.next != nil && !k.nextAt.IsZero() && !now.Before(k.nextAt) {
		k.promote()
	}
}

// published returns the keys of the JWKS, the newest first.
func (k *keyring) published() []*signingKey {
	var keys []*signingKey
	if k.next != nil && !k.nextAt.IsZero() {
		keys = append(keys, k.next)
	}
	keys = append(keys, k.current)
	if k.previous != nil {
		keys = append(keys, k.previous)
	}
	return keys
}

func (s *Server) publishes(keyID string) bool {
	return slices.ContainsFunc(s.keys.published(), func(k *signingKey) bool { return k.public.KeyID == keyID })
}

// rotateKeys is the operation of the Management API.
func (s *Server) rotateKeys(c *call) answer {
	fields := []field{{name: "rotationGracePeriod", kind: integer}}
	if s.opts.minor <= 37 {
		fields = nil
	}
	if refused := c.decode(fields...); refused != nil {
		return *refused
	}
	seconds, _ := c.body["rotationGracePeriod"].(int)
	if seconds < 0 {
		return invalidInput("rotationGracePeriod")
	}
	s.rotate(newKey(jose.ES384), time.Duration(seconds)*time.Second)
	shown := []any{}
	for _, k := range s.keys.published() {
		status, from := "Previous", s.now()
		switch k {
		case s.keys.current:
			status = "Current"
		case s.keys.next:
			status, from = "Next", s.keys.nextAt
		}
		shown = append(shown, map[string]any{"id": k.public.KeyID, "status": status, "effectiveAt": from.Unix()})
	}
	return reply(http.StatusOK, shown)
}

func (s *Server) serveJWKS(c *call) answer {
	set := jose.JSONWebKeySet{}
	for _, k := range s.keys.published() {
		set.Keys = append(set.Keys, k.public)
	}
	body, err := json.Marshal(set)
	if err != nil {
		return plain(http.StatusInternalServerError)
	}
	etag := fmt.Sprintf(`"%x"`, sha256.Sum256(body))
	a := answer{status: http.StatusOK, header: http.Header{
		"Etag": {etag}, "Cache-Control": {"no-cache"}, "Content-Type": {"application/jwk-set+json; charset=utf-8"},
	}}
	if strings.Contains(c.Header.Get("If-None-Match"), etag) {
		a.status = http.StatusNotModified
		a.header.Del("Content-Type")
		return a
	}
	a.value = json.RawMessage(body)
	return a
}

// serveDiscovery builds endpoint addresses from the request's Host header; the issuer does not
// depend on it.
func (s *Server) serveDiscovery(c *call) answer {
	base := s.scheme() + "://" + c.Host + "/oidc"
	return reply(http.StatusOK, map[string]any{
		"issuer": s.Issuer(), "authorization_endpoint": base + "/auth", "token_endpoint": base + "/token",
		"jwks_uri": base + "/jwks", "userinfo_endpoint": base + "/me", "revocation_endpoint": base + "/token/revocation",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"grant_types_supported": []string{
			"authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange",
		},
		"scopes_supported":                      []string{"openid", "offline_access", "profile"},
		"id_token_signing_alg_values_supported": []string{"ES384"},
		"token_endpoint_auth_methods_supported": []string{
			"client_secret_basic", "client_secret_jwt", "client_secret_post", "private_key_jwt", "none",
		},
	})
}

func (s *Server) serveMetadata(c *call) answer {
	if s.opts.minor < 42 {
		return plain(http.StatusNotFound)
	}
	return s.serveDiscovery(c)
}

// serveNothing answers where other servers have their metadata.
func (s *Server) serveNothing(*call) answer { return plain(http.StatusNotFound) }

// serveUnrecognized answers unknown paths below the issuer.
func (s *Server) serveUnrecognized(*call) answer {
	return oauthError(http.StatusNotFound, "invalid_request", "unrecognized route or not allowed method (POST on /oidc/token)")
}
