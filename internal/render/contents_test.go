// SPDX-License-Identifier: Apache-2.0

package render

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestContentsKeepTheTimeOfWhatStays(t *testing.T) {
	var (
		beginning = time.Time{}
		first     = time.Date(2026, 11, 24, 12, 0, 0, 123e6, time.UTC)
		second    = first.Add(time.Minute)
	)
	bundle := func(change ...func(*Bundle)) Bundle {
		b := Bundle{Issuer: "https://auth.example.com", Audience: "api", Keys: []Key{{ID: "a", JWK: "A"}, {ID: "b", JWK: "B"}}}
		for _, c := range change {
			c(&b)
		}
		return b
	}
	type since struct {
		Terms time.Time
		Keys  map[string]time.Time
	}
	for name, tc := range map[string]struct {
		next  Bundle
		extra map[string]string
		want  since
	}{
		"nothing changed": {next: bundle(), want: since{beginning, map[string]time.Time{"a": beginning, "b": first}}},
		"the order of the keys does not matter": {
			next: bundle(func(b *Bundle) { b.Keys[0], b.Keys[1] = b.Keys[1], b.Keys[0] }),
			want: since{beginning, map[string]time.Time{"a": beginning, "b": first}},
		},
		"a key came": {
			next: bundle(func(b *Bundle) { b.Keys = append(b.Keys, Key{ID: "c", JWK: "C"}) }),
			want: since{beginning, map[string]time.Time{"a": beginning, "b": first, "c": second}},
		},
		"a key went": {
			next: bundle(func(b *Bundle) { b.Keys = b.Keys[1:] }),
			want: since{beginning, map[string]time.Time{"b": first}},
		},
		"another key under an old ID": {
			next: bundle(func(b *Bundle) { b.Keys[0].JWK = "Z" }),
			want: since{beginning, map[string]time.Time{"a": second, "b": first}},
		},
		"a second key under an ID": {
			next: bundle(func(b *Bundle) { b.Keys = append(b.Keys, Key{ID: "b", JWK: "B2"}) }),
			want: since{beginning, map[string]time.Time{"a": beginning, "b": second}},
		},
		"a scope came": {
			next: bundle(func(b *Bundle) { b.Scopes = []Scope{{Name: "s"}} }),
			want: since{second, map[string]time.Time{"a": beginning, "b": first}},
		},
		"another file": {
			next: bundle(), extra: map[string]string{"x": "y"},
			want: since{second, map[string]time.Time{"a": beginning, "b": first}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := bundle(func(b *Bundle) { b.Keys = b.Keys[:1] })
			before := ContentsOf(bundle(), nil).Since(ContentsOf(start, nil), first)
			next := ContentsOf(tc.next, tc.extra).Since(before, second)
			got := since{next.TermsSince, map[string]time.Time{}}
			for id, k := range next.Keys {
				got.Keys[id] = k.Since
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
