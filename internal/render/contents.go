// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
)

// Contents records since when each part of a bundle has been in its place. It is
// kept beside the files, because only it tells which of them a reader that lags
// behind has seen. A part that was there from the beginning has the zero time.
type Contents struct {
	// Terms is a short hash of everything but the keys: issuer, audience,
	// algorithms, scopes and the other files.
	Terms string `json:"terms"`
	// TermsSince is since when the terms have been these.
	TermsSince time.Time `json:"termsSince,omitzero"`
	// Keys are the keys by their IDs.
	Keys map[string]KeyContents `json:"keys,omitempty"`
}

// KeyContents is the entry of Contents for the keys of one ID.
type KeyContents struct {
	// Hash is a short hash of the keys, because another key may take over an ID.
	Hash  string    `json:"hash"`
	Since time.Time `json:"since,omitzero"`
}

// ContentsOf returns the contents of a bundle, with all parts there from the
// beginning.
func ContentsOf(b Bundle, extra map[string]string) Contents {
	byID := map[string][]string{}
	for _, k := range b.Keys {
		byID[k.ID] = append(byID[k.ID], k.Algorithm+" "+k.JWK)
	}
	c := Contents{Keys: make(map[string]KeyContents, len(byID))}
	for id, keys := range byID {
		slices.Sort(keys)
		c.Keys[id] = KeyContents{Hash: hashOf(keys)}
	}
	b.Keys = nil
	c.Terms = hashOf(b, extra)
	return c
}

// Since returns c as it replaces before at a moment: parts that are in both keep
// their times.
func (c Contents) Since(before Contents, now time.Time) Contents {
	now = now.UTC().Truncate(time.Millisecond)
	next := Contents{Terms: c.Terms, TermsSince: before.TermsSince, Keys: make(map[string]KeyContents, len(c.Keys))}
	if c.Terms != before.Terms {
		next.TermsSince = now
	}
	for id, k := range c.Keys {
		k.Since = now
		if was, ok := before.Keys[id]; ok && was.Hash == k.Hash {
			k.Since = was.Since
		}
		next.Keys[id] = k
	}
	return next
}

// hashOf returns a short name for values: 16 hexadecimal digits.
func hashOf(values ...any) string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(values); err != nil {
		panic(err) // strings and numbers only
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
