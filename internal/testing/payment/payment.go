// SPDX-License-Identifier: Apache-2.0

// Package payment is the payment API of the story, for the demo, the end-to-end suite
// and their tests. [API] admits callers whose token a [Verifier] accepts with only the
// files of a verification bundle, and [Pay] calls it with the token of a file.
package payment

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// reply is what the payment API answers with.
type reply struct {
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
}

// API shows payments to callers who may read, and accepts new ones from callers who
// may write.
func API(v *Verifier) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /payments", v.protect("payments:read", "here are the payments"))
	mux.Handle("POST /payments", v.protect("payments:write", "paid"))
	return mux
}

// protect admits callers whose token carries the scope (RFC 6750 section 3).
func (v *Verifier) protect(scope, result string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(status int, challenge string, body reply) {
			if challenge != "" {
				w.Header().Set("WWW-Authenticate", challenge)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body)
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			answer(http.StatusUnauthorized, "Bearer", reply{Result: "no token"})
			return
		}
		claims, err := v.Verify(token)
		switch {
		case errors.Is(err, ErrBundle):
			answer(http.StatusServiceUnavailable, "", reply{"cannot verify", err.Error()})
		case err != nil:
			answer(http.StatusUnauthorized, `Bearer error="invalid_token"`, reply{"invalid_token", err.Error()})
		case !slices.Contains(claims.Scopes, scope):
			answer(http.StatusForbidden, fmt.Sprintf(`Bearer error="insufficient_scope", scope=%q`, scope),
				reply{"insufficient_scope", fmt.Sprintf("needs %s, the token has %q", scope, strings.Join(claims.Scopes, " "))})
		default:
			answer(http.StatusOK, "", reply{Result: result, Detail: "for " + claims.ClientID})
		}
	})
}

// ErrBundle means that the bundle cannot be read, so the token is not at fault.
var ErrBundle = errors.New("the verification bundle cannot be used")

// verification is the part of verification.json that a verifier needs;
// verification.schema.json documents its form.
type verification struct {
	Issuer           string                    `json:"issuer"`
	Audience         string                    `json:"audience"`
	AudienceIn       *audienceIn               `json:"audienceIn"`
	Algorithms       []jose.SignatureAlgorithm `json:"algorithms"`
	ClockSkewSeconds int                       `json:"clockSkewSeconds"`
	TokenType        string                    `json:"tokenType"`
	Scopes           []struct {
		Name   string   `json:"name"`
		Claims []string `json:"claims"`
	} `json:"scopes"`
}

// audienceIn says how tokens name the API if not by aud.
type audienceIn struct {
	Claims []string `json:"claims"`
	Values []string `json:"values"`
	Prefix string   `json:"prefix"`
}

// names reports whether a token names the API. A claim is one value or a list of
// values. With a prefix, it is enough that one word or item begins with it.
func (a audienceIn) names(token map[string]any) bool {
	is := func(item any) bool {
		s, ok := item.(string)
		if a.Prefix != "" {
			return ok && strings.HasPrefix(s, a.Prefix)
		}
		return ok && slices.Contains(a.Values, s)
	}
	for _, name := range a.Claims {
		switch claim := token[name].(type) {
		case nil:
			continue
		case string:
			if a.Prefix != "" {
				return slices.ContainsFunc(strings.Fields(claim), func(s string) bool { return is(s) })
			}
			return is(claim)
		case []any:
			return slices.ContainsFunc(claim, is)
		}
		return false
	}
	return false
}

// Claims are the claims that the payment API reads.
type Claims struct {
	jwt.Claims
	ClientID string `json:"client_id"`
	// Scopes are the API's scopes that the token has.
	Scopes []string `json:"-"`
}

// Verifier checks tokens with only the files of a verification bundle.
type Verifier struct {
	// Dir is the mounted bundle.
	Dir string
	// Now is the clock by which tokens expire.
	Now func() time.Time

	mu     sync.Mutex
	loaded string // the directory's state from which the fields below come
	rules  verification
	keys   jose.JSONWebKeySet
}

// dataLink is the link in a mounted volume to the directory with the present files.
const dataLink = "..data"

// bundle returns the bundle, and reads it again if it has changed. A kubelet replaces
// all files of a mounted volume at once by changing the target of the link ..data, so
// the target alone shows whether anything is new. Both files are read below that
// target: a change in between cannot mix two bundles.
func (v *Verifier) bundle() (verification, jose.JSONWebKeySet, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		current, err := os.Readlink(filepath.Join(v.Dir, dataLink))
		if err != nil {
			return v.rules, v.keys, fmt.Errorf("%w: %w", ErrBundle, err)
		}
		if current == v.loaded {
			return v.rules, v.keys, nil
		}
		rules, keys, err := readBundle(filepath.Join(v.Dir, current))
		if err == nil {
			v.loaded, v.rules, v.keys = current, rules, keys
			return rules, keys, nil
		}
		if now, gone := os.Readlink(filepath.Join(v.Dir, dataLink)); gone != nil || now == current {
			return v.rules, v.keys, fmt.Errorf("%w: %w", ErrBundle, err)
		} // otherwise it was replaced during the read
	}
}

// readBundle reads the two files that suffice to verify a token.
func readBundle(dir string) (rules verification, keys jose.JSONWebKeySet, err error) {
	for name, into := range map[string]any{"verification.json": &rules, "jwks.json": &keys} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return rules, keys, err
		}
		if err := json.Unmarshal(content, into); err != nil {
			return rules, keys, fmt.Errorf("%s: %w", name, err)
		}
	}
	if rules.Issuer == "" || rules.Audience == "" {
		return rules, keys, errors.New("verification.json names no issuer or no audience")
	}
	return rules, keys, nil
}

// Verify checks signature, type, issuer, audience and times of a token (RFC
// 7519 section 7.2, RFC 8725), and returns its claims.
func (v *Verifier) Verify(token string) (*Claims, error) {
	rules, keys, err := v.bundle()
	if err != nil {
		return nil, err
	}
	// An algorithm that is not on the list is refused here, before any key is examined.
	// An empty list allows none.
	parsed, err := jwt.ParseSigned(token, rules.Algorithms)
	if err != nil {
		return nil, errors.New("not a JWT that is signed with an allowed algorithm")
	}
	header := parsed.Headers[0]
	typ, _ := header.ExtraHeaders[jose.HeaderType].(string)
	if rules.TokenType != "" && !strings.EqualFold(mediaType(typ), mediaType(rules.TokenType)) {
		return nil, fmt.Errorf("typ is not %s", rules.TokenType)
	}
	var claims Claims
	var all map[string]any
	if err := verifySignature(parsed, keys.Key(header.KeyID), &claims, &all); err != nil {
		return nil, err
	}
	if claims.Expiry == nil {
		return nil, errors.New("the token has no exp")
	}
	expected := jwt.Expected{Issuer: rules.Issuer, AnyAudience: jwt.Audience{rules.Audience}, Time: v.Now()}
	if rules.AudienceIn != nil {
		expected.AnyAudience = nil
		if !rules.AudienceIn.names(all) {
			return nil, errors.New("the token does not name this API")
		}
	}
	err = claims.ValidateWithLeeway(expected, time.Duration(rules.ClockSkewSeconds)*time.Second)
	if err != nil {
		return nil, err
	}
	for _, s := range rules.Scopes {
		if carries(all, s.Claims, s.Name) {
			claims.Scopes = append(claims.Scopes, s.Name)
		}
	}
	return &claims, nil
}

// carries reports whether the first of these claims that the token has contains a
// value, as a word of a string or as an item of a list.
func carries(token map[string]any, claims []string, value string) bool {
	for _, name := range claims {
		switch claim := token[name].(type) {
		case nil:
			continue
		case string:
			return slices.Contains(strings.Fields(claim), value)
		case []any:
			return slices.Contains(claim, any(value))
		}
		return false
	}
	return false
}

// verifySignature tries the keys with the token's kid. A key that states its purpose
// is used for nothing else.
func verifySignature(parsed *jwt.JSONWebToken, candidates []jose.JSONWebKey, claims ...any) error {
	if len(candidates) == 0 {
		return errors.New("signed with a key that is not in the bundle")
	}
	for _, key := range candidates {
		if key.IsPublic() && (key.Algorithm == "" || key.Algorithm == parsed.Headers[0].Algorithm) && parsed.Claims(key.Key, claims...) == nil {
			return nil
		}
	}
	return errors.New("the key that the token names does not verify the signature")
}

// mediaType completes a typ header (RFC 7515 section 4.1.9).
func mediaType(typ string) string {
	if strings.Contains(typ, "/") {
		return typ
	}
	return "application/" + typ
}
