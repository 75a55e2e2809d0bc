// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// t0 is when the first key was seen; at counts from it.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// edNumber is the n-th of a series of different keys.
func edNumber(tb testing.TB, n int, kid, members string) Key {
	tb.Helper()
	seed := make([]byte, ed25519.SeedSize)
	seed[0], seed[1] = byte(n), byte(n>>8)
	return parsed(tb, publicJWK(tb, ed25519.NewKeyFromSeed(seed), kid, members))[0]
}

func TestMerge(t *testing.T) {
	const hour = time.Hour
	a, b, c := edNumber(t, 1, "a", ""), edNumber(t, 2, "b", ""), edNumber(t, 3, "c", "")
	unnamed := edNumber(t, 4, "", "")
	newA := edNumber(t, 5, "a", "")
	aWithAlg := edNumber(t, 1, "a", `,"alg":"EdDSA"`)
	_, public, _ := parseKey([]byte(unnamed.JWK))
	thumbprint := identify(unnamed, public).thumbprint
	rsaFor := func(alg string) Key { return parsed(t, publicJWK(t, rsaKey(), "r", alg))[0] }

	for name, tc := range map[string]struct {
		known   []Record
		fetched []Key
		policy  MergePolicy
		want    []Record
	}{
		"the first set, sorted by ID, its times cut to the second": {
			fetched: []Key{b, a},
			policy:  MergePolicy{Retention: hour, Now: at(900 * time.Millisecond)},
			want:    []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0}},
		},
		"a key that cannot be read, before one that can": {
			known:   []Record{{Key: Key{JWK: "{}"}, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0}},
			fetched: []Key{{ID: "x", JWK: "{}"}, a},
			policy:  MergePolicy{Retention: hour, Now: t0},
			want:    []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: t0}},
		},
		"times are kept in UTC": {
			fetched: []Key{a},
			policy:  MergePolicy{Now: t0.In(time.FixedZone("", 3600))},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
		"nothing new": {
			known:   []Record{{Key: a, FirstSeenAt: t0}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
		"a rotation": {
			known:   []Record{{Key: b, FirstSeenAt: t0}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want:    []Record{{Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}, {Key: a, FirstSeenAt: at(hour)}},
		},
		"a retired key keeps its time": {
			known:   []Record{{Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Now: at(2*hour - time.Second)},
			want:    []Record{{Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}, {Key: a, FirstSeenAt: at(2*hour - time.Second)}},
		},
		"the retention is over to the second": {
			known:   []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Now: at(2 * hour)},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
		"no retention": {
			known:   []Record{{Key: b, FirstSeenAt: t0}},
			fetched: []Key{a},
			policy:  MergePolicy{Now: at(hour)},
			want:    []Record{{Key: a, FirstSeenAt: at(hour)}},
		},
		"a retired key comes back": {
			known:   []Record{{Key: a, FirstSeenAt: t0, RetiredAt: at(hour)}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Now: at(9 * hour)},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
		"another key under the same kid": {
			known:   []Record{{Key: a, FirstSeenAt: t0}},
			fetched: []Key{newA},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want:    []Record{{Key: a, FirstSeenAt: t0, RetiredAt: at(hour)}, {Key: newA, FirstSeenAt: at(hour)}},
		},
		"an alg added is the same key": {
			known:   []Record{{Key: a, FirstSeenAt: t0}},
			fetched: []Key{aWithAlg},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want:    []Record{{Key: aWithAlg, FirstSeenAt: t0}},
		},
		"the alg that RSA keys are used with is the same key": {
			known:   []Record{{Key: rsaFor(""), FirstSeenAt: t0}},
			fetched: []Key{rsaFor(`,"alg":"RS256"`)},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want:    []Record{{Key: rsaFor(`,"alg":"RS256"`), FirstSeenAt: t0}},
		},
		"an alg that changes makes an entry of its own": {
			known:   []Record{{Key: rsaFor(`,"alg":"RS256"`), FirstSeenAt: t0}},
			fetched: []Key{rsaFor(`,"alg":"PS256"`)},
			policy:  MergePolicy{Retention: hour, Now: at(hour)},
			want: []Record{
				{Key: rsaFor(`,"alg":"RS256"`), FirstSeenAt: t0, RetiredAt: at(hour)},
				{Key: rsaFor(`,"alg":"PS256"`), FirstSeenAt: at(hour)},
			},
		},
		"an empty answer retires nobody": {
			known:  []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
			policy: MergePolicy{Retention: hour, Now: at(hour + time.Minute)},
			want:   []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
		},
		"an empty answer, and the retention is over": {
			known:  []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
			policy: MergePolicy{Retention: hour, Now: at(3 * hour)},
			want:   []Record{{Key: a, FirstSeenAt: t0}},
		},
		"revoked keys, known, fetched and retired": {
			known:   []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0, RetiredAt: t0}},
			fetched: []Key{a, c, newA},
			policy:  MergePolicy{Retention: hour, Revoked: []string{"b", "a"}, Now: at(time.Minute)},
			want:    []Record{{Key: c, FirstSeenAt: at(time.Minute)}},
		},
		"revoked without an answer": {
			known:  []Record{{Key: a, FirstSeenAt: t0}, {Key: b, FirstSeenAt: t0}},
			policy: MergePolicy{Retention: hour, Revoked: []string{"a"}, Now: t0},
			want:   []Record{{Key: b, FirstSeenAt: t0}},
		},
		"all that is published is revoked, so the rest is retired": {
			known:   []Record{{Key: b, FirstSeenAt: t0}},
			fetched: []Key{a},
			policy:  MergePolicy{Retention: hour, Revoked: []string{"a"}, Now: at(hour)},
			want:    []Record{{Key: b, FirstSeenAt: t0, RetiredAt: at(hour)}},
		},
		"an empty entry revokes no unnamed key": {
			fetched: []Key{unnamed},
			policy:  MergePolicy{Revoked: []string{""}, Now: t0},
			want:    []Record{{Key: unnamed, FirstSeenAt: t0}},
		},
		"an unnamed key is revoked by its thumbprint": {
			known:   []Record{{Key: unnamed, FirstSeenAt: t0}},
			fetched: []Key{unnamed, a},
			policy:  MergePolicy{Revoked: []string{thumbprint}, Now: t0},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
		"known records that are broken, private or twice there": {
			known: []Record{
				{Key: Key{ID: "x", JWK: "{"}, FirstSeenAt: t0},
				{Key: Key{ID: "y", JWK: `{"kty":"oct","k":"AA"}`}, FirstSeenAt: t0},
				{Key: a, FirstSeenAt: at(hour)},
				{Key: Key{JWK: privateJWK(t, edKey(), "p", "")}, FirstSeenAt: t0},
				{Key: a, FirstSeenAt: t0},
			},
			policy: MergePolicy{Retention: hour, Now: at(hour)},
			want:   []Record{{Key: a, FirstSeenAt: t0}, {Key: parsed(t, publicJWK(t, edKey(), "p", ""))[0], FirstSeenAt: t0}},
		},
		"an answer of broken keys is none": {
			known:   []Record{{Key: a, FirstSeenAt: t0}},
			fetched: []Key{{ID: "x", JWK: "{"}},
			policy:  MergePolicy{Now: at(hour)},
			want:    []Record{{Key: a, FirstSeenAt: t0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Merge(tc.known, tc.fetched, tc.policy)
			for _, r := range got {
				if r.FirstSeenAt.Location() != time.UTC || r.RetiredAt.Location() != time.UTC {
					t.Errorf("%s has times outside UTC", r.ID)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(got, Merge(got, tc.fetched, tc.policy)); diff != "" {
				t.Errorf("merging again is a change: %s", diff)
			}
		})
	}
}

func TestMergeDropsTheOldestRetiredFirst(t *testing.T) {
	var known []Record
	for i := range 31 {
		known = append(known, Record{Key: edNumber(t, i, fmt.Sprint(i), ""), FirstSeenAt: t0, RetiredAt: at(time.Duration(31-i) * time.Second)})
	}
	fresh := []Key{edNumber(t, 100, "new", ""), edNumber(t, 101, "newer", "")}
	got := Merge(known, fresh, MergePolicy{Retention: time.Hour, Now: at(time.Minute)})
	ids := map[string]bool{}
	for _, r := range got {
		ids[r.ID] = true
	}
	if len(got) != MaxRecords || ids["30"] || !ids["29"] || !ids["new"] || !ids["newer"] {
		t.Errorf("got %d records: %v", len(got), ids)
	}

	var many []Key
	for i := range 40 {
		many = append(many, edNumber(t, 200+i, fmt.Sprint("m", i), ""))
	}
	got = Merge(got, many, MergePolicy{Retention: time.Hour, Revoked: []string{"m0"}, Now: at(2 * time.Minute)})
	var want []string
	for _, key := range many[1:33] {
		want = append(want, key.ID)
	}
	slices.Sort(want)
	var names []string
	for _, r := range got {
		names = append(names, r.ID)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

// TestMergeKeepsWhatTokensName: if a set is too large, the keys that tokens are
// signed with stay, and then those that were there before, whatever the server's
// order.
func TestMergeKeepsWhatTokensName(t *testing.T) {
	var many []Key
	for i := range 40 {
		many = append(many, edNumber(t, i, fmt.Sprint(i), ""))
	}
	has := func(records []Record, ids ...string) {
		t.Helper()
		if len(records) != MaxRecords {
			t.Errorf("got %d records", len(records))
		}
		for _, id := range ids {
			if !slices.ContainsFunc(records, func(r Record) bool { return r.ID == id }) {
				t.Errorf("the key %s is gone", id)
			}
		}
	}
	policy := MergePolicy{Retention: time.Hour, Now: t0}
	first := Merge(nil, many, policy)
	has(first, "0", "31")
	beyond := Beyond(first, many, policy)
	if len(beyond) != 8 || beyond[0] != (Skipped{ID: "32", Reason: "is beyond the 32 keys that are kept", Beyond: true}) {
		t.Errorf("beyond the limit are %v", beyond)
	}
	if beyond := Beyond(first, many, MergePolicy{Revoked: []string{"32"}}); len(beyond) != 7 {
		t.Errorf("beyond the limit are, without a revoked one, %v", beyond)
	}

	policy.Now = at(time.Minute)
	turned := slices.Clone(many)
	slices.Reverse(turned)
	if diff := cmp.Diff(first, Merge(first, turned, policy)); diff != "" {
		t.Errorf("another order makes other keys: %s", diff)
	}
	policy.Named = []string{"36", "39", ""}
	named := Merge(first, many, policy)
	has(named, "0", "29", "36", "39")
	if diff := cmp.Diff(named, Merge(named, turned, policy)); diff != "" {
		t.Errorf("merging again is a change: %s", diff)
	}

	var others []Key
	for i := range 40 {
		others = append(others, edNumber(t, 100+i, fmt.Sprint("other-", i), ""))
	}
	policy.Now = at(2 * time.Minute)
	has(Merge(named, others, policy), "36", "39", "other-0", "other-29")
}

// TestSuperseded: if two keys share an ID, the one that is no longer published is
// needed for the tokens that the other does not verify.
func TestSuperseded(t *testing.T) {
	rsaFor := func(alg string) Key { return parsed(t, publicJWK(t, rsaKey(), "k", `,"alg":"`+alg+`"`))[0] }
	thumbprint := func(k Key) string {
		_, public, err := parseKey([]byte(k.JWK))
		if err != nil {
			t.Fatal(err)
		}
		return thumbprintOf(public)
	}
	old, now, other := edNumber(t, 1, "k", ""), edNumber(t, 2, "k", ""), edNumber(t, 3, "other", "")
	retired := func(k Key) Record { return Record{Key: k, RetiredAt: t0} }
	for name, tc := range map[string]struct {
		records []Record
		want    []Record
		token   Key    // that a token is signed with
		alg     string // of the token
		needed  bool   // the first superseded one, for that token
	}{
		"a key that was replaced, and its token": {
			records: []Record{retired(old), {Key: now}, retired(other)}, want: []Record{retired(old)}, token: old, alg: "EdDSA", needed: true,
		},
		"a key that was replaced, and the other's token": {
			records: []Record{retired(old), {Key: now}}, want: []Record{retired(old)}, token: now, alg: "EdDSA",
		},
		"another algorithm, and a token of the former": {
			records: []Record{retired(rsaFor("RS256")), {Key: rsaFor("PS256")}}, want: []Record{retired(rsaFor("RS256"))},
			token: rsaFor("RS256"), alg: "RS256", needed: true,
		},
		"another algorithm, and a token of the present one": {
			records: []Record{retired(rsaFor("RS256")), {Key: rsaFor("PS256")}}, want: []Record{retired(rsaFor("RS256"))},
			token: rsaFor("RS256"), alg: "PS256",
		},
		"no algorithm any more": {
			records: []Record{retired(rsaFor("PS256")), {Key: parsed(t, publicJWK(t, rsaKey(), "k", ""))[0]}}, want: []Record{retired(rsaFor("PS256"))},
			token: rsaFor("PS256"), alg: "PS256",
		},
		"both are retired":       {records: []Record{retired(old), retired(now)}},
		"both are published":     {records: []Record{{Key: old}, {Key: now}}},
		"keys without an ID":     {records: []Record{retired(edNumber(t, 1, "", "")), {Key: edNumber(t, 2, "", "")}}},
		"nothing was replaced":   {records: []Record{retired(other), {Key: now}}},
		"there are no keys":      {},
		"a key that is retired":  {records: []Record{retired(old)}},
		"a key that is not used": {records: []Record{{Key: old}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Superseded(tc.records)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatal(diff)
			}
			if len(got) > 0 && got[0].OnlyVerifies(tc.records, thumbprint(tc.token), tc.alg) != tc.needed {
				t.Errorf("needed: %v, want %v", !tc.needed, tc.needed)
			}
		})
	}
}

func TestNextPrune(t *testing.T) {
	for name, tc := range map[string]struct {
		records []Record
		want    time.Time
	}{
		"no records":        {nil, time.Time{}},
		"none retired":      {[]Record{{FirstSeenAt: t0}}, time.Time{}},
		"the first is next": {[]Record{{RetiredAt: at(time.Minute)}, {}, {RetiredAt: t0}, {RetiredAt: at(time.Hour)}}, at(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, NextPrune(tc.records, time.Hour)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMergeHoldsWhateverTheServerDoes plays random histories of a server and
// checks after every step what must always be true.
func TestMergeHoldsWhateverTheServerDoes(t *testing.T) {
	const retention = 10 * time.Minute
	var keys []Key
	for i := range 45 {
		keys = append(keys, edNumber(t, i, fmt.Sprint(i%40), "")) // some kids are shared
	}
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		var records []Record
		now := t0
		for step := range 25 {
			where := fmt.Sprintf("seed %d, step %d", seed, step)
			now = now.Add(time.Duration(random.IntN(300_000)) * time.Millisecond)
			fetched := make([]Key, random.IntN(6)*random.IntN(9))
			for i := range fetched {
				fetched[i] = keys[random.IntN(len(keys))]
			}
			policy := MergePolicy{Retention: retention, Now: now}
			if random.IntN(4) == 0 {
				policy.Revoked = []string{fmt.Sprint(random.IntN(40))}
			}
			before := slices.Clone(records)
			random.Shuffle(len(before), func(i, j int) { before[i], before[j] = before[j], before[i] })
			next := Merge(records, fetched, policy)
			if diff := cmp.Diff(next, Merge(before, fetched, policy)); diff != "" {
				t.Fatalf("%s: the order of the known records matters: %s", where, diff)
			}
			if diff := cmp.Diff(next, Merge(next, fetched, policy)); diff != "" {
				t.Fatalf("%s: merging again is a change: %s", where, diff)
			}
			checkMerged(t, where, records, fetched, next, policy)
			if wake := NextPrune(next, retention); !wake.IsZero() {
				pruned := Merge(next, nil, MergePolicy{Retention: retention, Now: wake})
				if len(pruned) >= len(next) || len(Merge(next, nil, MergePolicy{Retention: retention, Now: wake.Add(-time.Second)})) != len(next) {
					t.Fatalf("%s: NextPrune is not when something is dropped", where)
				}
			}
			records = next
		}
	}
}

func checkMerged(t *testing.T, where string, before []Record, fetched []Key, after []Record, p MergePolicy) {
	t.Helper()
	if len(after) > MaxRecords || !slices.IsSortedFunc(after, compare) {
		t.Fatalf("%s: %d records, or not sorted", where, len(after))
	}
	has := func(list []Record, key Key) (Record, bool) {
		i := slices.IndexFunc(list, func(r Record) bool { return r.Key == key })
		if i < 0 {
			return Record{}, false
		}
		return list[i], true
	}
	for _, r := range after {
		old, known := has(before, r.Key)
		switch {
		case slices.Contains(p.Revoked, r.ID):
			t.Fatalf("%s: %s is revoked", where, r.ID)
		case known && !old.FirstSeenAt.Equal(r.FirstSeenAt):
			t.Fatalf("%s: %s has another FirstSeenAt", where, r.ID)
		case !known && !slices.Contains(fetched, r.Key):
			t.Fatalf("%s: %s comes from nowhere", where, r.ID)
		case len(fetched) > 0 && r.RetiredAt.IsZero() && !slices.Contains(fetched, r.Key):
			t.Fatalf("%s: %s is not published and not retired", where, r.ID)
		case !r.RetiredAt.IsZero() && !r.RetiredAt.Add(p.Retention).After(p.Now.Truncate(time.Second)):
			t.Fatalf("%s: %s is past its retention", where, r.ID)
		}
	}
	for _, key := range fetched {
		if r, there := has(after, key); !slices.Contains(p.Revoked, key.ID) && len(fetched) <= MaxRecords && (!there || !r.RetiredAt.IsZero()) {
			t.Fatalf("%s: %s is published and not kept", where, key.ID)
		}
	}
}
