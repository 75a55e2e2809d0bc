// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLoads follows what an endpoint's load says.
func TestLoads(t *testing.T) {
	s := newTurnstile(t, 20)
	shared, small := endpointOf("shared", 10, 4), endpointOf("small", 2, 1)
	small.Account, small.Route = "shared", "shared"
	for _, e := range []Endpoint{shared, small} {
		s.Abandon(s.now, s.admitted(e, of("b", e.Owner)))
	}
	s.at(time.Minute)
	is := func(what string, want map[string]Load) {
		t.Helper()
		if diff := cmp.Diff(want, s.Loads(s.now)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", what, diff)
		}
	}
	var tickets []*Ticket
	tickets = append(tickets, s.admitted(shared, of("a", "0")))
	is("one request", map[string]Load{"shared": {PerSecond: 10, Used: .25}, "small": {PerSecond: 2, Used: .25}})
	for _, c := range []string{"1", "2", "3"} {
		tickets = append(tickets, s.admitted(shared, of("a", c)))
	}
	s.waits(shared, of("a", "4"), CauseBudget)
	s.waits(shared, of("b", "5"), CauseBudget)
	is("two that wait", map[string]Load{"shared": {PerSecond: 10, Used: 1, Queued: 2}, "small": {PerSecond: 2, Used: 1, Queued: 2}})

	s.at(time.Minute + 30*time.Second) // neither came in time
	is("a while", map[string]Load{"shared": {PerSecond: 10}, "small": {PerSecond: 2}})

	for _, ticket := range tickets[:3] {
		s.Done(s.now, ticket, Failed, 0)
	}
	for _, c := range []string{"4", "5"} {
		s.Done(s.now, s.admitted(shared, of("a", c)), Failed, 0)
	}
	stopped := s.Loads(s.now)["shared"]
	if stopped.Open || stopped.StoppedTenants != 1 {
		t.Errorf("after five failures of a tenant: %+v", stopped)
	}
	s.at(time.Minute + 40*time.Second)
	for _, c := range []string{"6", "7", "8", "9", "10"} {
		if answer := s.ask(shared, of(c, c)); answer.Ticket != nil {
			s.Done(s.now, answer.Ticket, Unanswered, 0)
		}
		s.now = s.now.Add(time.Second)
	}
	if open := s.Loads(s.now)["shared"]; !open.Open || open.StoppedTenants != 0 {
		t.Errorf("after five requests without an answer: %+v", open)
	}
	if open := s.Loads(s.now.Add(10 * time.Minute))["shared"]; open.Open {
		t.Error("the breaker counts as open although nobody tries any more")
	}
	s.Forget("shared")
	s.Forget("small")
	is("the end", map[string]Load{})
}
