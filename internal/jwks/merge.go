// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// MaxRecords bounds what Merge keeps: it ends up in one object's status and in
// every bundle.
const MaxRecords = 32

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
	// Named lists kids that tokens are signed with, the most important first. Where
	// there are more keys than can be kept, those with these kids stay, published or not.
	Named []string
	// Now is the present time.
	Now time.Time
}

// Merge brings the known records up to date with a freshly fetched key set and
// returns the records to keep, sorted by FirstSeenAt and then ID: the same
// arguments in any order of known give the same result, and merging again
// without a change is no change. A key is the same one if its kid, its public key
// and its algorithm are: a known key under the kid of a new one is retired and
// kept beside it. A fetched key keeps its FirstSeenAt, takes over the server's
// latest form (an alg stated that was understood, say) and is not retired any more.
//
// An empty fetched set means that there was no usable answer: nobody is retired,
// only revocations and the retention are applied. Of more than 32 keys those are
// kept that are named, then the published ones, those seen first and of these the
// first in the server's order, then those retired last. A known record whose JWK
// does not parse is dropped, as it can verify nothing.
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
	return p.keep(records, order, now)
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

// keep drops what is past its retention or too much, and sorts the rest. The order
// is that of the published keys at their server.
func (p MergePolicy) keep(records map[identity]Record, order map[identity]int, now time.Time) []Record {
	type ranked struct {
		Record
		rank, order int // among the named kids, and at the server
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

// latest orders the moments at which keys were retired: those that were not come
// first, then those that were last.
func latest(a, b time.Time) int {
	if a.IsZero() || b.IsZero() {
		return a.Compare(b)
	}
	return b.Compare(a)
}

// Beyond returns which fetched keys Merge left out of the records for their number.
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

// compare is a total order: the JWK, and of twins the one published, decide last.
func compare(a, b Record) int {
	return cmp.Or(a.FirstSeenAt.Compare(b.FirstSeenAt), cmp.Compare(a.ID, b.ID), cmp.Compare(a.JWK, b.JWK), a.RetiredAt.Compare(b.RetiredAt))
}

// Superseded returns the retired records under whose kid another key is published.
// Verifiers take one of two keys with the same kid, or none at all: a superseded one
// should stay no longer than tokens that only it verifies.
func Superseded(records []Record) []Record {
	var superseded []Record
	for _, r := range records {
		if !r.RetiredAt.IsZero() && r.ID != "" && slices.ContainsFunc(records, r.successor) {
			superseded = append(superseded, r)
		}
	}
	return superseded
}

// successor reports whether a key is published under the same kid.
func (r Record) successor(other Record) bool { return other.ID == r.ID && other.RetiredAt.IsZero() }

// OnlyVerifies reports whether a superseded key is the only one of its kid that
// verifies a token, told by its key's thumbprint and its alg.
func (r Record) OnlyVerifies(records []Record, thumbprint, alg string) bool {
	return r.verifies(thumbprint, alg) && !slices.ContainsFunc(records, func(other Record) bool {
		return r.successor(other) && other.verifies(thumbprint, alg)
	})
}

func (r Record) verifies(thumbprint, alg string) bool {
	public, ok := knownKeys.public(r.JWK)
	return ok && (r.Algorithm == "" || r.Algorithm == alg) && thumbprintOf(public) == thumbprint
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
