// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// queueOf returns a queue with some entries that replace a token and some that do not.
func queueOf(tag, due, others int) *queue {
	q := &queue{tag: tag}
	for i := range due {
		q.entries = append(q.entries, &entry{Need: holding("mine", fmt.Sprint(i), time.Duration(2*i)*time.Minute)})
	}
	for i := range others {
		n := of("mine", fmt.Sprint(i))
		n.Since = start.Add(time.Duration(2*i) * time.Minute)
		q.entries = append(q.entries, &entry{Need: n})
	}
	return q
}

// TestFinishAndBefore compares both with what they mean: the costs of all turns up to an entry, and how many entries
// end before another tenant's, or at the same time with a greater need.
func TestFinishAndBefore(t *testing.T) {
	for _, virtual := range []int{0, 3} {
		for _, tag := range []int{0, 3, 5} {
			for due := range 4 {
				for others := range 4 {
					q, ends, at := queueOf(tag, due, others), []int{}, max(tag, virtual)
					for range due {
						at++
						ends = append(ends, at)
					}
					for range others + 1 { // one more may come
						at += newcomerCost
						ends = append(ends, at)
					}
					if got := q.due(); got != due {
						t.Errorf("%d replace a token, want %d", got, due)
					}
					for i, want := range ends {
						if got := q.finish(virtual, i); got != want {
							t.Errorf("tag %d at %d, %d due and %d others: the turn %d ends at %d, want %d", tag, virtual, due, others, i, got, want)
						}
					}
					for finish := range 16 {
						for _, n := range needsOfAnother() {
							want := 0
							for i, p := range q.entries {
								if ends[i] < finish || ends[i] == finish && p.Compare(n) < 0 {
									want++
								}
							}
							if got := q.before(virtual, finish, n); got != want {
								t.Errorf("tag %d at %d, %d due and %d others: %d come before %+v that ends at %d, want %d", tag, virtual, due, others, got, n, finish, want)
							}
						}
					}
				}
			}
		}
	}
}

// needsOfAnother returns needs of another tenant, between those of queueOf.
func needsOfAnother() (all []Need) {
	for i := range 5 {
		all = append(all, holding("other", "x", time.Duration(2*i-1)*time.Minute))
		n := of("other", "x")
		n.Since = start.Add(time.Duration(2*i-1) * time.Minute)
		all = append(all, n)
	}
	return all
}

// TestReadyAhead counts those of a tenant that replace a token, are ahead, and lack a place only.
func TestReadyAhead(t *testing.T) {
	l := newLine(Budget{1, 1})
	var entries []*entry
	for _, n := range []Need{expiring("0", 0), expiring("1", time.Minute), expiring("2", 2*time.Minute), newcomer("3"), newcomer("4")} {
		p, _ := l.ask(start, n)
		entries = append(entries, p)
	}
	entries[0].ready, entries[2].ready, entries[3].ready = true, true, true
	for i, want := range []int{0, 1, 1, 2, 2} {
		if got := l.readyAhead(entries[i]); got != want {
			t.Errorf("%d are ahead of number %d, want %d", got, i, want)
		}
	}
}

// TestWaitForAPlace: the further back in line, the longer, in steps of as many as twice the workers.
func TestWaitForAPlace(t *testing.T) {
	s, e := newTurnstile(t, 4), endpointOf("slow", 1000, 1000)
	s.admitted(e, newcomer("one"))
	s.admitted(e, newcomer("two"))
	for i := range 40 {
		n := newcomer(fmt.Sprint(i))
		n.Since = start.Add(time.Duration(i))
		step := 1 + i/8
		if wait := s.waits(e, n, CausePlaces); wait < time.Duration(100*step)*time.Millisecond || wait >= time.Duration(300*step)*time.Millisecond {
			t.Errorf("the client at %d waits %s", i, wait)
		}
	}
}

// TestVirtualTime follows what tenants have used: time goes with the one that has used least of those that wait, and who
// waits no longer and has used no more than that is forgotten.
func TestVirtualTime(t *testing.T) {
	l, entries := newLine(Budget{1000, 1000}), map[string]*entry{}
	ask := func(needs ...Need) {
		for _, n := range needs {
			entries[n.Client], _ = l.ask(start, n)
		}
	}
	ask(holding("a", "a1", 0), holding("a", "a2", time.Minute), of("b", "b1"), of("b", "b2"))
	for _, step := range []struct {
		takes   string
		virtual int
		tags    map[string]int
	}{
		{"a1", 0, map[string]int{"a": 1, "b": 0}},
		{"b1", 1, map[string]int{"a": 1, "b": 2}},
		{"a2", 2, map[string]int{"b": 2}},
		{"b2", 2, map[string]int{"b": 4, "c": 2}},
		{"c1", 2, map[string]int{}},
	} {
		if step.takes == "b2" {
			ask(of("c", "c1"))
		}
		l.take(start, entries[step.takes])
		tags := map[string]int{}
		for tenant, q := range l.queues {
			tags[tenant] = q.tag
		}
		if diff := cmp.Diff(step.tags, tags); diff != "" || l.virtual != step.virtual {
			t.Errorf("after %s it is %d, want %d; what they have used (-want +got):\n%s", step.takes, l.virtual, step.virtual, diff)
		}
	}
}

// TestIdleTenants: a tenant that leaves is forgotten, unless it has used more than those that wait.
func TestIdleTenants(t *testing.T) {
	for name, leave := range map[string]func(l *line, p *entry){
		"alone":         func(l *line, p *entry) { l.leaveAsker(p.Asker) },
		"with its kind": func(l *line, p *entry) { l.drop(func(other *entry) bool { return other == p }) },
	} {
		l := newLine(Budget{1000, 1000})
		b, _ := l.ask(start, of("b", "b"))
		a, _ := l.ask(start, of("a", "a"))
		leave(&l, a)
		if l.queues["a"] != nil {
			t.Errorf("%s: it used nothing, and is remembered", name)
		}
		a, _ = l.ask(start, of("a", "a"))
		l.take(start, a)
		a, _ = l.ask(start, of("a", "a"))
		leave(&l, a)
		if q := l.queues["a"]; q == nil || q.tag != newcomerCost {
			t.Errorf("%s: what it used is forgotten", name)
		}
		leave(&l, b)
		if len(l.entries) != 0 || l.queues["b"] != nil {
			t.Errorf("%s: %d are in line, and queues of %d tenants", name, len(l.entries), len(l.queues))
		}
	}
}
