// SPDX-License-Identifier: Apache-2.0

package jwks

import "sync"

// parsedMax bounds the number of parsed keys: far more than are in use at a time.
const parsedMax = 1024

// knownKeys caches the parsed keys that tokens were verified with. A handful of keys
// sign ten thousand tokens, and parsing one takes as long as checking a signature.
// The whole content of a key, which is public, is its cache key.
var knownKeys = parsedKeys{keys: map[string]any{}}

type parsedKeys struct {
	mu   sync.RWMutex
	keys map[string]any // JWK → public key, nil for one that cannot be used
}

// public returns the public key of a JWK.
func (p *parsedKeys) public(jwk string) (key any, ok bool) {
	p.mu.RLock()
	key, known := p.keys[jwk]
	p.mu.RUnlock()
	if known {
		return key, key != nil
	}
	_, key, err := parseKey([]byte(jwk))
	if err != nil {
		key = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) >= parsedMax {
		clear(p.keys) // keys in use come back
	}
	p.keys[jwk] = key
	return key, err == nil
}
