// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestQueueGoesRoundTenants(t *testing.T) {
	tenant := func(item string) string { return strings.SplitN(item, "/", 2)[0] }
	expires := map[string]time.Time{"a/first": start, "a/second": start.Add(1), "a/third": start.Add(2)}
	q := NewQueue(tenant, func(item string) Need { return Need{ExpiresAt: expires[item]} })
	for _, item := range []string{"a/never", "a/third", "a/second", "a/first", "b/0", "b/1", "c/0"} {
		q.Push(item)
	}
	q.Touch("c/0")
	var got []string
	for q.Len() > 4 {
		got = append(got, q.Pop())
	}
	q.Push("d/0")
	q.Push("b/2")
	for q.Len() > 0 {
		got = append(got, q.Pop())
	}
	const want = "[a/first b/0 c/0 a/second b/1 d/0 a/third b/2 a/never]"
	if fmt.Sprint(got) != want {
		t.Errorf("the order is %v, want %v", got, want)
	}
	if len(q.tenants) != 0 || len(q.turns) != 0 {
		t.Error("tenants without items are kept")
	}
}

// TestATenantsFloodDelaysOthersByOneItem: of ten thousand items of one tenant, at most one comes
// before another tenant's item.
func TestATenantsFloodDelaysOthersByOneItem(t *testing.T) {
	q := NewQueue(func(item int) string { return fmt.Sprint(item < 10000) }, nil)
	for i := range 10000 {
		q.Push(i)
	}
	q.Pop()
	q.Push(10000)
	if first, second := q.Pop(), q.Pop(); first != 10000 && second != 10000 {
		t.Errorf("%d and %d were before it", first, second)
	}
}

func TestPlacesAreSharedAmongTenants(t *testing.T) {
	take := func(p *Places, now time.Time, tenant, endpoint string) (n int) {
		for p.Take(now, tenant, endpoint, 0) != nil {
			n++
		}
		return n
	}
	quick := func(p *Places, now time.Time, endpoints ...string) {
		for _, e := range endpoints {
			p.Give(now, p.Take(now, "any", e, 0), true)
		}
	}
	t.Run("a quick endpoint's tenant alone gets half", func(t *testing.T) {
		p := NewPlaces(20)
		quick(p, start, "quick", "other")
		if n := take(p, start, "a", "quick"); n != 10 {
			t.Errorf("a tenant has %d places, want 10", n)
		}
		if n := take(p, start, "b", "other"); n != 5 {
			t.Errorf("a second one has %d places, want 5", n)
		}
	})
	t.Run("slow endpoints leave places for quick ones, whoever names them", func(t *testing.T) {
		p := NewPlaces(20)
		quick(p, start, "quick")
		slow := 0
		for i := range 100 {
			slow += take(p, start, fmt.Sprint("evil-", i), fmt.Sprint("slow-", i))
		}
		if slow > 15 {
			t.Errorf("slow endpoints have %d places, want 15 at most", slow)
		}
		if p.Take(start, "good", "quick", 0) == nil {
			t.Error("there is none for a quick endpoint")
		}
	})
	t.Run("a tenant's slow endpoints leave places for another's new one", func(t *testing.T) {
		p := NewPlaces(10)
		for i := range 40 {
			take(p, start, "evil", fmt.Sprint("slow-", i))
		}
		if p.Take(start, "good", "new", 0) == nil {
			t.Error("there is none for it")
		}
	})
	t.Run("a quick endpoint that becomes slow counts as slow at once, until it was quick for a while", func(t *testing.T) {
		p := NewPlaces(20)
		quick(p, start, "turncoat", "quick")
		held := p.Take(start, "evil", "turncoat", 0)
		late := start.Add(slowAfter + time.Second)
		if n := take(p, late, "evil", "turncoat"); n != 7 {
			t.Errorf("it has %d more places, want 7", n)
		}
		for h := range p.held {
			if h != held {
				p.Give(late, h, true)
			}
		}
		p.Give(late, held, true)
		for i := range regained {
			if p.owed["turncoat"] == 0 {
				t.Errorf("it counts as quick after %d answers", i)
			}
			quick(p, late, "turncoat")
		}
		if n := take(p, late, "evil", "turncoat"); n != 10 {
			t.Errorf("it has %d places, want 10", n)
		}
	})
	t.Run("one worker is enough, and a place is given back once", func(t *testing.T) {
		p := NewPlaces(0)
		only := p.Take(start, "a", "e", 0)
		if only == nil || p.Take(start, "b", "f", 0) != nil {
			t.Fatal("one worker has other than one place")
		}
		p.Give(start, only, true)
		p.Give(start, only, true)
		if p.Take(start, "b", "f", 0) == nil || p.Take(start, "c", "g", 0) != nil {
			t.Error("one worker has other than one place")
		}
	})
}
