// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

func TestPlanWaits(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	early := refresh.Spread("uid", time.Hour/10)
	synced := func(change func(*Plan)) Plan {
		p := Plan{Wants: "a", Tries: "a1", Synced: "a", SyncedAt: now.Add(-10 * time.Minute), Interval: time.Hour, Seed: "uid"}
		change(&p)
		return p
	}
	failing := func(change func(*Plan)) Plan {
		return synced(func(p *Plan) {
			p.Failure = Failure{Attempts: 3, Tried: "a1", NextAt: now.Add(time.Minute)}
			change(p)
		})
	}
	for name, tc := range map[string]struct {
		plan   Plan
		want   time.Duration
		agrees bool
	}{
		"never compared":                             {plan: Plan{Wants: "a", Tries: "a1", Interval: time.Hour}},
		"compared a while ago":                       {plan: synced(func(*Plan) {}), want: 50*time.Minute - early, agrees: true},
		"compared just now":                          {plan: synced(func(p *Plan) { p.SyncedAt = now }), want: time.Hour - early, agrees: true},
		"compared too long ago":                      {plan: synced(func(p *Plan) { p.SyncedAt = now.Add(-time.Hour) }), agrees: true},
		"another object is compared at another time": {plan: synced(func(p *Plan) { p.Seed = "x" }), want: 50*time.Minute - refresh.Spread("x", time.Hour/10), agrees: true},
		"compared by a clock that was ahead":         {plan: synced(func(p *Plan) { p.SyncedAt = now.Add(time.Minute) }), want: 61*time.Minute - early, agrees: true},
		"something else is declared":                 {plan: synced(func(p *Plan) { p.Wants, p.Tries = "b", "b1" })},
		"the server is configured differently":       {plan: synced(func(p *Plan) { p.Tries = "a2" }), want: 50*time.Minute - early, agrees: true},
		"somebody saw that the server differs":       {plan: synced(func(p *Plan) { p.Requested = true }), agrees: true},
		"a credential is due":                        {plan: synced(func(p *Plan) { p.CredentialsDue = now }), agrees: true},
		"a credential was due":                       {plan: synced(func(p *Plan) { p.CredentialsDue = now.Add(-time.Hour) }), agrees: true},
		"a credential is due soon":                   {plan: synced(func(p *Plan) { p.CredentialsDue = now.Add(time.Minute) }), want: time.Minute, agrees: true},
		"a credential is due much later":             {plan: synced(func(p *Plan) { p.CredentialsDue = now.Add(24 * time.Hour) }), want: 50*time.Minute - early, agrees: true},

		"it failed":                                     {plan: failing(func(*Plan) {}), want: time.Minute},
		"it failed and is due":                          {plan: failing(func(p *Plan) { p.Failure.NextAt = now })},
		"it failed and is overdue":                      {plan: failing(func(p *Plan) { p.Failure.NextAt = now.Add(-time.Hour) })},
		"it failed and was never compared":              {plan: failing(func(p *Plan) { p.SyncedAt, p.Synced = time.Time{}, "" }), want: time.Minute},
		"it failed for what is not declared any more":   {plan: failing(func(p *Plan) { p.Wants, p.Tries = "b", "b1" })},
		"it failed at a server configured differently":  {plan: failing(func(p *Plan) { p.Tries = "a2" })},
		"it failed, and a request does not hurry it":    {plan: failing(func(p *Plan) { p.Requested = true }), want: time.Minute},
		"it failed, and a credential does not hurry it": {plan: failing(func(p *Plan) { p.CredentialsDue = now }), want: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.plan.Wait(now); got != tc.want {
				t.Errorf("wait %s, want %s", got, tc.want)
			}
			if got := tc.plan.Agrees(); got != tc.agrees {
				t.Errorf("agrees: %t, want %t", got, tc.agrees)
			}
		})
	}
}

func TestPlanFails(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 1, time.UTC)
	down := &Error{Kind: Unavailable, Message: "no answer"}
	for name, tc := range map[string]struct {
		before Failure
		err    error
		want   int
	}{
		"for the first time":           {err: down, want: 1},
		"once more":                    {before: Failure{Attempts: 4, Tried: "a1"}, err: down, want: 5},
		"after another declaration":    {before: Failure{Attempts: 4, Tried: "b1"}, err: down, want: 1},
		"more often than can be kept":  {before: Failure{Attempts: math.MaxInt32, Tried: "a1"}, err: down, want: mostAttempts},
		"in the server's own words":    {err: &Error{Kind: Unavailable, Status: 429, RetryAfter: 10 * time.Minute}, want: 1},
		"in a way that drivers do not": {err: errors.New("odd"), want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := Plan{Wants: "a", Tries: "a1", Failure: tc.before, Interval: time.Hour, Seed: "uid"}
			got := p.Failed(now, tc.err)
			if got.Attempts != tc.want || got.Tried != "a1" {
				t.Errorf("%+v", got)
			}
			if least := now.Add(RetryIn(tc.err, tc.want, "uid")); got.NextAt.Before(least) || !got.NextAt.Before(least.Add(time.Second)) || got.NextAt.Nanosecond() != 0 {
				t.Errorf("next at %s, want %s rounded up to the second", got.NextAt, least)
			}
			p.Failure = got
			if wait := p.Wait(now); wait != got.NextAt.Sub(now) {
				t.Errorf("then it waits %s", wait)
			}
		})
	}
}

// TestPlanFailsToTheSecond: a wait that ends on a second is not rounded.
func TestPlanFailsToTheSecond(t *testing.T) {
	down := &Error{Kind: Unavailable, Message: "no answer"}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := Plan{Wants: "a", Tries: "a1", Interval: time.Hour, Seed: "uid"}
	for late, want := range map[time.Duration]time.Time{0: at, 1: at.Add(time.Second), -1: at} {
		if got := p.Failed(at.Add(late-RetryIn(down, 1, "uid")), down); !got.NextAt.Equal(want) {
			t.Errorf("%d ns late: next at %s, want %s", late, got.NextAt, want)
		}
	}
}

func TestRetryIn(t *testing.T) {
	refused := []ErrorKind{NotFound, Conflict, Refused, Forbidden}
	for _, kind := range refused {
		if got, want := RetryIn(&Error{Kind: kind}, 3, "uid"), refresh.SlowBackoff.Next(3, 0, "uid"); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
	for name, err := range map[string]error{"no answer": &Error{Kind: Unavailable}, "wrapped": fmt.Errorf("sync: %w", &Error{Kind: Unavailable}), "another error": errors.New("odd")} {
		if got, want := RetryIn(err, 3, "uid"), refresh.RetryBackoff.Next(3, 0, "uid"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for _, kind := range append(refused, Unavailable) {
		if got := RetryIn(&Error{Kind: kind, RetryAfter: 20 * time.Minute}, 1, "uid"); got < 20*time.Minute || got > 24*time.Minute {
			t.Errorf("%s with Retry-After: %s, want 20 to 24 minutes", kind, got)
		}
	}
}
