// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"cmp"
	"slices"
	"time"
)

// maxRecords bounds what Merge keeps: it ends up in one object's status and in
// every bundle.
const maxRecords = 32

// Record is a key with its history; what the operator persists.
type Record struct {
	Key
	// FirstSeenAt is when the key was first fetched, in UTC to the second.
	FirstSeenAt time.Time
	// RetiredAt is when the key was first missing from the server's set, in UTC
	// to the second; zero while the server still publishes it.
	RetiredAt time.Time
}

// MergePolicy says how long a key is kept and which one is not.
type MergePolicy struct {
	// Retention is how long a key is kept after it was retired; it should be no
	// less than the longest lifetime of a token. 0 keeps none.
	Retention time.Duration
	// Revoked lists kids to leave out at once and for good, published or not. A
	// key is also known by its RFC 7638 SHA-256 thumbprint in base64url, so that
	// one without a kid can be revoked as well.
	Revoked []string
	// Now is the present time.
	Now time.Time
}

// Merge brings the known records up to date with a freshly fetched key set and
// returns the records to keep, sorted by FirstSeenAt and then ID: the same
// arguments in any order of known give the same result, and merging again
// without a change is no change. A key is the same one if both its kid and its
// public key are: a known key under the kid of a new one is retired and kept
// beside it. A fetched key keeps its FirstSeenAt, takes over the server's latest
// form (an alg added, say) and is not retired any more.
//
// An empty fetched set means that there was no usable answer: nobody is retired,
// only revocations and the retention are applied. Of more than 32 fetched keys
// the first 32 in the server's order count as published; where records would be
// more than 32, those retired longest ago go first. A known record whose JWK
// does not parse is dropped, as it can verify nothing.
func Merge(known []Record, fetched []Key, p MergePolicy) []Record {
	now := p.Now.UTC().Truncate(time.Second)
	published := map[identity]Key{}
	answered := false
	for _, key := range fetched {
		key, public, err := parseKey([]byte(key.JWK))
		if err != nil {
			continue
		}
		answered = true
		if id := identify(key, public); !p.revokes(id) && len(published) < maxRecords {
			published[id] = key
		}
	}
	records := map[identity]Record{}
	for _, r := range known {
		key, public, err := parseKey([]byte(r.JWK))
		if err != nil {
			continue
		}
		id := identify(key, public)
		if p.revokes(id) {
			continue
		}
		r.Key = key
		r.FirstSeenAt = r.FirstSeenAt.UTC().Truncate(time.Second)
		r.RetiredAt = r.RetiredAt.UTC().Truncate(time.Second)
		if answered && r.RetiredAt.IsZero() {
			r.RetiredAt = now // unless it is among the published ones, below
		}
		if twin, there := records[id]; !there || compare(r, twin) < 0 {
			records[id] = r
		}
	}
	for id, key := range published {
		r, there := records[id]
		if !there {
			r.FirstSeenAt = now
		}
		r.Key, r.RetiredAt = key, time.Time{}
		records[id] = r
	}
	return keep(records, p.Retention, now)
}

// revokes tells whether a key is on the list, by its kid or its thumbprint.
func (p MergePolicy) revokes(id identity) bool {
	return slices.ContainsFunc(p.Revoked, func(s string) bool {
		return s != "" && (s == id.id || s == id.thumbprint)
	})
}

// Revokes tells whether a key is on the list of revoked ones.
func (p MergePolicy) Revokes(key Key) bool {
	parsed, public, err := parseKey([]byte(key.JWK))
	return err == nil && p.revokes(identify(parsed, public))
}

// keep drops what is past its retention or too much, and sorts the rest.
func keep(records map[identity]Record, retention time.Duration, now time.Time) []Record {
	var kept []Record
	for _, r := range records {
		if r.RetiredAt.IsZero() || r.RetiredAt.Add(retention).After(now) {
			kept = append(kept, r)
		}
	}
	if len(kept) > maxRecords {
		slices.SortFunc(kept, func(a, b Record) int {
			if a.RetiredAt.IsZero() != b.RetiredAt.IsZero() {
				if a.RetiredAt.IsZero() {
					return -1
				}
				return 1
			}
			return cmp.Or(b.RetiredAt.Compare(a.RetiredAt), compare(a, b))
		})
		kept = kept[:maxRecords]
	}
	slices.SortFunc(kept, compare)
	return kept
}

// compare is a total order: the JWK, and of twins the one published, decide last.
func compare(a, b Record) int {
	return cmp.Or(a.FirstSeenAt.Compare(b.FirstSeenAt), cmp.Compare(a.ID, b.ID), cmp.Compare(a.JWK, b.JWK), a.RetiredAt.Compare(b.RetiredAt))
}

// NextPrune returns when the first of the records is past its retention and so
// Merge has something to drop; zero if none is retired.
func NextPrune(records []Record, retention time.Duration) time.Time {
	var next time.Time
	for _, r := range records {
		if r.RetiredAt.IsZero() {
			continue
		}
		if due := r.RetiredAt.Add(retention); next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}
