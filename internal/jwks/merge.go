// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// MaxRecords bounds what Merge keeps, because all of it goes into one object's
// status and into every bundle.
const MaxRecords = 32

// Record is a key with its history, as the operator persists it.
type Record struct {
	Key
	// FirstSeenAt is when the key was first fetched, in UTC to the second.
	FirstSeenAt time.Time
	// RetiredAt is when the key was first missing from the server's set, in UTC
	// to the second; zero while the server publishes it.
	RetiredAt time.Time
}

// MergePolicy is the choice of which keys are kept, and for how long.
type MergePolicy struct {
	// Retention is how long a retired key is kept. It should be no less than the
	// longest lifetime of a token. 0 keeps no retired key.
	Retention time.Duration
	// Revoked lists kids to leave out at once and for good, published or not. An
	// entry may also be a key's RFC 7638 SHA-256 thumbprint in base64url, so that a
	// key without a kid can be revoked.
	Revoked []string
	// Named lists kids that tokens are signed with, the most important first. If
	// there are more keys than can be kept, those with these kids stay, published or
	// not.
	Named []string
	// Now is the present time.
	Now time.Time
}

// Merge brings the known records up to date with a freshly fetched key set and
// returns the records to keep, sorted by FirstSeenAt and then ID. The order of known
// does not matter, and merging the same set again changes nothing.
//
// Two keys are the same if they have the same kid, public key and algorithm. If a
// new key takes over a kid, the known key is retired and kept beside it. A fetched
// key keeps its FirstSeenAt, takes over the server's latest form (such as an alg that
// was only implied before) and is no longer retired.
//
// An empty fetched set means that there was no usable answer. Then Merge retires no
// key, and only applies revocations and the retention. Of more than 32 keys it keeps
// first the named ones, then the published ones (by when they were first seen, then
// by the server's order), then those retired last. It drops a known record whose JWK
// does not parse, because such a key verifies nothing.
func Merge(known []Record, fetched []Key, p MergePolicy) []Record {
	now := p.Now.UTC().Truncate(time.Second)
	published := map[identity]Key{}
	order := map[identity]int{}
	answered := false
	for i, key := range fetched {
		key, public, err := parseKey([]byte(key.JWK))
		if err != nil {
			continue
		}
		answered = true
		id := identify(key, public)
		if _, twice := published[id]; !twice && !p.revokes(id) {
			published[id], order[id] = key, i
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
			r.RetiredAt = now // cleared below if the key is published
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
	return p.keep(records, order, now)
}

// revokes reports whether a key is revoked, by its kid or its thumbprint.
func (p MergePolicy) revokes(id identity) bool {
	return slices.ContainsFunc(p.Revoked, func(s string) bool {
		return s != "" && (s == id.id || s == id.thumbprint)
	})
}

// Revokes reports whether a key is revoked.
func (p MergePolicy) Revokes(key Key) bool {
	parsed, public, err := parseKey([]byte(key.JWK))
	return err == nil && p.revokes(identify(parsed, public))
}

// keep drops records that are past their retention or too many, and sorts the rest.
// order is the position of each published key at the server.
func (p MergePolicy) keep(records map[identity]Record, order map[identity]int, now time.Time) []Record {
	type ranked struct {
		Record
		rank, order int // position among the named kids, and at the server
	}
	var all []ranked
	for id, r := range records {
		if !r.RetiredAt.IsZero() && !r.RetiredAt.Add(p.Retention).After(now) {
			continue
		}
		rank := slices.Index(p.Named, id.id)
		if rank < 0 || id.id == "" {
			rank = len(p.Named)
		}
		all = append(all, ranked{r, rank, order[id]})
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(a.rank-b.rank, latest(a.RetiredAt, b.RetiredAt), a.FirstSeenAt.Compare(b.FirstSeenAt), a.order-b.order, compare(a.Record, b.Record))
	})
	var kept []Record
	for _, r := range all[:min(len(all), MaxRecords)] {
		kept = append(kept, r.Record)
	}
	slices.SortFunc(kept, compare)
	return kept
}

// latest orders the times at which keys were retired, the latest first. Keys that are
// not retired come before all others.
func latest(a, b time.Time) int {
	if a.IsZero() || b.IsZero() {
		return a.Compare(b)
	}
	return b.Compare(a)
}

// Beyond returns the fetched keys that Merge left out because there were too many.
func Beyond(records []Record, fetched []Key, p MergePolicy) []Skipped {
	var beyond []Skipped
	for _, key := range fetched {
		kept := slices.ContainsFunc(records, func(r Record) bool { return r.JWK == key.JWK })
		if !kept && !p.Revokes(key) {
			beyond = append(beyond, Skipped{ID: key.ID, Reason: fmt.Sprintf("is beyond the %d keys that are kept", MaxRecords), Beyond: true})
		}
	}
	return beyond
}

// compare is a total order. The JWK decides next to last; of two equal JWKs the
// published one comes first.
func compare(a, b Record) int {
	return cmp.Or(a.FirstSeenAt.Compare(b.FirstSeenAt), cmp.Compare(a.ID, b.ID), cmp.Compare(a.JWK, b.JWK), a.RetiredAt.Compare(b.RetiredAt))
}

// Superseded returns the retired records whose kid a published key has taken over.
// Of two keys with the same kid, verifiers take one or none at all. So a superseded
// key should stay no longer than the tokens that only it verifies.
func Superseded(records []Record) []Record {
	var superseded []Record
	for _, r := range records {
		if !r.RetiredAt.IsZero() && r.ID != "" && slices.ContainsFunc(records, r.successor) {
			superseded = append(superseded, r)
		}
	}
	return superseded
}

// successor reports whether the other key is published under the same kid.
func (r Record) successor(other Record) bool { return other.ID == r.ID && other.RetiredAt.IsZero() }

// OnlyVerifies reports whether a superseded key is the only one of its kid that
// verifies a token, which is given by the thumbprint of its key and its alg.
func (r Record) OnlyVerifies(records []Record, thumbprint, alg string) bool {
	return r.verifies(thumbprint, alg) && !slices.ContainsFunc(records, func(other Record) bool {
		return r.successor(other) && other.verifies(thumbprint, alg)
	})
}

func (r Record) verifies(thumbprint, alg string) bool {
	public, ok := knownKeys.public(r.JWK)
	return ok && (r.Algorithm == "" || r.Algorithm == alg) && thumbprintOf(public) == thumbprint
}

// NextPrune returns when the first record passes its retention, so that Merge has
// something to drop; zero if no record is retired.
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
