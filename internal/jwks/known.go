// SPDX-License-Identifier: Apache-2.0

package jwks

import "sync"

// parsedMax is how many keys are kept parsed: far more than are in use at a time.
const parsedMax = 1024

// knownKeys are the keys that tokens were verified with. Ten thousand tokens are
// signed with a handful of keys, and to parse one takes as long as to check a
// signature with it. A key is found by all of its content, and is public.
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
		clear(p.keys) // what is in use comes back
	}
	p.keys[jwk] = key
	return key, err == nil
}
